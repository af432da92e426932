"""The hub as a gate meets it: session keys over a real socket, and who may connect at all."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ext_proc.config import Config, Hub, Tls
from ext_proc.errors import HubError
from ext_proc.exchange import SignedClaims
from ext_proc.hub.replica import Replicas
from ext_proc.hub.server import Authorities, listening, own
from ext_proc.hubclient import Authority, HubClient
from ext_proc.hubclient import authority as hubclient
from ext_proc.pb import hub_pb2

CLAIMS = SignedClaims({"iss": "https://issuer.example", "sub": "repo:é", "run_id": "1"})
HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="douane-") as path:  # short: a socket's path has at most 107 bytes
        yield Path(path)


@asynccontextmanager
async def serving(settings: Hub) -> AsyncIterator[Replicas]:
    replicas = await asyncio.to_thread(Replicas, Path(settings.path))
    authorities = await asyncio.to_thread(Authorities.open, Path(settings.path))
    async with listening(Config(version=1, hub=settings), replicas, authorities):
        yield replicas
    replicas.close()
    authorities.close()


@asynccontextmanager
async def client(settings: Hub) -> AsyncIterator[HubClient]:
    made = HubClient(settings)
    yield made
    await made.close()


def local(folder: Path) -> Hub:
    return Hub(path=str(folder / "hub"), listen=f"unix:{folder}/hub.sock")


async def test_a_session_key_lives_until_it_is_revoked(folder: Path) -> None:
    async with serving(local(folder)), client(local(folder)) as hub:
        gate = Authority(hub)
        key, expires_us = await gate.create_session("datadog", "github", CLAIMS, HOUR)
        assert abs(expires_us / 1e6 - time.time() - 3600) < 10
        assert await gate.resolve_session(key) == ("datadog", "github", CLAIMS)
        assert await gate.resolve_session("dse_" + "x" * 43) is None
        assert await gate.revoke_session(key)
        assert await gate.resolve_session(key) is None
        assert not await gate.revoke_session(key)


async def test_an_answer_is_used_for_a_few_seconds_and_never_beyond_the_expiry(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(local(folder)), client(local(folder)) as hub, client(local(folder)) as other_hub:
        gate, other = Authority(hub), Authority(other_hub)
        key, expires_us = await gate.create_session("datadog", "github", CLAIMS, HOUR)
        assert await gate.resolve_session(key)
        await other.revoke_session(key)
        assert await gate.resolve_session(key)  # within the time to live
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: expires_us * 1000 + 1)
            assert await gate.resolve_session(key) is None
        now = time.monotonic()
        monkeypatch.setattr(hubclient.time, "monotonic", lambda: now + 5.1)
        assert await gate.resolve_session(key) is None


async def test_a_hub_that_is_away_is_a_clean_error(folder: Path) -> None:
    async with client(local(folder)) as hub:
        gate = Authority(hub)
        for ask in (gate.create_session("c", "i", CLAIMS, HOUR), gate.resolve_session("k"), gate.revoke_session("k")):
            with pytest.raises(HubError) as caught:
                await ask
            assert (caught.value.reason, caught.value.http_status) == ("hub.unavailable", 503)
            assert caught.value.retryable
            assert str(folder) not in str(caught.value)


async def test_what_is_no_session_is_refused(folder: Path) -> None:
    async with serving(local(folder)), client(local(folder)) as hub:
        gate = Authority(hub)
        big = SignedClaims({"x": "y" * 70_000})
        for ask in (
            gate.create_session("", "i", CLAIMS, HOUR),
            gate.create_session("c", "", CLAIMS, HOUR),
            gate.create_session("c", "i", CLAIMS, -HOUR),
            gate.create_session("c", "i", CLAIMS, 24 * 31 * HOUR),
            gate.create_session("c", "i", big, HOUR),
        ):
            with pytest.raises(HubError) as caught:
                await ask
            assert caught.value.reason == "hub.refused"


async def test_two_hubs_never_own_one_folder(folder: Path) -> None:
    with own(folder), pytest.raises(HubError) as caught, own(folder):
        pass
    assert caught.value.reason == "hub.locked"
    with own(folder):
        pass


async def test_the_whole_process_starts_tells_what_is_missing_and_stops(folder: Path) -> None:
    console, store = free_port(), free_port()
    config = folder / "douane.yaml"
    config.write_text(
        f"""
version: 1
store: {{url: "embedded:./store", listen: "127.0.0.1:{store}"}}
console: {{listen: "127.0.0.1:{console}"}}
hub: {{path: ./hub, listen: "unix:./hub.sock"}}
gate: {{run_dir: ./run, drain: 500ms}}
"""
    )
    hub = await asyncio.create_subprocess_exec(sys.executable, "-m", "ext_proc.app", "hub", "-c", str(config))
    try:
        status, body = await asyncio.wait_for(answer(f"http://127.0.0.1:{console}/readyz"), 20)
        assert status == 503  # no store runs
        assert body["conditions"]["ledger"]["ok"] is False
        assert body["conditions"]["gate"] == {"ok": True, "message": "no gate beside this hub"}
        assert await answer(f"http://127.0.0.1:{console}/healthz") == (200, {"alive": True})
        async with client(local(folder)) as gate:
            assert (await Authority(gate).create_session("c", "i", CLAIMS, HOUR))[0].startswith("dse_")
    finally:
        hub.terminate()
        assert await asyncio.wait_for(hub.wait(), 10) == 0


async def answer(url: str) -> tuple[int, dict[str, Any]]:
    """The first answer, once something listens there."""

    def ask() -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.load(refused)

    while True:
        try:
            return await asyncio.to_thread(ask)
        except OSError:
            await asyncio.sleep(0.05)


# --- on the network -------------------------------------------------------------------------------------------------


class Signer:
    """A throwaway CA and what it signs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])
        ca = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, 0), critical=True)
        self.ca_file = self._write(
            "ca.pem", ca.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )

    def leaf(self, common_name: str, *sans: x509.GeneralName) -> Tls:
        key = ec.generate_private_key(ec.SECP256R1())
        built = self._builder(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)]), key)
        if sans:
            built = built.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        cert = built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Tls(
            cert_file=self._write(f"{common_name}.pem", cert),
            key_file=self._write(f"{common_name}.key", private),
            ca_file=self.ca_file,
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + HOUR)
        )

    def _write(self, name: str, content: bytes) -> str:
        path = self._folder / name
        path.write_bytes(content)
        return str(path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def on_the_network(folder: Path, ours: Signer) -> Hub:
    tls = ours.leaf("hub", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    return Hub(path=str(folder / "hub"), listen=f"127.0.0.1:{free_port()}", tls=tls)


def hello(journal: str = "0b1c2d3e-0000-4000-8000-000000000000") -> hub_pb2.ShipRequest:
    return hub_pb2.ShipRequest(hello=hub_pb2.Hello(gate="g", slot=0, slots=1, journal=journal))


async def test_the_certificate_names_the_writer(folder: Path) -> None:
    ours = Signer(folder / "tls")
    settings = on_the_network(folder, ours)
    spiffe = x509.UniformResourceIdentifier("spiffe://td/ns/ci/sa/agent")
    async with serving(settings) as replicas:
        for tls in (ours.leaf("one", spiffe, x509.DNSName("pod")), ours.leaf("two")):
            async with client(settings.model_copy(update={"tls": tls})) as gate:
                call = gate.ship()
                await call.write(hello())
                assert (await call.read()).durable_offset == 0
                call.cancel()
        assert [replica.writer for replica in replicas.journals()] == ["spiffe://td/ns/ci/sa/agent", "two"]


async def test_a_key_is_of_no_use_to_another_writer(folder: Path) -> None:
    ours = Signer(folder / "tls")
    settings = on_the_network(folder, ours)
    one, two = (settings.model_copy(update={"tls": ours.leaf(name)}) for name in ("one", "two"))
    async with serving(settings), client(one) as first, client(two) as second:
        key, _ = await Authority(first).create_session("datadog", "github", CLAIMS, HOUR)
        assert await Authority(second).resolve_session(key) is None
        assert not await Authority(second).revoke_session(key)
        assert await Authority(first).resolve_session(key)


async def test_nobody_connects_without_a_certificate_of_our_ca(folder: Path) -> None:
    ours, foreign = Signer(folder / "tls"), Signer(folder / "foreign")
    settings = on_the_network(folder, ours)
    stranger = foreign.leaf("stranger").model_copy(update={"ca_file": ours.ca_file})
    async with serving(settings) as replicas:
        root = grpc.ssl_channel_credentials((folder / "tls/ca.pem").read_bytes())
        async with (
            grpc.aio.secure_channel(settings.listen, root) as without,
            grpc.aio.insecure_channel(settings.listen) as plain,
            client(settings.model_copy(update={"tls": stranger})) as signed_by_another,
        ):
            for channel in (without, plain, signed_by_another.channel):
                resolve = channel.unary_unary("/douane.hub.v1.Authority/ResolveSession")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await resolve(hub_pb2.ResolveSessionRequest(key_sha256=bytes(32)).SerializeToString())
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert replicas.journals() == []


async def test_a_gate_does_not_talk_to_a_hub_of_another_ca(folder: Path) -> None:
    ours, foreign = Signer(folder / "tls"), Signer(folder / "foreign")
    settings = on_the_network(folder, foreign)
    async with serving(settings), client(settings.model_copy(update={"tls": ours.leaf("gate")})) as gate:
        with pytest.raises(HubError) as caught:
            await Authority(gate).create_session("c", "i", CLAIMS, HOUR)
        assert caught.value.reason == "hub.unavailable"


async def test_plaintext_on_the_network_is_refused_on_both_sides(folder: Path) -> None:
    settings = Hub(path=str(folder / "hub"), listen=f"127.0.0.1:{free_port()}")
    with pytest.raises(HubError) as caught:
        async with serving(settings):
            pass
    assert caught.value.reason == "hub.tls"
    with pytest.raises(HubError) as caught:
        HubClient(settings).ship()
    assert caught.value.reason == "hub.tls"


async def test_a_taken_port_and_missing_files_are_named(folder: Path) -> None:
    ours = Signer(folder / "tls")
    settings = on_the_network(folder, ours)
    with socket.create_server(("127.0.0.1", int(settings.listen.rpartition(":")[2]))):
        with pytest.raises(HubError) as caught:
            async with serving(settings):
                pass
        assert caught.value.reason == "hub.listen"
    (folder / "tls/hub.key").unlink()
    with pytest.raises(HubError, match=r"hub\.key") as caught:
        async with serving(settings):
            pass
    assert caught.value.reason == "hub.tls"
