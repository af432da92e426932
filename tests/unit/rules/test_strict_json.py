import time

import pytest

from ext_proc.rules.strict_json import MAX_DEPTH, StrictJsonError, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": [1, 2.5, "x", null, true]}', {"a": [1, 2.5, "x", None, True]}),
        (b' "\\u0069frame" ', "iframe"),
        (b'{"a": 1, "A": 2}', {"a": 1, "A": 2}),
        ("\u00e9".join('""').encode(), "\u00e9"),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, None),
        (b'"' + b"[" * 10_000 + b'\\"{"', "[" * 10_000 + '"{'),
    ],
)
def test_what_every_parser_reads_alike(text: bytes, value: object) -> None:
    found = parse(text)
    assert value is None or found == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"x": [{"type": "note", "\\u0074ype": "iframe"}]}', "twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        (b'"\xc3\x28"', "UTF-8"),
        (b"{} {}", "not JSON"),
        (b"", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"[1,]", "not JSON"),
        (b"// a\n{}", "not JSON"),
        (b'"a\nb"', "not JSON"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b"9" * 5000, "too long"),
    ],
)
def test_what_parsers_read_in_different_ways_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(StrictJsonError, match=said):
        parse(text)


def test_a_refusal_shows_nothing_of_the_text() -> None:
    with pytest.raises(StrictJsonError) as caught:
        parse(b'{"password": hunter2}')
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", [b'[[["' + b'\\"' * 300_000, b"[" * 1_000_000, b"[]," * 300_000, b'"{' * 300_000])
def test_hostile_text_takes_linear_time(text: bytes) -> None:
    """A scan that tried each quote again took minutes on the first of these."""
    began = time.process_time()
    with pytest.raises(StrictJsonError):
        parse(text, max_depth=2)
    assert time.process_time() - began < 2
