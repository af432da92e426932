import pytest

from ext_proc.rules.multipart import MAX_PARTS, MultipartError, parts

TYPE = "multipart/form-data; boundary=xyz"
FILE = (
    b'--xyz\r\nContent-Disposition: form-data; name="f"; filename="a\\"b.json"'
    b"\r\nContent-Type: application/json\r\n\r\n{}"
)
TEXT = b"--xyz\r\ncontent-disposition: form-data; name=t\r\n\r\nline 1\r\nline 2"
END = b"\r\n--xyz--\r\n"


def test_parts_are_read() -> None:
    raw = b'--xyz\r\nContent-Disposition: form-data; name="r"\r\n\r\n\xff'
    assert parts(TYPE, FILE + b"\r\n" + TEXT + b"\r\n" + raw + END) == [
        {"name": "f", "filename": 'a"b.json', "content_type": "application/json", "size": 2, "text": "{}"},
        {"name": "t", "filename": "", "content_type": "text/plain", "size": 14, "text": "line 1\r\nline 2"},
        {"name": "r", "filename": "", "content_type": "text/plain", "size": 1},
    ]
    assert len(parts('Multipart/Form-Data; charset=utf-8; boundary="xyz"', TEXT + END)) == 1


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/mixed; boundary=xyz", TEXT + END),
        ("multipart/form-data", TEXT + END),
        ("multipart/form-data; boundary=xyz; boundary=abc", TEXT + END),
        ("multipart/form-data; boundary=", TEXT + END),
        ("multipart/form-data; boundary=" + "x" * 71, TEXT + END),
        ("multipart/form-data; boundary=xyz; boundary*=utf-8''abc", TEXT + END),
        ("multipart/form-data; boundary*0=xyz", TEXT + END),
        (TYPE, TEXT.replace(b"name=t\r\n", b"name=t\r\ncontent-type: text/plain; charset=utf-7\r\n") + END),
        (TYPE, b"preamble\r\n" + TEXT + END),
        (TYPE, TEXT),
        (TYPE, TEXT + END + b"epilogue"),
        (TYPE, TEXT.replace(b"\r\n", b"\n") + END),
        (TYPE, TEXT.replace(b"line 1", b"a --xyz b") + END),
        (TYPE, TEXT.replace(b"form-data;", b"attachment;") + END),
        (TYPE, TEXT.replace(b"name=t", b"name=t; name=u") + END),
        (TYPE, TEXT.replace(b"name=t", b"name=t; filename*=UTF-8''x") + END),
        (TYPE, TEXT.replace(b"name=t", b"filename=t") + END),
        (TYPE, TEXT.replace(b"name=t", b'name="t') + END),
        (TYPE, TEXT.replace(b"name=t\r\n", b"name=t\r\ncontent-transfer-encoding: base64\r\n") + END),
        (TYPE, TEXT.replace(b"name=t\r\n", b"name=t\r\ncontent-disposition: form-data; name=u\r\n") + END),
        (TYPE, TEXT.replace(b"name=t\r\n", b"name=t\r\n folded\r\n") + END),
        (TYPE, TEXT.replace(b"name=t\r\n", b"name=t\r\nx-a: " + b"a" * 3000 + b"\r\n") + END),
        (TYPE, (TEXT + b"\r\n") * (MAX_PARTS + 1) + END[2:]),
    ],
)
def test_what_can_be_read_in_several_ways_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(MultipartError):
        parts(content_type, body)


def test_hostile_heads_take_no_time() -> None:
    head = (b'; a="' * 300)[:1900]
    for body in (b"--xyz\r\ncontent-disposition: form-data" + head + b"\r\n\r\n" + END, b"--xyz" * 200_000):
        with pytest.raises(MultipartError):
            parts(TYPE, body)
    with pytest.raises(MultipartError):
        parts("multipart/form-data" + "; " * 20_000 + "boundary", b"")
