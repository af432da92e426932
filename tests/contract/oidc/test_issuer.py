"""Issuers as they fail: away, back, with new keys, slow, wrong, hostile. A server on loopback whose every answer a test
decides; the keys and the HTTP are real."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from ext_proc import web
from ext_proc.config import Issuer
from ext_proc.errors import IdentityError
from ext_proc.oidc import KeySets, Verifier, fetch
from tests.unit.oidc import tokens as t

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Serves `answers` by path and counts; `stop` and `start` keep the port."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.scheme = "http"
        self.context: ssl.SSLContext | None = None
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                try:
                    outer.answers.get(self.path, status(404))(self)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        if self.context is not None:
            self._server.socket = self.context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def serve_keys(self, **changes: Any) -> None:
        self.answers["/.well-known/openid-configuration"] = document(
            {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **changes}
        )
        self.answers["/keys"] = document(t.JWKS)


def document(value: Any) -> Answer:
    return raw(value if isinstance(value, bytes) else json.dumps(value).encode())


def raw(body: bytes, code: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def status(code: int, **headers: str) -> Answer:
    return raw(b"{}", code, **headers)


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    one.start()
    one.serve_keys()
    yield one
    one.stop()


def verifier(server: Server, keysets: KeySets | None = None, **changes: Any) -> Verifier:
    settings = Issuer.model_validate({"issuer": server.url, "audience": "douane", **changes})
    return Verifier({"ci": settings}, keysets or KeySets())


def token(server: Server, **kwargs: Any) -> str:
    return t.sign(t.claims(iss=server.url), **kwargs)


async def refusal(verifier: Verifier, token: str) -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        await verifier.verify(token)
    return caught.value


async def test_discovery_and_keys_are_asked_for_once(server: Server) -> None:
    one = verifier(server)
    await asyncio.gather(*(one.verify(t.sign(t.claims(iss=server.url, n=n))) for n in range(20)))
    assert server.asked == ["/.well-known/openid-configuration", "/keys"]


async def test_a_given_jwks_uri_needs_no_discovery(server: Server) -> None:
    await verifier(server, jwks_uri=f"{server.url}/keys").verify(token(server))
    assert server.asked == ["/keys"]


async def test_rotation_is_seen_at_once_and_made_up_ids_do_not_hammer(server: Server) -> None:
    one = verifier(server, KeySets(cooldown=0.2))
    await one.verify(token(server))
    server.answers["/keys"] = document({"keys": [t.jwk(t.RSA, "rsa"), t.jwk(t.OTHER, "next")]})
    await asyncio.sleep(0.25)
    await one.verify(token(server, key=t.OTHER, kid="next"))
    assert server.asked.count("/keys") == 2
    for n in range(30):
        assert (await refusal(one, token(server, kid=f"made-up-{n}"))).reason == "identity.unknown_key"
    assert server.asked.count("/keys") == 2


async def test_an_issuer_that_goes_and_comes_back(server: Server) -> None:
    one = verifier(server, KeySets(cooldown=0.05, refresh_after=0.05, retry=0.05), max_stale="500ms")
    await one.verify(token(server))
    server.stop()
    gone = time.monotonic()
    await asyncio.sleep(0.1)
    await one.verify(token(server, typ="another"))  # known keys serve
    error = await refusal(one, token(server, kid="next"))
    assert (error.reason, error.http_status, error.retryable) == ("identity.issuer_unavailable", 503, True)
    await asyncio.sleep(max(0.0, gone + 0.6 - time.monotonic()))
    for stale in (token(server), token(server, kid="next")):
        assert (await refusal(one, stale)).reason == "identity.issuer_unavailable"
    server.start()
    await asyncio.sleep(0.06)
    await one.verify(token(server))


async def test_an_issuer_that_was_never_there(server: Server) -> None:
    server.stop()
    error = await refusal(verifier(server), token(server))
    assert (error.reason, error.http_status, error.retryable) == ("identity.issuer_unavailable", 503, True)
    assert error.remedy
    assert "refused" in error.detail


def trickle(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        time.sleep(0.02)


FAULTS: dict[str, tuple[dict[str, Answer], str]] = {
    "discovery is missing": ({"/.well-known/openid-configuration": status(404)}, "answered 404"),
    "discovery fails": ({"/.well-known/openid-configuration": status(500)}, "answered 500"),
    "discovery redirects": (
        {"/.well-known/openid-configuration": status(302, location="http://127.0.0.1:9/")},
        "answered 302",
    ),
    "discovery is a page": ({"/.well-known/openid-configuration": document(b"<html>")}, "not JSON"),
    "discovery is a list": ({"/.well-known/openid-configuration": document([])}, "speaks for"),
    "discovery names nobody": ({"/.well-known/openid-configuration": document({"jwks_uri": "x"})}, "speaks for"),
    "keys redirect": ({"/keys": status(301, location="/other")}, "answered 301"),
    "keys are no key set": ({"/keys": document({"a": 1})}, "not a JWKS"),
    "keys twice": ({"/keys": document(b'{"keys": [], "keys": []}')}, "twice"),
    "keys are huge": ({"/keys": document(b" " * (web.MAX_RESPONSE + 1))}, "more than 512 KiB"),
    "keys are a bomb": (
        {"/keys": raw(gzip.compress(b" " * (20 << 20), 1), **{"content-encoding": "gzip"})},
        "more than 512 KiB",
    ),
    "keys trickle": ({"/keys": trickle}, "took more than"),
    "keys end early": ({"/keys": raw(b"{", **{"transfer-encoding": "chunked"})}, "/keys"),
}


@pytest.mark.parametrize(("answers", "said"), FAULTS.values(), ids=FAULTS.keys())
async def test_answers_that_are_none(
    server: Server, answers: dict[str, Answer], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "took" in said:
        monkeypatch.setattr(fetch, "DEADLINE", 0.3)
    server.answers |= answers
    error = await refusal(verifier(server), token(server))
    assert error.reason == "identity.issuer_unavailable"
    assert said in error.detail
    assert said not in str(error)


@pytest.mark.parametrize("uri", ["http://keys.example/", "file:///etc/passwd", "https://u:p@keys.example/", 7, None])
async def test_discovery_cannot_send_us_anywhere(server: Server, uri: Any) -> None:
    server.serve_keys(jwks_uri=uri)
    error = await refusal(verifier(server), token(server))
    assert error.reason == "identity.issuer_unavailable"
    assert "neither https" in error.detail or "names no jwks_uri" in error.detail
    assert server.asked == ["/.well-known/openid-configuration"]


async def test_discovery_of_another_issuer(server: Server) -> None:
    server.serve_keys(issuer="https://token.actions.githubusercontent.com")
    assert "speaks for" in (await refusal(verifier(server), token(server))).detail


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """(CA bundle, key with certificate) for 127.0.0.1."""
    import ipaddress

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(t.EC.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(t.EC, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    key = t.EC.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    bundle, both = tmp_path / "ca.pem", tmp_path / "server.pem"
    bundle.write_bytes(made)
    both.write_bytes(key + made)
    return bundle, both


async def test_an_issuer_with_its_own_ca(certificate: tuple[Path, Path]) -> None:
    """A Kubernetes API server's certificate is signed by the cluster's own CA."""
    bundle, both = certificate
    server = Server()
    server.scheme = "https"
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.context.load_cert_chain(both)
    server.start()
    try:
        server.serve_keys()
        await verifier(server, ca_file=str(bundle)).verify(token(server))
        error = await refusal(verifier(server), token(server))
        assert error.reason == "identity.issuer_unavailable"
        assert "certificate" in error.detail.lower()
        error = await refusal(verifier(server, ca_file=str(bundle.parent / "missing")), token(server))
        assert "CA bundle" in error.detail
    finally:
        server.stop()
