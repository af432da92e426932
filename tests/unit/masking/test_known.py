"""The caller's token and the credentials, in every form in which they may turn up."""

from __future__ import annotations

import base64
import html
import json
import random
import time
from urllib.parse import quote, quote_plus

import pytest

from ext_proc.config.models import Masking
from ext_proc.errors import DouaneError
from ext_proc.exchange import Headers
from ext_proc.masking import CredentialEchoError, Known, Masker
from ext_proc.masking.known import KnownSet
from ext_proc.pb import journal_pb2

KEY = b"0123456789abcdef0123456789abcdef"
VALUES = {
    "hex key": b"9f86d081884c7d659a2feaa0c55ad015",
    "reserved": b"a/b+c=d?e&f:g@h i%j\\k\"l'm",
    "base64ish": base64.b64encode(bytes(range(200, 255))),
    "short": b"abc-42",
    "unicode": "pässwörd-geheim-9".encode(),
}


def percent_all(value: bytes, lower: bool) -> bytes:
    return "".join((f"%{b:02x}" if lower else f"%{b:02X}") for b in value).encode()


FORMS = {
    "raw": lambda v: v,
    "base64": base64.b64encode,
    "base64 after 1": lambda v: base64.b64encode(b":" + v),
    "base64 after 2": lambda v: base64.b64encode(b"u:" + v),
    "base64 within": lambda v: base64.b64encode(b"user:" + v + b"tail!"),
    "base64url": lambda v: base64.urlsafe_b64encode(b"u:" + v).rstrip(b"="),
    "base64 quoted": lambda v: quote(base64.b64encode(v), safe="").encode(),
    "base64 in json": lambda v: base64.b64encode(v).replace(b"/", b"\\/"),
    "hex": lambda v: v.hex().encode(),
    "HEX": lambda v: v.hex().upper().encode(),
    "quote": lambda v: quote(v, safe="").encode(),
    "quote lower": lambda v: quote(v, safe="").lower().encode() if v.islower() else quote(v).encode(),
    "quote slash": lambda v: quote(v, safe="/").encode(),
    "quote plus": lambda v: quote_plus(v).encode(),
    "percent all": lambda v: percent_all(v, lower=False),
    "percent all lower": lambda v: percent_all(v, lower=True),
    "json": lambda v: json.dumps(v.decode(), ensure_ascii=False)[1:-1].encode(),
    "json slash": lambda v: json.dumps(v.decode(), ensure_ascii=False)[1:-1].replace("/", "\\/").encode(),
    "json u": lambda v: "".join(f"\\u{b:04x}" for b in v).encode() if v.isascii() else v,
    "json U": lambda v: "".join(f"\\u{b:04X}" for b in v).encode() if v.isascii() else v,
    "html": lambda v: html.escape(v.decode()).encode(),
}


@pytest.fixture(scope="module", params=["default", "none"])
def masker(request: pytest.FixtureRequest) -> Masker:
    return Masker(Masking(detectors=request.param), KEY, 1 << 26)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", VALUES)
def test_every_form_is_masked_and_has_one_fingerprint(masker: Masker, name: str, form: str) -> None:
    value = VALUES[name]
    encoded = FORMS[form](value)
    text = b'{"echo": "' + encoded + b'", "other": 1}'
    exchange = masker.exchange([Known("token", value)])
    body = exchange.body(journal_pb2.REQUEST, b"application/json", b"")
    step = body.feed(text, last=True)
    own = [m for m in step.masks if m.detector == "token"]
    assert [m.fingerprint for m in own] == [masker.fingerprint(value)], step.record
    middle = encoded[4:-4] if form.startswith("base64") else encoded
    assert not middle or middle not in step.record


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_found_one_byte_at_a_time(form: str) -> None:
    masker = Masker(Masking(detectors="none"), KEY, 1 << 26)
    for name, value in VALUES.items():
        text = b"before " + FORMS[form](value) + b" after"
        exchange = masker.exchange([Known("token", value)])
        whole = exchange.body(journal_pb2.REQUEST, b"", b"").feed(text, last=True)
        body = exchange.body(journal_pb2.REQUEST, b"", b"")
        steps = [body.feed(text[i : i + 1], last=i == len(text) - 1) for i in range(len(text))]
        assert b"".join(s.record for s in steps) == whole.record, name
        assert b"".join(s.release for s in steps) == text


def test_mixed_escapes_are_followed() -> None:
    masker = Masker(Masking(detectors="none"), KEY, 1 << 26)
    exchange = masker.exchange([Known("token", b"abcdefghijklmnop/qrst")])
    text = b"abcdefghijkl%6d\\u006eo%70\\/q\\x72st."
    assert exchange.body(journal_pb2.REQUEST, b"", b"").feed(text, last=True).record == (
        f"[MASKED:token:{masker.fingerprint(b'abcdefghijklmnop/qrst')}].".encode()
    )


def test_short_values_are_masked_only_as_a_whole_field() -> None:
    masker = Masker(Masking(detectors="none"), KEY, 1 << 26)
    exchange = masker.exchange([Known("placeholder", b"dummy")])
    stored, _ = exchange.headers("req_headers", Headers([("dd-api-key", b"dummy"), ("user-agent", b"dummy/1")]))
    assert stored[0][1].startswith(b"[MASKED:placeholder:")
    assert stored[1][1] == b"dummy/1"
    assert exchange.text("query", "a=dummy&b=dummys")[0].endswith("]&b=dummys")
    assert exchange.body(journal_pb2.REQUEST, b"", b"").feed(b"dummy", last=True).record == b"dummy"


def test_another_token_with_the_same_head_is_left_alone() -> None:
    masker = Masker(Masking(detectors="none"), KEY, 1 << 26)
    exchange = masker.exchange([Known("token", b"eyJhbGciOiJSUzI1NiJ9.AAAA.BBBB")])
    text = b"eyJhbGciOiJSUzI1NiJ9.CCCC.DDDD"
    assert exchange.body(journal_pb2.REQUEST, b"", b"").feed(text, last=True).record == text


CREDENTIAL = Known("credential:dd-api-key", b"real-key-0123456789abcdef", redact=True)


@pytest.mark.parametrize("interactive", [False, True])
def test_a_credentials_echo_is_blanked_for_the_client_at_any_split(interactive: bool) -> None:
    masker = Masker(Masking(), KEY, 1 << 26)
    exchange = masker.exchange([CREDENTIAL, Known("token", b"the-callers-own-token")])
    text = b'{"you sent": "real-key-0123456789abcdef", "and": "the-callers-own-token"}'
    blank = text.replace(CREDENTIAL.value, b"*" * len(CREDENTIAL.value))
    for at in range(len(text)):
        body = exchange.body(journal_pb2.RESPONSE, b"", b"", redact=True, interactive=interactive)
        steps = [body.feed(text[:at], last=False), body.feed(text[at:], last=True)]
        client = b"".join(s.release for s in steps)
        assert CREDENTIAL.value not in client
        assert CREDENTIAL.value[5:] not in client
        assert len(client) == len(text)
        if not interactive:
            assert client == blank
        assert CREDENTIAL.value not in b"".join(s.record for s in steps)


def test_an_echo_in_a_compressed_body_cuts_the_stream() -> None:
    import gzip

    masker = Masker(Masking(), KEY, 1 << 26)
    for interactive in (False, True):
        body = masker.exchange([CREDENTIAL]).body(
            journal_pb2.RESPONSE, b"", b"gzip", redact=True, interactive=interactive
        )
        with pytest.raises(CredentialEchoError) as caught:
            body.feed(gzip.compress(b"you sent real-key-0123456789abcdef"), last=True)
        assert caught.value.reason == "response.credential_echo"


def test_headers_are_redacted_for_the_client() -> None:
    masker = Masker(Masking(), KEY, 1 << 26)
    exchange = masker.exchange([CREDENTIAL])
    headers = Headers([("x-a", b"1"), ("x-echo", b"key=real-key-0123456789abcdef;"), ("x-a", CREDENTIAL.value)])
    assert exchange.redact_headers(headers) == [
        (1, "x-echo", b"key=" + b"*" * 25 + b";"),
        (2, "x-a", b"*" * 25),
    ]


def test_random_values_in_random_forms_never_survive() -> None:
    chance = random.Random(11)
    masker = Masker(Masking(), KEY, 1 << 26)
    for _ in range(150):
        value = bytes(chance.choice(b"abcXYZ019-_.~!$&()*+,;=:@/?") for _ in range(chance.randrange(6, 60)))
        form = chance.choice([f for f in FORMS if "base64" not in f])
        encoded = FORMS[form](value)
        exchange = masker.exchange([Known("token", value)])
        text = b"<" + encoded + b">"
        assert encoded not in exchange.body(journal_pb2.REQUEST, b"", b"").feed(text, last=True).record, (value, form)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"a" * 12_000 + b"b", b"a" * 60_000),
        (b"a" * 12_000 + b"b", (b"a" * 12 + b"%61") * 4_000),
        (b"ey" * 6_000 + b".a.b", b"ey" * 30_000),
        (b"a" * 12_000 + b"b", b"61" * 30_000),
        (b"a" * 12_000 + b"b", b"YWFh" * 15_000),
    ],
)
def test_no_text_costs_the_square_of_its_size(value: bytes, text: bytes) -> None:
    """Both are an unknown caller's: an identity header, and another header. It took 28 s, while all others waited."""
    known = KnownSet([Known("placeholder", value), CREDENTIAL])
    started = time.process_time()
    found, _ = known.find(text + CREDENTIAL.value, last=True)
    assert time.process_time() - started < 2
    assert found[-1].end == len(text) + len(CREDENTIAL.value)
    assert found[-1].known.redact  # where the search gives up, nothing that follows is shown


def test_a_credential_that_has_begun_waits_wherever_it_is_cut() -> None:
    """Beyond its head too: a server-sent event a byte at a time showed all of it but the last."""
    known = KnownSet([CREDENTIAL])
    for length in range(6, len(CREDENTIAL.value)):
        assert known.held_for_redaction(b"data: " + CREDENTIAL.value[:length]) == 6
    exchange = Masker(Masking(), KEY, 1 << 26).exchange([CREDENTIAL])
    body = exchange.body(journal_pb2.RESPONSE, b"", b"", redact=True, interactive=True)
    text = b"data: " + CREDENTIAL.value + b"\n\n"
    client = b"".join(body.feed(bytes([byte]), last=False).release for byte in text) + body.feed(b"", last=True).release
    assert client == b"data: " + CREDENTIAL.value[:5] + b"*" * (len(CREDENTIAL.value) - 5) + b"\n\n"


def test_one_body_can_only_hold_so_many_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 KB of gzip had 800,000: each is masked by itself, so that took 17 s and 300 MB."""
    monkeypatch.setattr("ext_proc.masking.body.MOST_MASKS", 10)
    import gzip

    for coding, text in (("", b"password=abcdefgh1X "), ("gzip", b"password=abcdefgh1X ")):
        body = Masker(Masking(), KEY, 1 << 26).exchange([]).body(journal_pb2.REQUEST, b"", coding.encode())
        with pytest.raises(DouaneError) as caught:
            body.feed(gzip.compress(text * 11) if coding else text * 11, last=True)
        assert caught.value.reason == "body.too_many_secrets"


def test_a_run_that_is_masked_to_its_end_is_looked_at_once() -> None:
    body = Masker(Masking(), KEY, 1 << 26).exchange([]).body(journal_pb2.REQUEST, b"", b"")
    started = time.process_time()
    step = body.feed(b"-----BEGIN RSA PRIVATE KEY-----" * 100_000, last=True)
    assert time.process_time() - started < 2, "it took five"
    assert len(step.masks) == 1
