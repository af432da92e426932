"""What AWS does with a signed request: botocore computes the signature anew, and chunks are verified one by one."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ACCESS, SECRET, TOKEN = "AKIDEXAMPLE12345", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session/t0ken+of==the=test"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)


class NotSignedError(Exception):
    """Why AWS would refuse."""


def verify(
    method: str,
    target: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    *,
    host: str,
    token: str | None = None,
) -> bytes:
    """The body as the service reads it. NotSignedError where the signature is not that of this very request."""
    fields: dict[str, list[str]] = {}
    for name, value in headers:
        fields.setdefault(name.lower(), []).append(value)
    once = {name: ",".join(values) for name, values in fields.items()}
    if len(fields.get("authorization", [])) != 1:
        raise NotSignedError(f"{len(fields.get('authorization', []))} authorization headers")
    match = _AUTHORIZATION.fullmatch(once["authorization"])
    if not match:
        raise NotSignedError("not an AWS signature")
    access, day, region, service, names, signature = match.groups()
    moment = once["x-amz-date"]
    if access != ACCESS or not moment.startswith(day):
        raise NotSignedError("another key, or another day")
    if abs((datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()) > 300:
        raise NotSignedError("the clocks differ")
    signed = names.split(";")
    unsigned = [n for n in once if (n == "host" or n.startswith("x-amz-")) and n not in signed]
    if unsigned:
        raise NotSignedError(f"{unsigned} are not signed")
    if once.get("x-amz-security-token") != token:
        raise NotSignedError("another session token")
    if once["host"] != host:
        raise NotSignedError(f"for {once['host']}, not {host}")
    payload = once["x-amz-content-sha256"]
    expected = _by_botocore(method, target, {n: once[n] for n in signed}, moment, region, service)
    if expected != signature:
        raise NotSignedError("the signature is another")
    if payload.startswith("STREAMING-AWS4"):
        if int(once["content-length"]) != len(body):
            raise NotSignedError("content-length is not that of what arrived")
        scope = f"{day}/{region}/{service}/aws4_request"
        return _chunks(
            body, int(once["x-amz-decoded-content-length"]), _key(day, region, service), moment, scope, signature
        )
    unsigned_body = payload in ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
    if not unsigned_body and hashlib.sha256(body).hexdigest() != payload:
        raise NotSignedError("another body")
    return body


def _by_botocore(method: str, target: str, headers: dict[str, str], moment: str, region: str, service: str) -> str:
    request = AWSRequest(method=method, url=f"https://{headers['host']}{target}", headers=headers)
    request.context["timestamp"] = moment
    auth = (S3SigV4Auth if service == "s3" else SigV4Auth)(Credentials(ACCESS, SECRET), service, region)
    canonical = auth.canonical_request(request)
    return str(auth.signature(auth.string_to_sign(request, canonical), request))


def _key(*parts: str) -> bytes:
    key = b"AWS4" + SECRET.encode()
    for part in (*parts, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _chunks(body: bytes, length: int, key: bytes, moment: str, scope: str, signature: str) -> bytes:
    """The decoded body; every chunk's signature follows from the one before (Amazon S3's API reference)."""
    decoded, rest, before = b"", body, 8192
    while True:
        head, _, rest = rest.partition(b"\r\n")
        size_text, _, given = head.decode().partition(";chunk-signature=")
        size = int(size_text, 16)
        data, end, rest = rest[:size], rest[size : size + 2], rest[size + 2 :]
        text = "\n".join(
            (
                "AWS4-HMAC-SHA256-PAYLOAD",
                moment,
                scope,
                signature,
                hashlib.sha256(b"").hexdigest(),
                hashlib.sha256(data).hexdigest(),
            )
        )
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        if given != signature or end != b"\r\n" or (size and before < 8192):
            raise NotSignedError("a chunk's signature is another")
        decoded, before = decoded + data, size
        if not size:
            break
    if rest or len(decoded) != length:
        raise NotSignedError("not as long as it says")
    return decoded
