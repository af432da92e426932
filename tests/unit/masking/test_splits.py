"""Whatever the chunks, the record is the same and no secret is in it."""

from __future__ import annotations

import base64
import random

import pytest

from ext_proc.config.models import Masking
from ext_proc.masking import Known, Masker
from ext_proc.masking.spans import TAIL
from ext_proc.pb import journal_pb2

KEY = b"0123456789abcdef0123456789abcdef"
TOKEN = b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJyZXBvOmFjbWUvaW5mcmEifQ.c2lnbmF0dXJlLWJ5dGVz_-x"
KNOWN = (Known("token", TOKEN), Known("credential:api", b'p/q+r "s\\t0123456789', redact=True))
PEM = b"-----BEGIN RSA PRIVATE KEY-----\n" + b"MIIEowIBAAKCAQEAwq/+x9\n" * 12 + b"-----END RSA PRIVATE KEY-----\n"

TEXTS = {
    "github": (b'{"note": "use ghp_' + b"aB3" * 12 + b' please", "n": 1}', [b"ghp_" + b"aB3" * 12]),
    "password": (b'{"user": "x", "password": "correct horse, battery: 9", "z": [1, 2]}', [b"correct horse"]),
    "escaped": (b'{"log": "{\\"client_secret\\":\\"Zx9-kk3_mnop42\\"}"}', [b"Zx9-kk3_mnop42"]),
    "quote inside": (b'{"password": "ab\\"cd\\\\ef9x\\u00e9", "b": 1}', [b"cd", b"ef9x"]),
    "form": (b"user=a&api_key=0a1b2c3d4e5f60718293a4b5c6d7e8f9&page=2", [b"0a1b2c3d4e5f"]),
    "pem": (b'text\n' + PEM + b"after", [b"MIIEow"]),
    "pem in json": (b'{"k": "' + PEM.replace(b"\n", b"\\n") + b'", "b": 2}', [b"MIIEow"]),
    "url": (b"clone https://bot:s3cr3t-pw&x@git.example.com/a.git now", [b"s3cr3t-pw"]),
    "slack hook": (b"see https://hooks.slack.com/services/T0000000/B0000000/XXXXyyyyZZZZ1111aaaa ok", [b"T0000000"]),
    "jwt": (b"a.x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0 tail", [b"dozjgNry"]),
    "known": (b'{"a": "' + TOKEN + b'", "b": "' + TOKEN.hex().encode() + b'"}', [TOKEN, TOKEN.hex().encode()]),
    "known escaped": (b"x=p%2Fq%2br+%22s%5Ct0123456789&y=1", [b"0123456789"]),
    "header in text": (b"curl -H 'Authorization: Bearer abcDEF123456ghiJKL7890' https://x", [b"abcDEF123456"]),
    "nothing": (b'{"widgets": [{"definition": {"type": "timeseries", "q": "avg:system.cpu.user{*}"}}]}', []),
}  # fmt: skip
TEXTS |= {
    "escaped quotes": (b'{"log": "{\\u0022client_secret\\u0022:\\u0022Zx9-kk3_mnop42\\u0022}"}', [b"Zx9-kk3_mnop42"]),
    "base64": (
        b'{"data": "' + base64.b64encode(b'{"user": "x", "password": "hunter2x!"}') + b'", "n": 1}',
        [b"aHVudGVyMngh"],
    ),
    "base64 in base64": (
        b"x "
        + base64.b64encode(b'{"auth": "' + base64.b64encode(b'{"client_secret": "Zx9-kk3_mnop42"}') + b'"}')
        + b" y",
        [],
    ),
    "wrapped base64": (
        b'{"content": "' + base64.encodebytes(b"name: x\nkind: Secret\n" * 4 + PEM).replace(b"\n", b"\\n") + b'"}',
        [],
    ),
    "lines of base64": (b"file:\n" + base64.encodebytes(b"name: x\nkind: Secret\n" * 4 + PEM) + b"\nafter", []),
    "percent": (b"a=1&payload=%7B%22user%22%3A%22x%22%2C%22password%22%3A%22hunter2x%21%22%7D&b=2", [b"hunter2x"]),
    "command": (
        b"run: mysql -u root --password Sne3sd8AZjq -h db; curl -u 'api:d2LkV78zLx!t' https://x",
        [b"Sne3sd8", b"d2LkV78"],
    ),
    "xml": (b"<a><dbPassword>\n  correct horse 9\n</dbPassword><token>x</token></a>", [b"correct horse"]),
    "multipart": (
        b'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\npass word 7\r\n--b--',
        [b"pass word 7"],
    ),
    "pair": (b'{"env": [{"name": "DB_PASSWORD", "value": "s3cr3t;pw x"}, {"name": "A", "value": "b"}]}', [b"s3cr3t"]),
    "entities": (b'<input title="Your password: &quot;g1re0g1Pa5$w0Rd&quot;">', [b"g1re0g1"]),
    "typed": (b'var db_token string = "Zx9kk3mnop42" // and password :::= "a b c 1"', [b"Zx9kk3", b"a b c"]),
    "compared": (b'if ("p4ss w0rd{}" == my_password) { return }', [b"p4ss w0rd"]),
    "sql": (b"CREATE USER foo IDENTIFIED BY 'SqLpa5sW0rD' ACCOUNT UNLOCK", [b"SqLpa5"]),
    "named key": (
        b'{"key": "d741d8c6306d17830b9af57d6dc1825d", "keyname": "x", "auth":"q8Zk2LmN0pX7rT4v"}',
        [b"d741d8", b"q8Zk2"],
    ),
    "slack path": (b"POST /services/T0A1B2C3D/B0A1B2C3D/abcdEFGHijklMNOPqrstUVWX HTTP/1.1", [b"abcdEFGH"]),
    "discord": (b"token MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs, ok", [b"MTk4Nj"]),
    "quoted": (b'x = "I6FwzQZFL9l44nviI1F04OTmorMaVQf9GS4Oe07qxLvNkW6CRas4Lo42" # y', [b"I6FwzQ"]),
}


@pytest.fixture(scope="module")
def masker() -> Masker:
    return Masker(Masking(), KEY, 1 << 26)


def fed(masker: Masker, chunks: list[bytes]) -> tuple[bytes, list[journal_pb2.Mask], bytes]:
    body = masker.exchange(KNOWN).body(journal_pb2.REQUEST, b"application/json", b"")
    record = release = b""
    masks: list[journal_pb2.Mask] = []
    for n, chunk in enumerate(chunks):
        step = body.feed(chunk, n == len(chunks) - 1)
        record += step.record
        release += step.release
        masks += step.masks
        unmasked = len(record) + sum(m.original_length - m.length for m in masks)
        assert len(release) <= unmasked
    return record, masks, release


def restored(record: bytes, masks: list[journal_pb2.Mask], original: bytes) -> bytes:
    """The original bytes put back where the masks say they were."""
    out = b""
    at = taken = 0
    for mask in masks:
        out += record[at : mask.start]
        taken += mask.start - at
        mark = record[mask.start : mask.start + mask.length]
        assert mark.strip(b'"') == f"[MASKED:{mask.detector}:{mask.fingerprint}]".encode()
        out += original[taken : taken + mask.original_length]
        taken += mask.original_length
        at = mask.start + mask.length
    return out + record[at:]


@pytest.mark.parametrize("name", TEXTS)
def test_each_secret_is_masked_whole(masker: Masker, name: str) -> None:
    text, secrets = TEXTS[name]
    record, masks, release = fed(masker, [text])
    assert bool(masks) == (name != "nothing")
    assert not [s for s in secrets if s in record]
    assert release == text
    assert restored(record, masks, text) == text


@pytest.mark.parametrize("name", TEXTS)
def test_every_single_split(masker: Masker, name: str) -> None:
    text, _ = TEXTS[name]
    whole = fed(masker, [text])
    for at in range(len(text) + 1):
        assert fed(masker, [text[:at], text[at:]]) == whole, at


@pytest.mark.parametrize("name", TEXTS)
def test_one_byte_at_a_time(masker: Masker, name: str) -> None:
    text, _ = TEXTS[name]
    assert fed(masker, [text[i : i + 1] for i in range(len(text))] + [b""]) == fed(masker, [text])


def test_random_splits_of_everything(masker: Masker) -> None:
    chance = random.Random(7)
    text = b"\n".join(t for t, _ in TEXTS.values()) * 3
    whole = fed(masker, [text])
    for _ in range(60):
        cuts = sorted(chance.randrange(len(text)) for _ in range(chance.randrange(1, 40)))
        chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert fed(masker, chunks) == whole


def test_the_tail_is_bounded(masker: Masker) -> None:
    body = masker.exchange().body(journal_pb2.REQUEST, b"", b"")
    fed_bytes = released = 0
    for _ in range(50):
        fed_bytes += 1000
        released += len(body.feed(b"A" * 1000, last=False).release)
        assert fed_bytes - released <= TAIL + 1000


@pytest.mark.parametrize("chunk", [1, 700, 5000, 100_000])
def test_a_secret_longer_than_the_tail_is_masked_to_its_end(masker: Masker, chunk: int) -> None:
    value = b"Secret9/" * 3000
    text = b'{"password": "' + value + b'", "after": "kept"}'
    if chunk == 1:
        value = b"Secret9/" * 700
        text = b'{"password": "' + value + b'", "after": "kept"}'
    record, masks, release = fed(masker, [text[i : i + chunk] for i in range(0, len(text), chunk)] + [b""])
    assert b"Secret9" not in record
    assert record.endswith(b'", "after": "kept"}')
    assert sum(m.original_length for m in masks) == len(value)
    assert release == text


def test_a_long_private_key_in_small_chunks(masker: Masker) -> None:
    key = b"-----BEGIN PRIVATE KEY-----\n" + b"MIIEowIBAAKCAQEAwq/+x9\n" * 400 + b"-----END PRIVATE KEY-----\nrest"
    record, _, _ = fed(masker, [key[i : i + 333] for i in range(0, len(key), 333)])
    assert b"MIIE" not in record
    assert record.endswith(b"-----END PRIVATE KEY-----\nrest")


def test_interactive_bodies_are_released_at_once(masker: Masker) -> None:
    body = masker.exchange(KNOWN).body(journal_pb2.RESPONSE, b"text/event-stream", b"", interactive=True)
    first = body.feed(b"data: ghp_aB3aB3aB3", last=False)
    assert first.release == b"data: ghp_aB3aB3aB3"
    assert b"ghp_" not in first.record
    second = body.feed(b"aB3" * 9 + b"\n\n", last=False)
    assert b"ghp_" not in second.record
    assert [m.detector for m in second.masks] == ["github"]
