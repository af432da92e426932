"""Header fields, trailers, paths and queries."""

from __future__ import annotations

import base64

import pytest

from ext_proc.config.models import Masking
from ext_proc.exchange import Headers
from ext_proc.masking import ExchangeMasker, Known, Masker, mask_text

KEY = b"0123456789abcdef0123456789abcdef"
TOKEN = b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJyZXBvOmFjbWUvaW5mcmEifQ.c2lnbmF0dXJlLWJ5dGVz"
MASKER = Masker(Masking(headers=("x-internal-token",)), KEY, 1 << 26)


def fp(secret: bytes) -> str:
    return MASKER.fingerprint(secret)


@pytest.fixture
def exchange() -> ExchangeMasker:
    return MASKER.exchange([Known("token", TOKEN), Known("placeholder", b"dummy")])


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("authorization", b"Bearer " + TOKEN, f"Bearer [MASKED:token:{fp(TOKEN)}]"),
        ("authorization", b"Basic dXNlcjpwYXNz", f"Basic [MASKED:authorization:{fp(b'dXNlcjpwYXNz')}]"),
        ("authorization", b"Basic " + base64.b64encode(b"u:" + TOKEN), f"Basic [MASKED:token:{fp(TOKEN)}]"),
        ("authorization", b"opaque", f"[MASKED:authorization:{fp(b'opaque')}]"),
        ("proxy-authorization", b"Digest a=b, c=d", f"Digest [MASKED:proxy-authorization:{fp(b'a=b, c=d')}]"),
        ("cookie", b"a=1; sid=xyz", f"a=[MASKED:cookie:{fp(b'1')}]; sid=[MASKED:cookie:{fp(b'xyz')}]"),
        ("cookie", b"empty=; x", "empty=; x"),
        ("set-cookie", b'sid="xyz"; Path=/; HttpOnly', f'sid="[MASKED:set-cookie:{fp(b"xyz")}]"; Path=/; HttpOnly'),
        ("x-internal-token", b"no", f"[MASKED:header:{fp(b'no')}]"),
        ("dd-api-key", b"dummy", f"[MASKED:placeholder:{fp(b'dummy')}]"),
        ("dd-api-key", TOKEN, f"[MASKED:token:{fp(TOKEN)}]"),
        ("dd-api-key", b"0a1b2c3d4e5f6071", f"[MASKED:named:{fp(b'0a1b2c3d4e5f6071')}]"),
        ("x-vault-token", b"hvs.CAESIJ0a1b2c3d4e5f6", f"[MASKED:named:{fp(b'hvs.CAESIJ0a1b2c3d4e5f6')}]"),
        ("link", b"<https://a/?t=" + TOKEN + b">; rel=next", f"<https://a/?t=[MASKED:token:{fp(TOKEN)}]>; rel=next"),
        ("user-agent", b"datadog-api-client-python/2.0 (python 3.11)", "datadog-api-client-python/2.0 (python 3.11)"),
        ("content-type", b"application/json", "application/json"),
        ("x-token-type", b"bearer-or-something-like-that9", "bearer-or-something-like-that9"),
        ("authorization", b"", ""),
    ],
)  # fmt: skip
def test_header(exchange: ExchangeMasker, name: str, value: bytes, stored: str) -> None:
    fields = Headers([("accept", b"*/*"), (name, value), ("x-last", b"1")])
    out, masks = exchange.headers("req_headers", fields)
    assert [out[0], out[2]] == [("accept", b"*/*"), ("x-last", b"1")]
    assert out[1] == (name, stored.encode())
    for mask in masks:
        assert (mask.place, mask.index) == ("req_headers", 1)
        assert out[1][1][mask.start : mask.start + mask.length].decode() == (
            f"[MASKED:{mask.detector}:{mask.fingerprint}]"
        )


@pytest.mark.parametrize(
    ("place", "value", "stored"),
    [
        ("query", "api_key=0a1b2c3d4e5f6071&page=2", f"api_key=[MASKED:named:{fp(b'0a1b2c3d4e5f6071')}]&page=2"),
        ("query", "api%5Fkey=0a1b2c3d4e5f6071", f"api%5Fkey=[MASKED:named:{fp(b'0a1b2c3d4e5f6071')}]"),
        ("query", "a=dummy&b=" + TOKEN.decode(), f"a=[MASKED:placeholder:{fp(b'dummy')}]&b=[MASKED:token:{fp(TOKEN)}]"),
        ("query", "q=%67hp_" + "aB3d" * 9, f"q=[MASKED:github:{fp(b'ghp_' + b'aB3d' * 9)}]"),
        ("query", "page_token=next&filter[tags]=env:prod&é=ü", "page_token=next&filter[tags]=env:prod&é=ü"),
        ("path", "/bot/" + TOKEN.decode() + "/send", f"/bot/[MASKED:token:{fp(TOKEN)}]/send"),
        ("path", "/api/v1/dashboard/abc-def-ghi", "/api/v1/dashboard/abc-def-ghi"),
    ],
)  # fmt: skip
def test_text(exchange: ExchangeMasker, place: str, value: str, stored: str) -> None:
    out, masks = exchange.text(place, value)
    assert out == stored
    for mask in masks:
        part = out.encode()[mask.start : mask.start + mask.length].decode()
        assert part == f"[MASKED:{mask.detector}:{mask.fingerprint}]"


def test_detectors_none_still_masks_what_is_always_masked() -> None:
    exchange = Masker(Masking(detectors="none"), KEY, 1 << 26).exchange([Known("token", TOKEN)])
    fields = Headers([("authorization", b"Bearer x"), ("dd-api-key", b"0a1b2c3d4e5f6071"), ("x-t", TOKEN)])
    out, masks = exchange.headers("req_headers", fields)
    assert [m.detector for m in masks] == ["authorization", "token"]
    assert out[1][1] == b"0a1b2c3d4e5f6071"


def test_mask_text_counts_characters() -> None:
    text = 'é password = "hünter2-9" €'
    masked, spans = mask_text(text, MASKER)
    assert [text[a:b] for a, b, _ in spans] == ["hünter2-9"]
    assert masked == f'é password = "[MASKED:named:{fp("hünter2-9".encode())}]" €'


@pytest.mark.parametrize(
    "text",
    [
        '{"token_type": "bearer", "expires_in": 3600, "max_tokens": 4096}',
        '{"password": null, "secret": "", "api_key": "${API_KEY}", "token": "<your token here>"}',
        '{"password": "********", "client_secret": "[REDACTED]"}',
        '{"api_key_id": "5c3f8e1e-8d5a-4b0e-9a6a-0a8a4a6a1a2b", "access_key_name": "ci-0a1b2c3d4e5f"}',
        '{"client_token": "pub35346338f0b2da1d0e21b935e3483ba1"}',
        '{"next_page_token": "eyIxMjM0NTY3ODkwIjoiYWJjIn0", "continuation_token": "0a1b2c3d4e5f60718293"}',
        "the password is incorrect; see https://example.com:8080/reset?step=2",
        "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBaMQswCQYDVQ\n-----END",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n-----END PUBLIC KEY-----",
        "GITHUB_API_KEY=\nDYNATRACE_API_KEY=\n",
        "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx AKIAIOSFODNN7EXAMPLE",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask_text(text, MASKER) == (text, [])
