"""What a client gets in the place of a body that is masked for it."""

from __future__ import annotations

import gzip
import json
import random
from typing import Any

import pytest

from ext_proc.config.models import Masking
from ext_proc.exchange import Headers
from ext_proc.masking import AS_SENT, DECODED, ExchangeMasker, Known, Masker, codings, for_client
from ext_proc.response.bodies import Pieces, decoded, look

CREDENTIAL = b'real"key\\0123456789abcdef0123456789'
SECRET = "ghp_" + "a1B2c3D4e5F6" * 3
JSON = Headers([("content-type", b"application/json")])


@pytest.fixture(scope="module")
def masker() -> ExchangeMasker:
    settings = Masking.model_validate({"json": ["$.user", "$..email"]})
    known = [Known('credential:odd"name\\', CREDENTIAL, redact=True), Known("token", b"a" * 40)]
    return Masker(settings, b"k" * 32, 1 << 20).exchange(known)


def test_nothing_to_mask_is_the_very_bytes(masker: ExchangeMasker) -> None:
    for wire, headers in ((b'{"a": 1}', JSON), (gzip.compress(b"text"), Headers([("content-encoding", b"gzip")]))):
        text = decoded(headers, wire, 1000)
        assert text is not None
        looked = look(masker, headers, wire, text, shown="as recorded")
        assert (looked.record, looked.form, looked.instead, list(looked.masks)) == (wire, AS_SENT, None, [])


def test_what_the_client_is_shown_is_no_other_than_the_ledger_but_for_fingerprints(masker: ExchangeMasker) -> None:
    text = f"a {SECRET} b {'a' * 40} c".encode()
    headers = Headers([("content-encoding", b"gzip")])
    looked = look(masker, headers, gzip.compress(text), text, shown="as recorded")
    assert looked.form == DECODED
    assert looked.instead is not None
    assert looked.instead.count(b"[MASKED:") == looked.record.count(b"[MASKED:") == 2
    assert all(mask.fingerprint.encode() not in looked.instead for mask in looked.masks)
    assert all(mask.fingerprint.encode() in looked.record for mask in looked.masks)
    same = for_client(looked.record, looked.masks, keep_length=True)
    assert same == b"a " + b"*" * len(SECRET) + b" b " + b"*" * 40 + b" c"


def test_credentials_are_blanked_in_any_case(masker: ExchangeMasker) -> None:
    text = json.dumps({"echo": CREDENTIAL.decode(), "other": SECRET}).encode()
    blank = look(masker, JSON, text, text, shown=None).instead
    assert blank is not None
    assert len(blank) == len(text)
    assert json.loads(blank)["other"] == SECRET
    assert set(json.loads(blank)["echo"]) == {"*"}
    shown = look(masker, JSON, text, text, shown="as recorded").instead
    assert shown is not None
    assert json.loads(shown)["echo"] == "[MASKED:credential:odd_name_]"


def value(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(9 if depth else 6)
    if kind == 0:
        return chance.choice([1, -1.5e300, True, None, 10**30, 12345678901234567890])
    secret = chance.choice([SECRET, CREDENTIAL.decode(), "a" * 40])
    if kind == 1:
        return chance.choice([secret, "", 'quote " \\ and \u2028 \ud83d\ude00', "\x00\n"])
    if kind == 2:
        return chance.choice(["", "x=", "Bearer ", '"']) + secret + chance.choice(["", " y", "\\", '"'])
    if kind == 3:
        return "".join(chance.choices("abcdef0123456789ABCXYZ+/=_-.:", k=chance.randrange(60)))
    if kind == 4:
        return json.dumps({"password": "".join(chance.choices("abcdefXYZ0123456789", k=24)), "n": 1})
    if kind == 5:
        return "-----BEGIN PRIVATE KEY-----\n" + "QUJD" * 30 + "\n-----END PRIVATE KEY-----\n"
    if kind < 8:
        names = ["user", "email", "password", "api_key", "token", "id", "a" * 40, SECRET, 'o"dd', "secret", "x"]
        return {chance.choice(names): value(chance, depth - 1) for _ in range(chance.randrange(5))}
    return [value(chance, depth - 1) for _ in range(chance.randrange(4))]


def test_masked_json_stays_json(masker: ExchangeMasker) -> None:
    masked = 0
    for seed in range(3000):
        chance = random.Random(seed)
        style: dict[str, Any] = {"ensure_ascii": chance.random() < 0.5, "indent": chance.choice([None, 2])}
        document = {"user": value(chance, 2), "rest": value(chance, 4)}
        text = json.dumps(document, **style).encode("utf-8", "surrogatepass")
        looked = look(masker, JSON, text, text, shown="as recorded")
        if looked.instead is None:
            continue
        masked += 1
        json.loads(looked.instead)
        assert SECRET.encode() not in looked.instead
        assert b"a" * 40 not in looked.instead
    assert masked > 1000


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pieces_come_to_the_same(masker: ExchangeMasker, size: int) -> None:
    text = f"data: {SECRET}\n\ndata: {'a' * 40} and {CREDENTIAL.decode()}\n\n".encode()
    for headers, wire in ((Headers(), text), (Headers([("content-encoding", b"gzip")]), gzip.compress(text))):
        pieces = Pieces(masker, headers, framed=False, max_decoded=1000)
        chunks = [wire[i : i + size] for i in range(0, len(wire), size)]
        got = [pieces.feed(chunk, False).instead for chunk in chunks] + [pieces.feed(b"", True).instead]
        whole = look(masker, Headers(), text, text, shown="as recorded").instead
        assert b"".join(piece or b"" for piece in got) == whole
    framed = Pieces(masker, Headers(), framed=True, max_decoded=1000)
    got = [framed.feed(text[i : i + size], False).instead for i in range(0, len(text), size)]
    got.append(framed.feed(b"", True).instead)
    assert len(b"".join(piece or b"" for piece in got)) == len(text)


def test_what_cannot_be_read(masker: ExchangeMasker) -> None:
    coded = Headers([("content-encoding", b"gzip")])
    assert decoded(coded, b"not gzip", 1000) is None
    assert decoded(coded, gzip.compress(b"x" * 50)[:-3], 1000) is None
    assert decoded(Headers([("content-encoding", b"compress")]), b"x", 1000) is None
    with pytest.raises(codings.TooLargeError):
        decoded(coded, gzip.compress(b"x" * 1001), 1000)
