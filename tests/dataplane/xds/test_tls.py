"""TLS mode and TLS to the upstream: names and certificates."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.dataplane import upstreams
from tests.dataplane.certificates import Ca
from tests.dataplane.xds.gates import Gate, running

pytestmark = pytest.mark.dataplane


async def ask(
    gate: Gate, sni: str | None, host: str, path: str = "/echo", alpn: str = "http/1.1"
) -> tuple[int, dict[str, Any]]:
    """A request in TLS mode, trusting nothing but the gate's own CA."""
    context = ssl.create_default_context(cafile=gate.proxy.ca_file)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.check_hostname = sni is not None
    context.set_alpn_protocols([alpn])
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.tls_port, ssl=context, server_hostname=sni or "")
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line for line in head.split("\r\n") if line.startswith("content-length")).split(":")[1]
        return int(head.split(" ")[1]), json.loads(await reader.readexactly(int(length)))
    finally:
        writer.close()


async def test_each_host_by_its_own_name_only(tmp_path: Path) -> None:
    async with (
        upstreams.web() as upstream,
        running(
            tmp_path,
            a=f"hosts: [a.example.com, b.example.com], upstream: {upstream.url}",
            c=f"hosts: [c.example.com], upstream: {upstream.url}",
        ) as gate,
    ):
        for sni, host in (("a.example.com", "a.example.com"), ("b.example.com", "B.example.com:443")):
            status, seen = await ask(gate, sni, host)
            assert (status, dict(seen["headers"])["host"]) == (200, f"127.0.0.1:{upstream.port}")
            assert gate.worker.heads[-1].exchange.sni == sni
        # Another connection's host, and another host of the same connection.
        for sni, host in (("a.example.com", "c.example.com"), ("a.example.com", "b.example.com")):
            status, told = await ask(gate, sni, host)
            assert (status, told["reason"]) == (421, "request.host_mismatch")
        assert len(gate.worker.heads) == 2
        for unknown in ("d.example.com", None):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await ask(gate, unknown, "a.example.com")
        gate.ports["tls"] = gate.tls_port
        assert await gate.raw("tls", b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n") == b""  # not TLS


class Impostor(Ca):
    """Signs for another name than the server's."""

    def server(self, *names: str, alpn: Sequence[str] = ("http/1.1",)) -> ssl.SSLContext:
        return Ca.server(self, "other.example", alpn=alpn)


async def test_upstream_must_prove_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    folder.mkdir()
    ca = Ca.create(folder)
    impostor = Impostor(ca.file, ca.key, ca.certificate)
    async with (
        upstreams.web(ca=ca) as upstream,
        upstreams.web(ca=impostor) as other,
        running(
            tmp_path,
            name=f"upstream: https://localhost:{upstream.port}, upstream_ca_file: {ca.file}",
            address=f"upstream: https://127.0.0.1:{upstream.port}, upstream_ca_file: {ca.file}",
            untrusted=f"upstream: https://127.0.0.1:{upstream.port}",
            misnamed=f"upstream: https://localhost:{other.port}, upstream_ca_file: {ca.file}",
            misaddressed=f"upstream: https://127.0.0.1:{other.port}, upstream_ca_file: {ca.file}",
        ) as gate,
    ):
        request = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
        for connection in ("name", "address"):
            assert (await gate.raw(connection, request)).startswith(b"HTTP/1.1 200")
        for connection in ("untrusted", "misnamed", "misaddressed"):
            got = await gate.raw(connection, request)
            assert got.startswith(b"HTTP/1.1 503")
            assert b'"upstream.unreachable"' in got
    assert (len(upstream.seen), len(other.seen)) == (2, 0)


class Greedy(Ca):
    """Its servers claim HTTP/2, which they do not speak."""

    def server(self, *names: str, alpn: Sequence[str] = ("h2", "http/1.1")) -> ssl.SSLContext:
        return Ca.server(self, *names, alpn=alpn)


async def test_upgrades_go_by_http1_where_alpn_would_choose_http2(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    folder.mkdir()
    ca = Ca.create(folder)
    async with (
        upstreams.web(ca=Greedy(ca.file, ca.key, ca.certificate)) as upstream,
        running(tmp_path, web=f"upstream: {upstream.url}, upstream_ca_file: {ca.file}") as gate,
        aiohttp.ClientSession() as session,
    ):
        got = await gate.raw("web", b"GET /echo HTTP/1.1\r\nHost: a\r\nconnection: close\r\n\r\n", silence=2)
        assert got.startswith((b"HTTP/1.1 502", b"HTTP/1.1 503"))
        assert b'"upstream.reset"' in got  # it did choose HTTP/2
        async with session.ws_connect(f"{gate.url('web')}/ws") as websocket:
            await websocket.send_str("ping")
            assert (await websocket.receive()).data == "ping"
