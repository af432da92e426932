"""AWS Signature Version 4: what is signed, and how a body is signed that passes while it arrives.

Source: AWS General Reference, "Create a signed AWS API request", and for chunks Amazon S3's API reference, "Signature
calculations for the authorization header: transferring payload in multiple chunks".
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, unquote_to_bytes

from ext_proc.config import SigV4
from ext_proc.credentials.source import invalid
from ext_proc.errors import CredentialError, ProtocolError

CHUNK = 64 * 1024
"""Bytes of a signed chunk; S3 takes no less than 8 KiB."""

REMOVED_QUERY = frozenset(
    f"x-amz-{name}"
    for name in ("algorithm", "credential", "date", "expires", "signedheaders", "signature", "security-token")
)
"""A presigned URL's parameters, in lower case."""

_ALGORITHM = "AWS4-HMAC-SHA256"
_UNSIGNED = "UNSIGNED-PAYLOAD"
_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
_UNSIGNED_CHUNKS = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
_EMPTY = hashlib.sha256(b"").hexdigest()
_SIGNED = frozenset({"host", "content-type", "content-md5"})
_DIGEST = re.compile(rb"[0-9a-f]{64}")
# As `credential_process` and IMDS print them, and as Vault's engine `aws` names them.
_FORMS = (
    ("AccessKeyId", "SecretAccessKey", ("SessionToken", "Token")),
    ("access_key", "secret_key", ("security_token", "session_token")),
    ("access_key_id", "secret_access_key", ("session_token",)),
)


@dataclass(frozen=True, slots=True)
class Keys:
    access_key_id: str
    secret: bytes = field(repr=False)
    session_token: bytes | None = field(default=None, repr=False)

    def secrets(self) -> tuple[bytes, ...]:
        return (self.secret,) if self.session_token is None else (self.secret, self.session_token)


@dataclass(frozen=True, slots=True)
class Leaving:
    """A request's head as it leaves. `path` is percent-encoded; `headers` are the client's that
    stay."""

    method: str
    host: str
    path: str
    query: str
    headers: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature adds to the head; `body` is for a body that follows: each piece goes through it."""

    put: tuple[tuple[str, bytes], ...] = field(repr=False)
    body: ChunkSigner | None = field(default=None, repr=False)


def keys_of(parts: list[bytes], place: str) -> Keys:
    """The keys from the values of their sources: one JSON object, or id, secret and perhaps the session token.
    CredentialError `credential.invalid`."""
    token: bytes | None
    if len(parts) > 1:
        key_id, secret, token = parts[0], parts[1], parts[2] if len(parts) > 2 else None
    else:
        key_id, secret, token = _parsed(parts[0], place)
    if not re.fullmatch(rb"[A-Za-z0-9_-]{4,128}", key_id):
        raise invalid(place, "gives an access key id that is none")
    if not secret or not re.fullmatch(rb"[\x21-\x7e]*", secret + (token or b"")):
        raise invalid(place, "gives keys that hold blanks or other characters that keys do not have")
    return Keys(key_id.decode(), secret, token or None)


def _parsed(text: bytes, place: str) -> tuple[bytes, bytes, bytes | None]:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if isinstance(document, dict):
        for key_id, secret, tokens in _FORMS:
            if isinstance(document.get(key_id), str) and isinstance(document.get(secret), str):
                token = next((document[name] for name in tokens if isinstance(document.get(name), str)), None)
                return document[key_id].encode(), document[secret].encode(), token.encode() if token else None
    raise invalid(place, "gives no JSON object with AccessKeyId and SecretAccessKey")


class Signer:
    """Signs with one set of keys."""

    def __init__(self, settings: SigV4, keys: Keys, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._settings = settings
        self._keys = keys
        self._now = now
        self._s3 = settings.service == "s3"
        self._derived: tuple[str, bytes] = ("", b"")

    def sign(self, leaving: Leaving, body: bytes | None, declared: bytes = b"") -> Signed:
        """The signature of a request with this whole body, or with one that follows (None). `declared` is what the
        client says of the body (`x-amz-content-sha256`). CredentialError `credential.unsignable` where that cannot be
        signed."""
        if declared.startswith(b"STREAMING-"):
            if declared.decode("latin-1") != _UNSIGNED_CHUNKS or not self._s3:
                raise _unsignable(
                    400,
                    "the body has the client's own signatures in it, chunk by chunk",
                    "Let the client sign the body as a whole, or send it unsigned (most SDKs do over https).",
                )
            codings = [value.lower() for name, value in leaving.headers if name == "content-encoding"]
            if not any(b"aws-chunked" in coding for coding in codings):
                raise _unsignable(
                    400,
                    "the body is in chunks, and its content-encoding does not say so, so that no rule saw into them",
                    "Send content-encoding: aws-chunked with it, as SDKs do.",
                )
            return self._head(leaving, _UNSIGNED_CHUNKS, [])[0]
        if body is not None:
            extra = []
            if self._s3 and body and not _first(leaving, "content-length"):
                extra.append(("content-length", str(len(body)).encode()))  # S3 takes none without
            return self._head(leaving, hashlib.sha256(body).hexdigest() if body else _EMPTY, extra)[0]
        if not self._s3:
            raise _unsignable(
                413,
                f"{self._settings.service} wants the whole body signed, and this one is not awaited",
                "Send less, or let the operator raise max_inspect for this connection.",
            )
        if _DIGEST.fullmatch(declared):
            return self._head(leaving, declared.decode(), [])[0]  # S3 compares it with the body that arrives
        return self._following(leaving)

    def _following(self, leaving: Leaving) -> Signed:
        length = _first(leaving, "content-length")
        if not length.isdigit() or len(length) > 15:
            raise _unsignable(411, "S3 wants to know the body's length before it", "Send content-length.")
        if self._settings.streamed == "unsigned":
            return self._head(leaving, _UNSIGNED, [])[0]
        codings = [b"aws-chunked", *(value for name, value in leaving.headers if name == "content-encoding")]
        extra = [
            ("content-encoding", b",".join(codings)),
            ("content-length", str(encoded_length(int(length))).encode()),
            ("x-amz-decoded-content-length", length),
        ]
        head, signature, moment = self._head(leaving, _CHUNKS, extra)
        return Signed(head.put, ChunkSigner(self._key(moment[:8]), moment, self._scope(moment), signature, int(length)))

    def _head(self, leaving: Leaving, payload: str, extra: list[tuple[str, bytes]]) -> tuple[Signed, str, str]:
        moment = self._now().strftime("%Y%m%dT%H%M%SZ")
        put = [*extra, ("x-amz-date", moment.encode()), ("x-amz-content-sha256", payload.encode())]
        if self._keys.session_token is not None:
            put.append(("x-amz-security-token", self._keys.session_token))
        names = {name for name, _ in put}
        fields = [("host", leaving.host.encode())]
        fields += [
            (name, value)
            for name, value in leaving.headers
            if name != "host" and _is_signed(name) and name not in names
        ]
        fields += [(name, value) for name, value in put if _is_signed(name)]
        signed_names, canonical = self._canonical(leaving, fields, payload)
        digest = hashlib.sha256(canonical).hexdigest()
        scope = self._scope(moment)
        signature = _hmac(self._key(moment[:8]), f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}").hex()
        authorization = (
            f"{_ALGORITHM} Credential={self._keys.access_key_id}/{scope}, "
            f"SignedHeaders={signed_names}, Signature={signature}"
        )
        return Signed((*put, ("authorization", authorization.encode()))), signature, moment

    def _canonical(self, leaving: Leaving, fields: Iterable[tuple[str, bytes]], payload: str) -> tuple[str, bytes]:
        values: dict[str, list[bytes]] = {}
        for name, value in fields:
            values.setdefault(name, []).append(b" ".join(value.split()))
        names = sorted(values)
        lines = [
            leaving.method.encode(),
            canonical_path(leaving.path, s3=self._s3).encode(),
            canonical_query(leaving.query).encode(),
            *(name.encode() + b":" + b",".join(values[name]) for name in names),
            b"",
            ";".join(names).encode(),
            payload.encode(),
        ]
        return ";".join(names), b"\n".join(lines)

    def _scope(self, moment: str) -> str:
        return f"{moment[:8]}/{self._settings.region}/{self._settings.service}/aws4_request"

    def _key(self, day: str) -> bytes:
        if self._derived[0] != day:
            key = b"AWS4" + self._keys.secret
            for part in (day, self._settings.region, self._settings.service, "aws4_request"):
                key = _hmac(key, part)
            self._derived = (day, key)
        return self._derived[1]


class ChunkSigner:
    """Signs a body chunk by chunk as it passes. `length` is the body's, in bytes."""

    def __init__(self, key: bytes, moment: str, scope: str, seed: str, length: int) -> None:
        self._key = key
        self._before = f"{_CHUNKS.removeprefix('STREAMING-')}\n{moment}\n{scope}\n"
        self._signature = seed
        self._left = length
        self._waiting = bytearray()

    def pass_on(self, data: bytes, last: bool) -> bytes:
        """What leaves in the place of this piece. ProtocolError where the body is not as long as was said."""
        self._left -= len(data)
        if self._left < 0 or (last and self._left):
            raise ProtocolError("request.length", "the body is not as long as content-length says")
        self._waiting += data
        out = bytearray()
        while len(self._waiting) >= CHUNK:
            self._chunk(bytes(self._waiting[:CHUNK]), out)
            del self._waiting[:CHUNK]
        if last:
            if self._waiting:
                self._chunk(bytes(self._waiting), out)
                self._waiting.clear()
            self._chunk(b"", out)
        return bytes(out)

    def _chunk(self, data: bytes, out: bytearray) -> None:
        digest = hashlib.sha256(data).hexdigest()
        self._signature = _hmac(self._key, f"{self._before}{self._signature}\n{_EMPTY}\n{digest}").hex()
        out += f"{len(data):x};chunk-signature={self._signature}\r\n".encode() + data + b"\r\n"


def encoded_length(length: int) -> int:
    """How many bytes `ChunkSigner` makes of so many."""
    around = len(";chunk-signature=") + 64 + 4
    full, rest = divmod(length, CHUNK)
    sizes = [CHUNK] * min(full, 1) + [rest] * (rest > 0)
    one = {size: len(f"{size:x}") + around + size for size in sizes}
    return full * one.get(CHUNK, 0) + one.get(rest, 0) * (rest > 0) + 1 + around


def canonical_path(path: str, *, s3: bool) -> str:
    """S3 encodes each byte of a path once, as its keys may hold anything; others encode what was sent once more, after
    empty and dot segments are gone."""
    raw = path.encode("utf-8", "surrogateescape") or b"/"
    if s3:
        return quote(unquote_to_bytes(raw), safe="/~")
    kept: list[bytes] = []
    for part in raw.split(b"/"):
        if part == b"..":
            del kept[-1:]
        elif part not in (b"", b"."):
            kept.append(part)
    return quote(b"/" + b"/".join(kept) + (b"/" if kept and raw.endswith(b"/") else b""), safe="/~")


def canonical_query(query: str) -> str:
    """The parameters, each encoded anew and sorted."""
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    return "&".join(f"{name}={value}" for name, value in sorted((_encoded(n), _encoded(v)) for n, _, v in pairs))


def _encoded(text: str) -> str:
    return quote(unquote_to_bytes(text.replace("+", " ").encode("utf-8", "surrogateescape")), safe="~")


def _first(leaving: Leaving, name: str) -> bytes:
    return next((value for known, value in leaving.headers if known == name), b"")


def _is_signed(name: str) -> bool:
    return name in _SIGNED or name.startswith("x-amz-")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _unsignable(status: int, message: str, remedy: str) -> CredentialError:
    return CredentialError("credential.unsignable", message, remedy=remedy, http_status=status)
