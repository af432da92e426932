"""Secrets within base64 and percent-encoding, also longer than a stream holds back."""

from __future__ import annotations

import base64
import random
import re
from urllib.parse import quote, quote_plus

import pytest

from ext_proc.config.models import Masking
from ext_proc.masking import Masker
from ext_proc.masking.search import WHOLE
from ext_proc.masking.spans import TAIL
from ext_proc.pb import journal_pb2

KEY = b"0123456789abcdef0123456789abcdef"
MASKER = Masker(Masking(), KEY, 1 << 26)
SECRETS = [f"Zx9kk3mnop{n:02d}abQ7" for n in range(40)]


def prose(size: int, chance: random.Random) -> str:
    return "".join(chance.choice("the quick brown fox jumps over lazy dogs ") for _ in range(size))


def text() -> bytes:
    chance = random.Random(5)
    return "\n".join(f"{prose(chance.randrange(20, 500), chance)}\npassword: {s}\n" for s in SECRETS).encode()


def record(body: bytes, size: int) -> bytes:
    masking = MASKER.exchange().body(journal_pb2.RESPONSE, b"application/json", b"")
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    steps = [masking.feed(piece, n == len(pieces)) for n, piece in enumerate(pieces, 1)]
    assert b"".join(step.release for step in steps) == body
    return b"".join(step.record for step in steps)


LONG = {
    "base64": b'{"data": "' + base64.b64encode(text()) + b'", "n": 1}',
    "base64, its lines escaped": b'{"data": "' + base64.encodebytes(text()).replace(b"\n", b"\\n") + b'"}',
    "base64 in lines": b"file:\n\n" + base64.encodebytes(text()) + b"\nend",
    "a form": b"a=1&b=" + quote_plus(text()).encode() + b"&c=2",
}


@pytest.mark.parametrize("form", LONG)
@pytest.mark.parametrize("size", [37, 700, TAIL, 9999])
def test_what_is_longer_than_the_tail_is_masked_alike_however_it_is_cut(form: str, size: int) -> None:
    body = LONG[form]
    assert len(body) > 2 * TAIL
    whole = record(body, len(body))
    assert whole.count(b"[MASKED:named:") == len(SECRETS)
    assert record(body, size) == whole
    flat = re.sub(rb"\\n|\n", b"", whole)
    for secret in map(str.encode, SECRETS):
        inner = [base64.b64encode(bytes(n) + secret)[(0, 2, 3)[n] : -4] for n in range(3)]
        assert not [form for form in (secret, *inner) if form in flat]


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        # Base64 with a secret in it tells nothing any more, so all of it goes; another value next to it stays.
        (
            b'{"a": "aGVsbG8gd29ybGQsIGhlbGxvIHdvcmxk", "b": "%s"}'
            % base64.b64encode(b'{"user": "x", "password": "hunter2x"}'),
            rb'\{"a": "aGVsbG8gd29ybGQsIGhlbGxvIHdvcmxk", "b": "\[MASKED:named:\w+\]"\}',
        ),
        (
            b"data: %s\n" % base64.urlsafe_b64encode(b"ghp_" + b"aB3d" * 9 + b" ok?~?~"),
            rb"data: \[MASKED:github:\w+\]\n",
        ),
        # Percent-encoded, only what encodes the secret is masked.
        (
            b"p=%7B%22password%22%3A%22h%C3%BCnter%202x%22%7D&q=1",
            rb"p=%7B%22password%22%3A%22\[MASKED:named:\w+\]%22%7D&q=1",
        ),
        (
            b"p=" + quote(quote('{"api_key": "Zx9kk3mnop42"}')).encode(),
            rb"p=%257B%2522api_key%2522%253A%2520%2522\[MASKED:named:\w+\]%2522%257D",
        ),
        (b"https://x.example/?q=service%3Aweb%20env%3Aprod", rb"https://x.example/\?q=service%3Aweb%20env%3Aprod"),
    ],
)
def test_within(body: bytes, stored: bytes) -> None:
    assert re.fullmatch(stored, record(body, len(body))), record(body, len(body))


def test_equal_secrets_have_equal_fingerprints_in_any_form() -> None:
    fingerprint = MASKER.fingerprint(b"hunter 2x")
    for body in (
        b'{"password":"hunter 2x"}',
        b"p=%7B%22password%22%3A%22hunter%202x%22%7D",
        b'{"x":"{\\"password\\":\\"hunter 2x\\"}"}',
    ):
        assert f":{fingerprint}]".encode() in record(body, len(body)), body


def test_a_long_run_without_a_secret_is_not_held_back() -> None:
    body = MASKER.exchange().body(journal_pb2.RESPONSE, b"", b"")
    run = base64.b64encode(prose(8 * WHOLE, random.Random(1)).encode())
    released = sum(len(body.feed(run[at : at + 500], last=False).release) for at in range(0, len(run), 500))
    assert len(run) - released <= TAIL + 500
