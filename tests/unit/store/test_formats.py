from __future__ import annotations

import pytest

from ext_proc.hub.store.formats import Joiner, content_type, streamable
from ext_proc.hub.store.vocabulary import INPUT_FORMATS, OUTPUT_FORMATS


@pytest.mark.parametrize(
    ("name", "header", "rows"),
    [
        ("TSV", b"", (b"1\n", b"2\n")),
        ("TSVWithNames", b"a\tb\n", (b"1\t2\n", b"3\t4\n")),
        ("TSVWithNamesAndTypes", b"a\nUInt8\n", (b"1\n", b"3\n")),
        ("CSVWithNames", b'"a\n""b"\n', (b"1\n", b"2\n")),
        ("JSONCompactEachRowWithNamesAndTypes", b'["a"]\n["UInt8"]\n', (b"[1]\n", b"[2]\n")),
        ("RowBinaryWithNames", b"\x02\x01a\x01b", (b"\x00\x01", b"\x02\x03")),
        ("RowBinaryWithNamesAndTypes", b"\x01\x01a\x05UInt8", (b"\x00", b"\x01")),
    ],
)
def test_blocks_are_joined_under_one_header(name: str, header: bytes, rows: tuple[bytes, ...]) -> None:
    joiner = Joiner(name)
    assert b"".join(joiner.join(header + row) for row in rows) == header + b"".join(rows)


def test_a_long_header_in_row_binary() -> None:
    name = b"n" * 300
    header = b"\x01\xac\x02" + name
    joiner = Joiner("RowBinaryWithNames")
    assert joiner.join(header + b"\x00") + joiner.join(header + b"\x01") == header + b"\x00\x01"


def test_a_block_without_the_header_is_a_fault() -> None:
    joiner = Joiner("CSVWithNames")
    joiner.join(b'"a"\n1\n')
    with pytest.raises(RuntimeError):
        joiner.join(b'"b"\n1\n')


def test_documents_are_not_streamed() -> None:
    assert not any(map(streamable, ("JSON", "JSONCompact", "Parquet", "Arrow", "Pretty", "XML", "Values", "SQLInsert")))
    assert all(map(streamable, ("Native", "RowBinary", "JSONEachRow", "TabSeparatedWithNames", "CSVWithNamesAndTypes")))


def test_content_types() -> None:
    assert content_type("JSON") == "application/json; charset=UTF-8"
    assert content_type("JSONEachRow") == "application/x-ndjson; charset=UTF-8"
    assert content_type("TabSeparated").startswith("text/tab-separated-values")
    assert content_type("Native") == "application/octet-stream"
    assert content_type("Pretty").startswith("text/plain")


def test_no_format_reads_a_file() -> None:
    for name in INPUT_FORMATS | OUTPUT_FORMATS:
        assert not name.startswith(("Template", "Protobuf", "CapnProto", "Avro", "CustomSeparated"))
