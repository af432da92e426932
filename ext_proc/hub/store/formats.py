"""ClickHouse's formats on the wire: content types, and how blocks of rows become one stream.

chDB writes every block of a streamed result as a document of its own. Formats of bare rows can be joined as they are;
where a block repeats the names of the columns, the repetition is cut; what has an end (JSON, Parquet) is not streamed.
"""

from __future__ import annotations

import re

_BARE = frozenset({
    "CSV", "JSONCompactEachRow", "JSONCompactStringsEachRow", "JSONEachRow", "JSONL", "JSONLines", "JSONStringsEachRow",
    "LineAsString", "NDJSON", "Native", "Null", "Raw", "RawBLOB", "RowBinary", "TSKV", "TSV", "TSVRaw", "TabSeparated",
    "TabSeparatedRaw",
})  # fmt: skip
_LINES = re.compile(
    r"(?:TSV|TabSeparated|TSVRaw|TabSeparatedRaw|JSONCompactEachRow|JSONCompactStringsEachRow)(WithNames(?:AndTypes)?)"
)
_CONTENT_TYPES = (
    (re.compile(r"JSON.*EachRow.*|JSONL(?:ines)?|NDJSON"), "application/x-ndjson; charset=UTF-8"),
    (re.compile(r"JSON.*"), "application/json; charset=UTF-8"),
    (re.compile(r"CSV"), "text/csv; charset=UTF-8; header=absent"),
    (re.compile(r"CSVWith.*"), "text/csv; charset=UTF-8; header=present"),
    (re.compile(r"TSV.*|TabSeparated.*"), "text/tab-separated-values; charset=UTF-8"),
    (re.compile(r"XML"), "application/xml; charset=UTF-8"),
    (
        re.compile(r"Native|RowBinary.*|Parquet|Arrow.*|ORC|MsgPack|BSON.*|RawBLOB"),
        "application/octet-stream",
    ),
)


def content_type(name: str) -> str:
    return next((kind for pattern, kind in _CONTENT_TYPES if pattern.fullmatch(name)), "text/plain; charset=UTF-8")


def streamable(name: str) -> bool:
    """Whether blocks of this format can be joined by `Joiner`."""
    return name in _BARE or name.startswith(("RowBinaryWith", "CSVWithNames")) or _LINES.fullmatch(name) is not None


class Joiner:
    """Joins the blocks of one streamed result, keeping the first header only."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._header: bytes | None = b"" if name in _BARE else None

    def join(self, block: bytes) -> bytes:
        if self._header is None:
            self._header = block[: _header_length(self._name, block)]
            return block
        if not block.startswith(self._header):
            # Never seen; a wrong cut would be silent, so it fails aloud.
            raise RuntimeError(f"a block of {self._name} does not repeat the header")
        return block[len(self._header) :]


def _header_length(name: str, block: bytes) -> int:
    rows = 2 if name.endswith("AndTypes") else 1
    if name.startswith("RowBinary"):
        return _row_binary_header(block, rows)
    if name.startswith("CSV"):
        return _csv_lines(block, rows)
    end = 0
    for _ in range(rows):
        end = block.index(b"\n", end) + 1
    return end


def _row_binary_header(block: bytes, groups: int) -> int:
    columns, position = _varint(block, 0)
    for _ in range(columns * groups):
        length, position = _varint(block, position)
        position += length
    return position


def _varint(block: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = block[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if not byte & 0x80:
            return value, position
        shift += 7


def _csv_lines(block: bytes, lines: int) -> int:
    """The end of the first lines; a quoted name may hold a line break."""
    quoted = False
    for position, byte in enumerate(block):
        if byte == 0x22:
            quoted = not quoted
        elif byte == 0x0A and not quoted:
            lines -= 1
            if not lines:
                return position + 1
    return len(block)
