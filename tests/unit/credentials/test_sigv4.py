"""Signatures compared with botocore's, and chunks with a published example."""

from __future__ import annotations

import hashlib
import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from ext_proc.config import SigV4
from ext_proc.credentials.sigv4 import CHUNK, ChunkSigner, Keys, Leaving, Signer, encoded_length, keys_of
from ext_proc.errors import CredentialError, ProtocolError
from tests.contract.credentials.aws import ACCESS, SECRET, TOKEN, NotSignedError, verify

HOST = "bucket.s3.eu-central-1.amazonaws.com"
KEYS = Keys(ACCESS, SECRET.encode())


def signer(service: str = "s3", keys: Keys = KEYS, **settings: Any) -> Signer:
    return Signer(SigV4(service=service, region="eu-central-1", **settings), keys)


def leaving(method: str, target: str, headers: list[tuple[str, bytes]] | None = None) -> Leaving:
    path, _, query = target.partition("?")
    return Leaving(method, HOST, path, query, [("host", b"127.0.0.1:15001"), *(headers or [])])


def arrived(signed: Any, sent: Leaving, body: bytes, token: str | None = None) -> bytes:
    """The body as AWS reads it, after it checked everything."""
    put = dict(signed.put)
    headers = [("host", HOST.encode())]
    headers += [(n, v) for n, v in sent.headers if n not in put and n != "host"]
    headers += signed.put
    target = sent.path + (f"?{sent.query}" if sent.query else "")
    return verify(sent.method, target, [(n, v.decode("latin-1")) for n, v in headers], body, host=HOST, token=token)


TARGETS = [
    "/",
    "/bucket/key",
    "/bucket/a%20b/c%C3%A9.txt",
    "/bucket//double/./slash",
    "/bucket/with%2Bplus%3Dand%26amp~tilde",
    "/bucket/key?list-type=2&prefix=a%2Fb&delimiter=%2F",
    "/bucket?uploads",
    "/bucket/key?partNumber=2&uploadId=VXBsb2FkIElE",
    "/table?b=2&a=1&a=0&empty=&%C3%A9=x%20y",
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("service", ["s3", "execute-api", "dynamodb"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_the_same_as_botocore(method: str, service: str, target: str) -> None:
    sent = leaving(
        method,
        target,
        [
            ("content-type", b"application/x-amz-json-1.0"),
            ("x-amz-target", b"DynamoDB_20120810.GetItem"),
            ("x-amz-meta-note", b"  some   spaces  "),
            ("user-agent", b"boto"),
        ],
    )
    body = b'{"a": 1}' if method == "PUT" else b""
    assert arrived(signer(service).sign(sent, body), sent, body) == body


def test_temporary_keys_and_repeated_headers() -> None:
    sent = leaving("PUT", "/b/k", [("x-amz-meta-a", b"1"), ("x-amz-meta-a", b"2"), ("content-md5", b"eA==")])
    signed = signer(keys=Keys(ACCESS, SECRET.encode(), TOKEN.encode())).sign(sent, b"x")
    assert arrived(signed, sent, b"x", TOKEN) == b"x"
    assert "wJalr" not in repr(signed) + repr(KEYS)


def test_it_is_this_request_and_no_other() -> None:
    sent = leaving("PUT", "/b/k?a=1", [("content-type", b"text/plain")])
    signed = signer().sign(sent, b"body")
    changed = {
        "method": (leaving("POST", "/b/k?a=1", [("content-type", b"text/plain")]), b"body"),
        "path": (leaving("PUT", "/b/other?a=1", [("content-type", b"text/plain")]), b"body"),
        "query": (leaving("PUT", "/b/k?a=2", [("content-type", b"text/plain")]), b"body"),
        "header": (leaving("PUT", "/b/k?a=1", [("content-type", b"text/html")]), b"body"),
        "more headers": (leaving("PUT", "/b/k?a=1", [("content-type", b"text/plain"), ("x-amz-acl", b"p")]), b"body"),
        "body": (sent, b"another"),
    }
    for request, body in changed.values():
        with pytest.raises(NotSignedError):
            arrived(signed, request, body)


@pytest.mark.parametrize("length", [0, 1, 8191, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 17, 1_000_000])
def test_a_body_that_passes_is_signed_chunk_by_chunk(length: int) -> None:
    body = random.Random(length).randbytes(length)
    sent = leaving("PUT", "/b/k", [("content-length", str(length).encode()), ("content-encoding", b"gzip")])
    signed = signer().sign(sent, None)
    assert signed.body is not None
    put = dict(signed.put)
    assert put["content-encoding"] == b"aws-chunked,gzip"
    pieces = random.Random(1)
    out, at = b"", 0
    while at < length:
        size = pieces.choice([1, 1000, 70_000, 65_536])
        out += signed.body.pass_on(body[at : at + size], False)
        at += size
    out += signed.body.pass_on(b"", True)
    assert len(out) == int(put["content-length"]) == encoded_length(length)
    assert arrived(signed, sent, out) == body
    if out:
        broken = bytearray(out)
        broken[len(out) // 2] ^= 1
        with pytest.raises((NotSignedError, ValueError)):
            arrived(signed, sent, bytes(broken))


def test_amazons_own_example_of_chunks() -> None:
    """Amazon S3 API reference, "Transferring payload in multiple chunks": 66,560 bytes in chunks of 64 KiB."""
    keys = Keys("AKIAIOSFODNN7EXAMPLE", b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    made = Signer(SigV4(service="s3", region="us-east-1"), keys, lambda: datetime(2013, 5, 24, tzinfo=UTC))
    chunks = ChunkSigner(
        made._key("20130524"),
        "20130524T000000Z",
        "20130524/us-east-1/s3/aws4_request",
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
        66560,
    )
    out = chunks.pass_on(b"a" * 66560, True)
    assert len(out) == encoded_length(66560) == 66824
    assert out.startswith(b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n")
    assert b"\r\n400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n" in out
    assert out.endswith(b"0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n")


def test_a_body_of_another_length_is_cut() -> None:
    for data, last in ((b"x" * 11, False), (b"x" * 9, True)):
        signed = signer().sign(leaving("PUT", "/b/k", [("content-length", b"10")]), None)
        assert signed.body is not None
        with pytest.raises(ProtocolError):
            signed.body.pass_on(data, last)


def test_other_ways_of_a_body_that_follows() -> None:
    sent = leaving("PUT", "/b/k", [("content-length", b"5")])
    unsigned = signer(streamed="unsigned").sign(sent, None)
    assert unsigned.body is None
    assert dict(unsigned.put)["x-amz-content-sha256"] == b"UNSIGNED-PAYLOAD"
    assert arrived(unsigned, sent, b"hello") == b"hello"
    declared = signer().sign(sent, None, hashlib.sha256(b"hello").hexdigest().encode())
    assert declared.body is None, "S3 compares the body with the digest that the client declared"
    assert arrived(declared, sent, b"hello") == b"hello"
    with pytest.raises(NotSignedError):
        arrived(declared, sent, b"jello")


def test_the_unsigned_trailer_of_most_sdks_stays() -> None:
    headers = [
        ("content-encoding", b"aws-chunked"),
        ("x-amz-decoded-content-length", b"5"),
        ("x-amz-trailer", b"x-amz-checksum-crc32"),
        ("content-length", b"47"),
    ]
    body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"
    for whole in (body, None):
        sent = leaving("PUT", "/b/k", headers)
        signed = signer().sign(sent, whole, b"STREAMING-UNSIGNED-PAYLOAD-TRAILER")
        assert signed.body is None
        assert arrived(signed, sent, body) == body


@pytest.mark.parametrize(
    ("service", "headers", "body", "declared", "status"),
    [
        ("dynamodb", [("content-length", b"10")], None, b"", 413),
        ("s3", [], None, b"", 411),
        ("s3", [("content-length", b"-1")], None, b"", 411),
        ("s3", [("content-length", b"10")], None, b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", 400),
        ("s3", [], b"10;chunk-signature=..", b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", 400),
        ("sqs", [], b"x", b"STREAMING-UNSIGNED-PAYLOAD-TRAILER", 400),
        ("s3", [], b"1\r\nx\r\n0\r\n\r\n", b"STREAMING-UNSIGNED-PAYLOAD-TRAILER", 400),
        ("s3", [("content-encoding", b"gzip")], None, b"STREAMING-UNSIGNED-PAYLOAD-TRAILER", 400),
    ],
)
def test_what_cannot_be_signed(
    service: str, headers: list[tuple[str, bytes]], body: bytes | None, declared: bytes, status: int
) -> None:
    with pytest.raises(CredentialError) as caught:
        signer(service).sign(leaving("PUT", "/b/k", headers), body, declared)
    assert (caught.value.reason, caught.value.http_status) == ("credential.unsignable", status)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("document", "token"),
    [
        ({"Version": 1, "AccessKeyId": ACCESS, "SecretAccessKey": SECRET, "SessionToken": TOKEN}, TOKEN),
        ({"AccessKeyId": ACCESS, "SecretAccessKey": SECRET, "Token": TOKEN, "Expiration": "2026"}, TOKEN),
        ({"access_key": ACCESS, "secret_key": SECRET, "security_token": None}, None),
        ({"access_key": ACCESS, "secret_key": SECRET, "session_token": TOKEN}, TOKEN),
    ],
)
def test_keys_in_one_value(document: dict[str, Any], token: str | None) -> None:
    keys = keys_of([json.dumps(document).encode()], "exec aws")
    assert (keys.access_key_id, keys.secret) == (ACCESS, SECRET.encode())
    assert keys.session_token == (token.encode() if token else None)


@pytest.mark.parametrize(
    "parts",
    [
        [b"s3cret"],
        [b"{}"],
        [b'{"AccessKeyId": "AKID1234"}'],
        [b"AKID1234\nX: y", b"s3cret"],
        [b"AKID1234", b"s3cret\r\n"],
        [b"AKID1234", b""],
        [b"AKID1234", b"s3cret", b"to ken"],
    ],
)
def test_keys_that_are_none(parts: list[bytes]) -> None:
    with pytest.raises(CredentialError) as caught:
        keys_of(parts, "env X")
    assert (caught.value.reason, caught.value.http_status) == ("credential.invalid", 502)
    assert "s3cret" not in str(caught.value)
