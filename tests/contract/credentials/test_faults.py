"""Every source that asks a server: what its silence, refusal or nonsense amounts to, and what nobody gets to see."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ext_proc import web
from ext_proc.config import Credential
from ext_proc.credentials import Credentials
from ext_proc.errors import CredentialError
from tests.contract.credentials.peer import Asked, Peer, Reply

PEM = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    .decode()
)
SECRET = {"env": "DOUANE_TEST_SECRET"}
ACCOUNT = "c0ea5a28-68e7-11ee-af78-7221d1e45f66"
SOURCES: dict[str, dict[str, Any]] = {
    "oauth2": {"token_url": "{}/token", "client_id": "me", "client_secret": SECRET},
    "token_exchange": {"token_url": "{}/token", "client_id": "me", "client_secret": SECRET, "auth": "post"},
    "github_app": {"app_id": 7, "private_key": {"env": "DOUANE_TEST_PEM"}, "installation_id": 9, "api_url": "{}"},
    "datadog": {
        "service_account": ACCOUNT,
        "scopes": ["dashboards_read"],
        "api_key": SECRET,
        "app_key": SECRET,
        "api_url": "{}",
    },
    "vault": {"url": "{}", "path": "x", "field": "key", "engine": "kv1", "auth": {"token": SECRET}},
}
# fault: reason, HTTP status, what is said
OUTCOMES = {
    "503": ("credential.unavailable", 503, "answers 503"),
    "429": ("credential.unavailable", 503, "answers 429"),
    "401": ("credential.refused", 502, "refuses (401"),
    "redirect": ("credential.invalid", 502, "redirects are not followed"),
    "garbage": ("credential.invalid", 502, "not JSON"),
    "array": ("credential.invalid", 502, "no object"),
    "twice": ("credential.invalid", 502, "cannot be read"),
    "nothing": ("credential.invalid", 502, "without"),
    "huge": ("credential.invalid", 502, "more than 512 KiB"),
    "silent": ("credential.timeout", 503, "more than 0.4 s"),
    "trickle": ("credential.timeout", 503, "more than 0.4 s"),
    "hangs up": ("credential.unavailable", 503, "cannot be reached"),
    "echoes": ("credential.unavailable", 503, "cannot be reached"),
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUANE_TEST_SECRET", "s3cret-of-the-client")
    monkeypatch.setenv("DOUANE_TEST_PEM", PEM)


def nothing(asked: Asked) -> Reply:
    return 500, {}


def credentials(kind: str, url: str) -> Credentials:
    settings = {k: v.format(url) if isinstance(v, str) else v for k, v in SOURCES[kind].items()}
    one = {"name": "the-key", "bearer": True, "from": {kind: {**settings, "timeout": "400ms"}}}
    return Credentials([Credential.model_validate(one)])


@pytest.mark.parametrize("fault", OUTCOMES)
@pytest.mark.parametrize("kind", SOURCES)
async def test_a_server_that_fails(kind: str, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Peer(nothing) as peer:
        peer.fault = fault
        found = credentials(kind, peer.url)
        with pytest.raises(CredentialError) as caught:
            await found.resolve(b"ey.caller.token")
        reason, status, said = OUTCOMES[fault]
        error = caught.value
        assert (error.reason, error.http_status) == (reason, status)
        assert said in error.message
        assert "the credential the-key: " in error.message
        assert kind.partition("_")[0] in error.message
        everything = str(error) + error.detail + repr(error.diagnostics()) + caplog.text
        for secret in ("s3cret", "ey.caller.token", "BEGIN RSA", "bWU6czNjcmV0", "Bearer ey"):
            assert secret not in everything
        asked = len(peer.asked)
        peer.fault = None
        with pytest.raises(CredentialError):
            await found.resolve(b"ey.caller.token")
        assert len(peer.asked) == asked, "a dead source is not asked again within a second"
        assert any(b"s3cret-of-the-client" in v or b"BEGIN RSA" in v for _, v in found.known()), "masked all the same"


@pytest.mark.parametrize("kind", SOURCES)
async def test_a_server_that_is_not_there(kind: str) -> None:
    peer = Peer(nothing)
    peer.stop()
    found = credentials(kind, peer.url)
    faults = await asyncio.gather(*(found.resolve(b"ey.caller.token") for _ in range(100)), return_exceptions=True)
    assert {(f.reason, f.http_status) for f in faults if isinstance(f, CredentialError)} == {
        ("credential.unavailable", 503)
    }


@pytest.mark.parametrize("kind", SOURCES)
async def test_a_hundred_waiters_one_question(kind: str) -> None:
    with Peer(nothing) as peer:
        peer.delay = 0.1
        found = credentials(kind, peer.url)
        await asyncio.gather(*(found.resolve(b"ey.caller.token") for _ in range(100)), return_exceptions=True)
        assert len(peer.asked) == 1


async def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with Peer(lambda asked: (200, {"access_token": "t0ken", "token_type": "Bearer", "expires_in": 60})) as peer:
        (found,) = await credentials("oauth2", peer.url).resolve()
        assert found.value == b"Bearer t0ken"


def _trickle_heads(listening: socket.socket) -> None:
    held: list[socket.socket] = []
    listening.settimeout(0.01)
    with contextlib.suppress(OSError):
        while True:
            with contextlib.suppress(TimeoutError):
                held.append(listening.accept()[0])
                held[-1].sendall(b"HTTP/1.1 200 OK\r\nx: ")
            for one in held:
                one.sendall(b"y")
    for one in held:
        one.close()


async def test_a_server_that_trickles_its_head_has_so_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte is in time, so only the one who waits can leave; the thread cannot."""
    monkeypatch.setattr(web, "MOST_UNANSWERED", 2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=_trickle_heads, args=(listening,))
        server.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/token"
        for said in ("did not answer", "did not answer", "has left 2 requests open"):
            with pytest.raises(web.WebError, match=said):
                await web.request("GET", url, timeout=0.3)
    server.join()
