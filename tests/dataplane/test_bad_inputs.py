"""Bad inputs over the full stack: what the client is told, what the ledger holds, and that no upstream saw them.

All requests are sent once, by the fixture `outcomes`; then each row of the tables is a test of its own. A refusal is
known by its reason code, and by a part of its message that helps. Who refuses decides what is recorded:

WORKER   a worker of ours: a row with the reason.
ENVOY    Envoy's routes: a row with the reason, from the access log.
EARLY    Envoy, before the exchange has an id of ours: an answer with a reason, no row.
SILENT   Envoy's codec: there is no request that could be recorded; a bare 4xx, or a closed connection.
"""

from __future__ import annotations

import base64
import gzip
import hmac
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import brotli
import jwt
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.dataplane import upstreams, wire
from tests.dataplane.background import Background
from tests.dataplane.ledger import Ledger, Row
from tests.dataplane.stack import API_KEY, Stack, douane_up, free_ports
from tests.issuer import LoopbackIssuer

pytestmark = [pytest.mark.dataplane, pytest.mark.clickhouse, pytest.mark.slow]

WORKER, ENVOY, EARLY, SILENT = "worker", "envoy", "early", "silent"
SNI = "api.datadog.test"
MAX_DECODED = 4 << 20
MAX_INSPECT = 1 << 20


# --- what a request is made of ---------------------------------------------------------------------------------------


@dataclass
class Actors:
    """What cases make their requests from: tokens of all kinds, and session keys."""

    issuer: LoopbackIssuer
    session_key: str = ""
    revoked_key: str = ""

    def token(self, **claims: Any) -> str:
        return self.issuer.token(**claims)

    def forged(self, header: dict[str, Any], sign: Callable[[bytes], bytes], **claims: Any) -> str:
        """The issuer's claims under another header and signature."""
        body = self.token(**claims).split(".")[1]
        head = b64(json.dumps(header).encode())
        return f"{head}.{body}.{b64(sign(f'{head}.{body}'.encode()))}"

    def public_pem(self) -> bytes:
        key = jwt.algorithms.RSAAlgorithm.from_jwk(self.issuer._jwk())
        assert isinstance(key, rsa.RSAPublicKey)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


Make = Callable[[Actors], bytes]


def raw(line: str, *fields: str, body: bytes = b"", host: str = "gate.test") -> bytes:
    head = "\r\n".join([line, *([f"Host: {host}"] if host else []), *fields])
    return head.encode("latin-1") + b"\r\n\r\n" + body


def with_token(line: str, *fields: str, body: bytes = b"", host: str = "gate.test", **claims: Any) -> Make:
    """A request that would pass but for what is wrong with it."""
    return lambda a: raw(line, f"dd-api-key: {a.token(**claims)}", *fields, body=body, host=host)


def get(token: Callable[[Actors], str]) -> Make:
    return lambda a: raw("GET /echo/bad HTTP/1.1", f"dd-api-key: {token(a)}")


def post(path: str, body: bytes, *fields: str) -> Make:
    return with_token(f"POST {path} HTTP/1.1", f"content-length: {len(body)}", *fields, body=body)


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


@dataclass(frozen=True)
class Case:
    """`status` 0: the connection was closed without a word."""

    name: str
    make: Make
    status: int
    reason: str
    part: str = ""
    by: str = WORKER
    via: str = "datadog"


ZEROS = bytes(MAX_DECODED + 1)

TOKENS = [
    Case("no token", lambda _: raw("GET /echo/bad HTTP/1.1"), 401, "identity.missing", "dd-api-key, authorization"),
    Case("empty token", get(lambda _: ""), 401, "identity.missing", "no token"),
    Case("garbage", get(lambda _: "garbage"), 401, "identity.malformed", "neither an OIDC token nor"),
    Case("almost a token", get(lambda _: "eyJ.eyJ."), 401, "identity.malformed", "header"),
    Case("expired", get(lambda a: a.token(expires_in=-60)), 401, "identity.expired", "has expired"),
    Case("not yet valid", get(lambda a: a.token(nbf=int(time.time()) + 300)), 401, "identity.not_yet_valid", "clocks"),
    Case("issued in the future", get(lambda a: a.token(iat=int(time.time()) + 300)), 401, "identity.not_yet_valid"),
    Case("no expiry", get(lambda a: a.token(exp=None)), 401, "identity.claims", "exp"),
    Case("expiry as text", get(lambda a: a.token(exp="4102444800")), 401, "identity.claims", "time in seconds"),
    Case("wrong audience", get(lambda a: a.token(aud="other")), 401, "identity.audience", "audience douane"),
    Case("audience with a suffix", get(lambda a: a.token(aud="douane ")), 401, "identity.audience"),
    Case("no audience", get(lambda a: a.token(aud=None)), 401, "identity.claims", "aud"),
    Case("wrong issuer", get(lambda a: a.token(iss="https://evil.test")), 401, "identity.unknown_issuer", "evil"),
    Case("issuer with a slash", get(lambda a: a.token(iss=a.issuer.url + "/")), 401, "identity.unknown_issuer"),
    Case("issuer away", get(lambda a: a.token(iss="http://127.0.0.1:1")), 503, "identity.issuer_unavailable", "again"),
    Case("no subject", get(lambda a: a.token(sub="")), 401, "identity.claims", "sub"),
    Case("unknown kid", get(lambda a: a.token(headers={"kid": "other"})), 401, "identity.unknown_key", "'other'"),
    Case("kid as a path", get(lambda a: a.token(headers={"kid": "../../dev/null"})), 401, "identity.unknown_key"),
    Case("crit", get(lambda a: a.token(headers={"crit": ["b64"]})), 401, "identity.malformed", "crit"),
    Case("alg none", get(lambda a: a.forged({"alg": "none"}, lambda _: b"")), 401, "identity.algorithm", "RS256"),
    Case(
        "HS256 with the public key",
        get(lambda a: a.forged({"alg": "HS256", "kid": "test-1"}, lambda d: hmac.digest(a.public_pem(), d, "sha256"))),
        401,
        "identity.algorithm",
        "not accepted",
    ),
    Case(
        "wrong signature",
        get(lambda a: a.forged({"alg": "RS256", "kid": "test-1"}, lambda _: bytes(256))),
        401,
        "identity.bad_signature",
        "signature is wrong",
    ),
    Case(
        "own key in the header",
        get(lambda a: a.forged({"alg": "RS256", "kid": "x", "jku": "http://127.0.0.1:1/jwks"}, lambda _: bytes(256))),
        401,
        "identity.unknown_key",
    ),
    Case("changed claim", get(lambda a: _swap_claim(a.token())), 401, "identity.bad_signature"),
    Case("huge token", get(lambda a: a.token(pad="x" * 17_000)), 401, "identity.too_large", "16 KiB"),
    Case(
        "two that disagree",
        lambda a: raw(
            "GET /echo/bad HTTP/1.1", f"dd-api-key: {a.token()}", f"authorization: Bearer {a.token(run_id='2')}"
        ),
        401,
        "identity.conflict",
        "different tokens",
    ),
    Case(
        "identity header twice",
        lambda a: raw("GET /echo/bad HTTP/1.1", f"dd-api-key: {a.token()}", f"DD-API-KEY: {a.token()}"),
        401,
        "identity.duplicate_header",
        "2 times",
    ),
    Case("claims that no grant likes", get(lambda a: a.token(repository_id="75")), 403, "grant.none", "no grant"),
    Case("claim of another type", get(lambda a: a.token(repository_id=74)), 403, "grant.none", "no grant"),
    Case("claim missing", get(lambda a: a.token(repository_id=None)), 403, "grant.none", "no grant"),
    Case("request outside of the scope", post("/read/1", b""), 403, "grant.none", "covers this method", via="narrow"),
    Case("unknown session key", get(lambda _: "dse_" + "x" * 43), 401, "identity.session_unknown", "/.douane/session"),
    Case("revoked session key", get(lambda a: a.revoked_key), 401, "identity.session_unknown", "revoked"),
    Case("another's session key", get(lambda a: a.session_key), 401, "identity.session_connection", via="narrow"),
    Case(
        "session from a session",
        lambda a: raw("POST /.douane/session HTTP/1.1", f"dd-api-key: {a.session_key}", "content-length: 0"),
        403,
        "session.from_session",
        "OIDC token",
    ),
    Case("revoking a token", with_token("DELETE /.douane/session HTTP/1.1"), 400, "session.not_a_key", "session key"),
    Case("reading a session", with_token("GET /.douane/session HTTP/1.1"), 405, "request.method", "POST or DELETE"),
]


def _swap_claim(token: str) -> str:
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    return f"{head}.{b64(json.dumps(claims | {'repository_id': '75'}).encode())}.{signature}"


BOMB, TWO_ENDS = "recording.max_decoded", "gzip, deflate, br or zstd"
REQUESTS = [
    Case("TRACE", with_token("TRACE /echo/bad HTTP/1.1"), 405, "request.method", "TRACE"),
    Case("TRACK", with_token("TRACK /echo/bad HTTP/1.1"), 0, "", by=SILENT),
    Case("unknown method", with_token("BREW /echo/bad HTTP/1.1"), 0, "", by=SILENT),
    Case("CONNECT", with_token("CONNECT other.test:443 HTTP/1.1", host="other.test:443"), 405, "request.method",
         "no forward proxy", ENVOY),
    Case("method override", with_token("POST /echo/bad HTTP/1.1", "x-http-method-override: DELETE",
         "content-length: 0"), 400, "request.method_override", "x-http-method-override"),
    Case("method override in underscores", with_token("POST /echo/bad HTTP/1.1", "x_http_method_override: DELETE",
         "content-length: 0"), 400, "request.method_override", "x-http-method-override"),
    Case("method override in the query", with_token("POST /echo/bad?_method=DELETE HTTP/1.1", "content-length: 0"),
         400, "request.method_override", "_method"),
    Case("escaped method override", with_token("POST /echo/bad?%5Fmethod=DELETE HTTP/1.1", "content-length: 0"),
         400, "request.method_override", "_method"),
    Case("method override behind a semicolon", with_token("POST /echo/bad?a=1;_method=DELETE HTTP/1.1",
         "content-length: 0"), 400, "request.method_override", "_method"),
    Case("what looks like a secret at every byte", with_token("GET /echo/bad HTTP/1.1", "x: " + "a" * 30_000,
         "authorization: " + "a" * 12_000 + "b", expires_in=-60), 401, "identity.expired"),
    Case("escaped slash", with_token("GET /echo/bad%2Fworse HTTP/1.1"), 400, "request.path", "%2F", ENVOY),
    Case("escaped backslash", with_token("GET /echo/bad%5cworse HTTP/1.1"), 400, "request.path", "%5C", ENVOY),
    Case("backslash", with_token("GET /echo/bad\\worse HTTP/1.1"), 200, ""),  # Envoy makes it a slash, see below
    Case("null byte in the path", with_token("GET /echo/bad%00 HTTP/1.1"), 400, "request.path", "null byte", EARLY),
    Case("raw null byte", with_token("GET /echo/bad\0 HTTP/1.1"), 0, "", by=SILENT),
    Case("null byte in a field", with_token("GET /echo/bad HTTP/1.1", "x: a\0b"), 0, "", by=SILENT),
    Case("fragment", with_token("GET /echo/bad#top HTTP/1.1"), 400, "request.path", "fragment", EARLY),
    Case("out of the scope by dots", with_token("GET /read/../elsewhere HTTP/1.1"), 403, "grant.none", via="narrow"),
    Case("out of the scope by escaped dots", with_token("GET /read/%2e%2e/elsewhere HTTP/1.1"), 403, "grant.none",
         via="narrow"),
    Case("asterisk", with_token("OPTIONS * HTTP/1.1"), 404, "request.path", "slash", EARLY),
    Case("reserved path", with_token("GET /.douane/other HTTP/1.1"), 404, "request.reserved_path", "not served here"),
    Case("reserved path in capitals", with_token("GET /.DOUANE/session HTTP/1.1"), 404, "request.reserved_path"),
    Case("ftp", with_token("GET ftp://evil.test/x HTTP/1.1"), 0, "", by=SILENT),
    Case("two hosts", with_token("GET /echo/bad HTTP/1.1", "Host: evil.test"), 400, "request.host",
         "exactly one", ENVOY),
    Case("no host", with_token("GET /echo/bad HTTP/1.1", host=""), 400, "request.invalid", "rule of HTTP",
         EARLY),
    Case("Host against SNI", with_token("GET /echo/bad HTTP/1.1", host="evil.test"), 421, "request.host_mismatch",
         "SNI", ENVOY, "tls"),
    Case("HTTP/1.0", with_token("GET /echo/bad HTTP/1.0"), 0, "", by=SILENT),
    Case("HTTP/3.0", with_token("GET /echo/bad HTTP/3.0"), 0, "", by=SILENT),
    Case("not HTTP", lambda _: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0, "", by=SILENT),
    Case("unknown upgrade", with_token("GET /echo/bad HTTP/1.1", "connection: upgrade", "upgrade: foo"), 403,
         "request.method", "WebSocket", EARLY),
    Case("header too large", with_token("GET /echo/bad HTTP/1.1", "x: " + "y" * 70_000), 0, "", by=SILENT),
    Case("too many headers", with_token("GET /echo/bad HTTP/1.1", *(f"x-{n}: y" for n in range(250))), 0, "",
         by=SILENT),
    Case("folded field", with_token("GET /echo/bad HTTP/1.1", "x: a\r\n b"), 200, ""),
    Case("space before the colon", with_token("GET /echo/bad HTTP/1.1", "x : a"), 0, "", by=SILENT),
    Case("bare line feed", lambda a: raw("GET /echo/bad HTTP/1.1", f"dd-api-key: {a.token()}\nx: y"), 200, ""),
    Case("CL and TE", with_token("POST /echo/bad HTTP/1.1", "content-length: 5", "transfer-encoding: chunked",
         body=b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"), 0, "", by=SILENT),
    Case("TE and CL", with_token("POST /echo/bad HTTP/1.1", "transfer-encoding: chunked", "content-length: 5",
         body=b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"), 0, "", by=SILENT),
    Case("two lengths", with_token("POST /echo/bad HTTP/1.1", "content-length: 3", "content-length: 4", body=b"abcd"),
         0, "", by=SILENT),
    Case("negative length", with_token("POST /echo/bad HTTP/1.1", "content-length: -1"), 0, "", by=SILENT),
    Case("obscured TE", with_token("POST /echo/bad HTTP/1.1", "transfer-encoding: xchunked", body=chunks(b"a")), 0,
         "", by=SILENT),
    Case("bad chunk", with_token("POST /echo/bad HTTP/1.1", "transfer-encoding: chunked", body=b"zz\r\n0\r\n\r\n"),
         0, "", by=SILENT),
    Case("gzip bomb", post("/echo/bad", gzip.compress(ZEROS), "content-encoding: gzip"), 413, "body.bomb", BOMB),
    Case("zstd bomb", post("/echo/bad", zstandard.compress(ZEROS), "content-encoding: zstd"), 413, "body.bomb", BOMB),
    Case("br bomb", post("/echo/bad", brotli.compress(ZEROS), "content-encoding: br"), 413, "body.bomb", BOMB),
    Case("bomb in a bomb", post("/echo/bad", gzip.compress(gzip.compress(ZEROS)), "content-encoding: gzip, gzip"), 413,
         "body.bomb", BOMB),
    Case("corrupt gzip", post("/echo/bad", gzip.compress(b"a" * 99)[:-9] + b"123456789", "content-encoding: gzip"), 415,
         "body.undecodable", TWO_ENDS),
    Case("gzip cut short", post("/echo/bad", gzip.compress(b"a" * 99)[:-9], "content-encoding: gzip"), 415,
         "body.undecodable", TWO_ENDS),
    Case("trailing garbage", post("/echo/bad", gzip.compress(b"a") + b"garbage", "content-encoding: gzip"), 415,
         "body.undecodable", TWO_ENDS),
    Case("gzip that is none", post("/echo/bad", b'{"a": 1}', "content-encoding: gzip"), 415, "body.undecodable"),
    Case("unknown coding", post("/echo/bad", b"abc", "content-encoding: rot13"), 415, "body.undecodable", "rot13"),
    Case("too many codings", post("/echo/bad", b"abc", "content-encoding: " + ", ".join(["gzip"] * 20)), 415,
         "body.undecodable"),
    Case("what a policy forbids", post("/policed", b'{"type": "iframe"}'), 403, "policy.denied", "no frames here"),
    Case("forbidden, in gzip", post("/policed", gzip.compress(b'{"TYPE": "iframe"}'), "content-encoding: gzip"), 403,
         "policy.denied", "no frames here"),
    Case("forbidden, by another path", post("/Policed/;x", b'{"type": "iframe"}'), 403, "policy.denied"),
    Case("member twice", post("/policed", b'{"type": "iframe", "type": "note"}'), 403, "policy.uninspectable",
         "same name twice"),
    Case("not JSON", post("/policed", b"type=iframe"), 403, "policy.uninspectable", "JSON"),
    Case("not UTF-8", post("/policed", b'{"a": "\xff"}'), 403, "policy.uninspectable"),
    Case("nested too deep", post("/policed", b"[" * 5000 + b"]" * 5000), 403, "policy.uninspectable"),
    Case("larger than can be awaited", post("/policed", bytes(MAX_INSPECT + 1)), 413, "policy.uninspectable",
         str(MAX_INSPECT)),
    Case("policy on a stream", post("/policed", b'{"type": "note"}'), 403, "policy.uninspectable", via="stream"),
    Case("no credential", with_token("GET /echo/bad HTTP/1.1"), 503, "credential.unavailable", "", via="keyless"),
]  # fmt: skip

PASSED = {"backslash": "/echo/bad/worse", "folded field": "/echo/bad", "bare line feed": "/echo/bad"}
"""No refusals: Envoy makes one plain request of each, which is judged, recorded and sent as that (RFC 9112, 2.2 and
5.2, allows so). By their targets at the upstream."""


# --- what an upstream may send ---------------------------------------------------------------------------------------


def plain(body: bytes, *fields: tuple[str, str], status: str = "200 OK") -> wire.Script:
    return wire.reply(wire.answer(status, body, fields))


ECHO = json.dumps({"key": API_KEY}).encode()


@dataclass(frozen=True)
class Answer:
    """`status` and `reason` as the client sees them; with `cut`, the answer breaks off. `outcome` of the row."""

    name: str
    script: wire.Script
    status: int
    reason: str
    part: str = ""
    outcome: str = "denied"
    cut: bool = False
    row_reason: str | None = None


def of(data: bytes) -> wire.Script:
    """These bytes and the end of the connection."""
    return wire.reply(data, close=True)


HEAD = b"HTTP/1.1 200 OK\r\n"
RESET = "closed the connection, or broke the protocol"
ANSWERS = [
    Answer("unknown coding", plain(b"abc", ("content-encoding", "rot13")), 502, "body.undecodable", "rot13"),
    Answer("corrupt gzip", plain(b'{"a": 1}', ("content-encoding", "gzip")), 502, "body.undecodable"),
    Answer("gzip that turns bad", wire.chunked([gzip.compress(b"a" * 99)[:-9], b"123456789"], pause=0.5,
           headers=[("content-encoding", "gzip")]), 200, "", cut=True, row_reason="body.undecodable"),
    Answer("bomb", plain(gzip.compress(ZEROS), ("content-encoding", "gzip")), 502, "body.bomb", BOMB),
    Answer("credential in gzip", plain(gzip.compress(ECHO), ("content-encoding", "gzip")), 502,
           "response.credential_echo", "compressed"),
    Answer("credential as a field's name", plain(b"x", (API_KEY, "1")), 502, "response.credential_echo", "a field"),
    Answer("split in a field", of(HEAD + b"x: a\rset-cookie: b=1\r\ncontent-length: 0\r\n\r\n"), 200, "",
           outcome="complete"),
    Answer("null byte in a field", of(HEAD + b"x: a\0b\r\ncontent-length: 0\r\n\r\n"), 502, "upstream.reset", RESET,
           "upstream_reset"),
    Answer("two lengths", of(HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd"), 502, "upstream.reset",
           RESET, "upstream_reset"),
    Answer("CL and TE", of(HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), 502,
           "upstream.reset", RESET, "upstream_reset"),
    Answer("not HTTP", of(b"SSH-2.0-OpenSSH_9.2\r\n"), 502, "upstream.reset", RESET, "upstream_reset"),
    Answer("nothing", wire.cut(announced=0, sent=-1), 503, "upstream.reset", RESET, "upstream_reset"),
    Answer("huge field", of(HEAD + b"x: " + b"y" * 200_000 + b"\r\ncontent-length: 0\r\n\r\n"), 502, "upstream.reset",
           RESET, "upstream_reset"),
    Answer("bad chunk", of(HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"), 502,
           "upstream.reset", RESET, "upstream_reset"),
    Answer("cut", wire.cut(announced=100, sent=10), 200, "", cut=True, outcome="upstream_reset"),
    Answer("two answers", of(wire.answer(body=b"one") + wire.answer(body=b"two")), 200, "", outcome="complete"),
]  # fmt: skip


# --- sending ---------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    status: int
    head: bytes
    body: bytes
    whole: bool
    told: dict[str, Any] = field(default_factory=dict)
    row: Row | None = None

    @property
    def exchange_id(self) -> str:
        return str(self.told.get("exchange_id", ""))


def ask(port: int, request: bytes, context: ssl.SSLContext | None = None) -> Outcome:
    """One request on a connection of its own; the first answer to it, or how the connection ended."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain_socket:
        sock = context.wrap_socket(plain_socket, server_hostname=SNI) if context else plain_socket
        with sock:
            got = b""
            try:
                sock.sendall(request)
                if request[:1] == b"\x16":
                    sock.shutdown(socket.SHUT_WR)
                while not _complete(got) and (part := sock.recv(1 << 16)):
                    got += part
            except ConnectionError:
                pass
    head, _, body = got.partition(b"\r\n\r\n")
    if not got:
        return Outcome(0, b"", b"", False)
    outcome = Outcome(int(head.split(b" ", 2)[1]), head, body, _complete(got))
    if b"application/json" in head.lower():
        try:
            outcome.told = json.loads(body)
        except ValueError:
            outcome.told = {}
    return outcome


def _complete(got: bytes) -> bool:
    head, end, body = got.partition(b"\r\n\r\n")
    if not end:
        return False
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        return body.endswith(b"0\r\n\r\n")
    length = lowered.partition(b"content-length:")[2].partition(b"\r\n")[0]
    return len(body) >= int(length or 0)


@pytest.fixture(scope="module")
def web(servers: Background) -> wire.Upstream:
    return servers.enter(upstreams.web())


@pytest.fixture(scope="module")
def scripted(servers: Background) -> wire.Upstream:
    scripts = {f"/answer/{n}": answer.script for n, answer in enumerate(ANSWERS)}

    async def script(line: wire.Wire) -> bool:
        return await scripts[line.target](line)

    return servers.enter(wire.raw(script))


@dataclass
class Gate:
    stack: Stack
    ports: dict[str, int]
    ledger: Ledger
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def gate(
    tmp_path_factory: pytest.TempPathFactory, issuer: LoopbackIssuer, web: wire.Upstream, scripted: wire.Upstream
) -> Iterator[Gate]:
    more = dict(zip(("wire", "narrow", "stream", "keyless"), free_ports(4), strict=True))
    common = {"identity": {"headers": ["dd-api-key", "authorization"]}, "scopes": {"everything": ["* /**"]}}
    key = [{"header": "dd-api-key", "from": {"env": "DOUANE_TEST_API_KEY"}}]
    connections: dict[str, Any] = {
        "wire": {"upstream": scripted.url, "credentials": key, **common},
        "narrow": {"upstream": web.url, **common, "scopes": {"everything": ["GET /read/**", "GET /echo/**"]}},
        "stream": {"upstream": web.url, "body": "stream", **common},
        "keyless": {
            "upstream": web.url,
            "credentials": [{"header": "dd-api-key", "from": {"env": "NEVER_SET"}}],
            **common,
        },
    }
    for name, port in more.items():
        connections[name]["listen"] = f"127.0.0.1:{port}"
    with douane_up(
        tmp_path_factory.mktemp("bad"),
        issuer.url,
        web.url,
        issuers={"away": {"issuer": "http://127.0.0.1:1", "audience": "douane"}},
        connections=connections,
        grants=[
            {
                "name": "main",
                "issuer": "github",
                "if": "claims.repository_id == '74'",
                "allow": {name: ["everything"] for name in ("datadog", *connections)},
            }
        ],
        policies=[
            {
                "name": "no-frames",
                "match": {"requests": ["POST /policed"]},
                "effect": "deny",
                "when": "find(request.json, 'type').exists(t, t == 'iframe')",
                "message": "no frames here",
            }
        ],
        recording={"max_decoded": "4MiB"},
    ) as stack:
        bundle = stack.command("envoy", "ca").stdout
        ports = {"datadog": stack.port, "tls": stack.tls_port, **more}
        yield Gate(stack, ports, Ledger(stack), ssl.create_default_context(cadata=bundle))


@pytest.fixture(scope="module")
def outcomes(gate: Gate, issuer: LoopbackIssuer) -> dict[str, Outcome]:
    """Every case sent; with the row where there must be one."""
    actors = Actors(issuer, *(new_session(gate, issuer) for _ in range(2)))
    done = ask(gate.stack.port, raw("DELETE /.douane/session HTTP/1.1", f"dd-api-key: {actors.revoked_key}"))
    assert (done.status, done.told) == (200, {"revoked": "true"})
    found: dict[str, Outcome] = {}
    for case in (*TOKENS, *REQUESTS):
        context = gate.context if case.via == "tls" else None
        found[case.name] = ask(gate.ports[case.via], case.make(actors), context)
    for n, answer in enumerate(ANSWERS):
        request = raw(f"GET /answer/{n} HTTP/1.1", f"dd-api-key: {issuer.token()}")
        found[f"answer: {answer.name}"] = ask(gate.ports["wire"], request)
    ids = {outcome.exchange_id for outcome in found.values()} - {""}
    rows = gate.ledger.found("has({ids:Array(UUID)}, exchange_id)", wait_for=len(ids), timeout=40, ids=sorted(ids))
    by_id = {row["exchange_id"]: row for row in rows}
    for outcome in found.values():
        outcome.row = by_id.get(outcome.exchange_id)
    answered = gate.ledger.found("startsWith(path, '/answer/')", wait_for=len(ANSWERS), timeout=5)
    for row in answered:
        answer = ANSWERS[int(row["path"].rpartition("/")[2])]
        found[f"answer: {answer.name}"].row = row
    return found


def new_session(gate: Gate, issuer: LoopbackIssuer) -> str:
    request = raw("POST /.douane/session HTTP/1.1", f"dd-api-key: {issuer.token()}", "content-length: 0")
    return str(ask(gate.stack.port, request).told["session_key"])


# --- the tests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*TOKENS, *REQUESTS], ids=lambda case: case.name)
def test_a_bad_request_is_refused_and_recorded(case: Case, outcomes: dict[str, Outcome]) -> None:
    got = outcomes[case.name]
    told = " ".join(str(got.told.get(key, "")) for key in ("message", "remedy"))
    assert (got.status, got.told.get("reason", "")) == (case.status, case.reason), got.body
    assert case.part in told
    if case.by in (WORKER, ENVOY) and case.name not in PASSED:
        assert got.row is not None
        assert (got.row["decision"], got.row["reason"], got.row["status"]) == ("deny", case.reason, case.status)
        assert (got.row["outcome"], got.row["connection"]) == ("denied", "datadog" if case.via == "tls" else case.via)
    elif case.name not in PASSED:
        assert "exchange_id" not in got.told


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_a_bad_answer_does_not_reach_the_client_as_a_good_one(answer: Answer, outcomes: dict[str, Outcome]) -> None:
    got = outcomes[f"answer: {answer.name}"]
    assert (got.status, got.told.get("reason", "")) == (answer.status, answer.reason), got.body
    assert answer.part in " ".join(str(got.told.get(key, "")) for key in ("message", "remedy"))
    assert got.whole is not answer.cut
    assert got.head.count(b"\r") == got.head.count(b"\r\n") == got.head.count(b"\n"), got.head
    assert got.row is not None
    assert (got.row["decision"], got.row["outcome"]) == ("allow", answer.outcome)
    assert answer.outcome != "denied" or got.row["reason"] == (answer.row_reason or answer.reason)
    assert API_KEY.encode() not in got.body + got.row["resp_body"]


def test_no_upstream_saw_any_of_it(outcomes: dict[str, Outcome], web: wire.Upstream) -> None:
    assert sorted(seen.target for seen in web.seen) == sorted(PASSED.values())
    assert len(outcomes) >= 60


def test_secrets_of_refused_requests_are_masked(outcomes: dict[str, Outcome]) -> None:
    for name in ("expired", "garbage", "alg none", "unknown session key", "two that disagree"):
        row = outcomes[name].row
        assert row is not None
        for header, value in row["req_headers"]:
            assert header not in ("dd-api-key", "authorization") or "[MASKED:" in value, name
            assert "eyJ" not in value, name


# --- configuration ---------------------------------------------------------------------------------------------------

CONFIG = """\
version: 1
issuers:
  ci: {issuer: "https://ci.test", audience: douane}
connections:
  api:
    listen: 127.0.0.1:15001
    upstream: http://127.0.0.1:9000
    credentials: [{header: api-key, from: {env: DOUANE_TEST_API_KEY}}]
    scopes: {all: ["* /**"]}
grants:
  - {name: main, issuer: ci, if: "claims.sub == 'a'", allow: {api: [all]}}
"""
CONFIGS = [
    # what, from, to, reason, line, a part of what is said
    ("unknown key", "listen:", "lisen:", "config.unknown_key", 6, "listen"),
    ("not YAML", "audience: douane}", "audience: [douane}", "config.syntax", 3, "quotes"),
    ("grant of no issuer", "issuer: ci,", "issuer: cy,", "config.unknown_issuer", 11, "ci"),
    ("grant without an issuer", "issuer: ci, ", "", "config.missing_key", 11, "issuer"),
    ("grant of no scope", "allow: {api: [all]}", "allow: {api: [al]}", "config.unknown_scope", 11, "all"),
    ("CEL that cannot be read", "claims.sub == 'a'", "claims.sub ==", "config.condition", 11, "main"),
    ("CEL over what is not there", "claims.sub == 'a'", "claim.sub == 'a'", "config.condition", 11, "claims"),
    ("missing file", "env: DOUANE_TEST_API_KEY", "file: ./nowhere", "config.missing_file", 8, "nowhere"),
    ("upstream in the clear", "http://127.0.0.1:9000", "http://api.test", "config.plain_http", 7, "https://"),
    ("listener for all", "listen: 127.0.0.1:15001", "listen: 0.0.0.0:15001", "config.not_loopback", 6, "127.0.0.1"),
    ("whole bodies masked", "grants:", 'masking: {json: ["$..*"]}\ngrants:', "config.whole_body", 10, "recording"),
    ("no record kept", "grants:", "recording: {retention: 1h}\ngrants:", "config.value", 10, "1d"),
    ("symmetric algorithm", "audience: douane", "audience: douane, algorithms: [HS256]", "config.value", 3, "RS256"),
]


@pytest.mark.parametrize(
    ("old", "new", "reason", "line", "part"), [c[1:] for c in CONFIGS], ids=[c[0] for c in CONFIGS]
)
def test_check_names_the_fault_and_its_line(
    tmp_path: Path, old: str, new: str, reason: str, line: int, part: str
) -> None:
    assert CONFIG.count(old) == 1
    file = tmp_path / "douane.yaml"
    file.write_text(CONFIG.replace(old, new))
    command = [sys.executable, "-m", "ext_proc.cli", "check", "-c", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout
    assert f"douane.yaml:{line}:" in done.stderr
    assert reason in done.stderr
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_the_same_configuration_without_the_fault_is_good(tmp_path: Path) -> None:
    file = tmp_path / "douane.yaml"
    file.write_text(CONFIG)
    command = [sys.executable, "-m", "ext_proc.cli", "check", "-c", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
