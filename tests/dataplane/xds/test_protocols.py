"""Each protocol through Envoy and a worker that lets pass: what Envoy must not change, cut or buffer."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import aiohttp
import grpc.aio
import h2.config
import h2.connection
import h2.events
import pytest

from tests.dataplane import upstreams, wire
from tests.dataplane.envoy_process import EnvoyProcess, hold
from tests.dataplane.xds.gates import running

pytestmark = pytest.mark.dataplane
HOST = b"\r\nHost: any.example\r\n"


async def h2_get(port: int, path: str) -> tuple[dict[str, str], bytes]:
    """A GET over HTTP/2 with prior knowledge."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    head = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "any.example")]
    connection.send_headers(1, head, end_stream=True)
    writer.write(connection.data_to_send())
    headers: dict[str, str] = {}
    body = b""
    try:
        while True:
            for event in connection.receive_data(await reader.read(1 << 16)):
                if isinstance(event, h2.events.ResponseReceived):
                    headers = {str(name): str(value) for name, value in event.headers or []}
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    return headers, body
            writer.write(connection.data_to_send())
    finally:
        writer.close()


async def test_http2_websocket_and_events(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    folder.mkdir()
    ca = upstreams.Ca.create(folder)
    async with (
        upstreams.web() as plain,
        upstreams.web(ca=ca) as tls,
        running(
            tmp_path,
            web=f"upstream: {plain.url}",
            tls=f"upstream: {tls.url}, upstream_ca_file: {ca.file}",
            based=f"upstream: {plain.url}/echo/base/",
        ) as gate,
        aiohttp.ClientSession() as session,
    ):
        headers, body = await h2_get(gate.ports["web"], "/echo/h2?q=1")
        assert (headers[":status"], json.loads(body)["target"]) == ("200", "/echo/h2?q=1")
        async with session.get(f"{gate.url('based')}/v1/x?q=1") as response:
            assert (await response.json())["target"] == "/echo/base/v1/x?q=1"
        for name in ("web", "tls"):  # the second over the cluster of HTTP/1.1 only
            async with session.ws_connect(f"{gate.url(name)}/ws") as websocket:
                await websocket.send_str("ping")
                assert (await websocket.receive()).data == "ping"
        async with session.get(f"{gate.url('web')}/sse?events=3&pause=0.05") as response:
            assert (await response.read()).count(b"data:") == 3
        for coding in ("gzip", "br", "zstd"):
            async with session.get(
                f"{gate.url('web')}/coded/{coding}", headers={"accept-encoding": coding}
            ) as response:
                assert await response.read() == upstreams.text(2000)


async def test_grpc_of_all_kinds(tmp_path: Path) -> None:
    async with (
        upstreams.grpc_echo() as upstream,
        running(tmp_path, rpc=f"upstream: {upstream.url}, upstream_http2: true") as gate,
        grpc.aio.insecure_channel(f"127.0.0.1:{gate.ports['rpc']}") as channel,
    ):
        stream = channel.stream_stream(f"/{upstreams.GRPC_SERVICE}/Bidi")()
        await stream.write(b"one")
        first = await stream.read()  # answered before the request ends
        await stream.done_writing()
        assert first == b"one"
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        assert ("echo-trailer-bin", b"\x00\x01end") in list(await stream.trailing_metadata())


async def test_heads_without_bodies_and_trailers(tmp_path: Path) -> None:
    answers = {
        b"GET /204": (wire.reply(wire.NO_CONTENT), b"HTTP/1.1 204 No Content"),
        b"GET /304": (wire.reply(wire.NOT_MODIFIED), b"content-length: 1234\r\n"),
        b"HEAD /h": (wire.reply(wire.HEAD), b"content-length: 4321\r\n"),
        b"GET /trailers": (wire.chunked([b"ab"], trailers=[("x-sum", "5")]), b"0\r\nx-sum: 5\r\n\r\n"),
    }
    for request, (script, expected) in answers.items():
        async with wire.raw(script) as upstream, running(tmp_path, up=f"upstream: {upstream.url}") as gate:
            assert expected in await gate.raw("up", request + b" HTTP/1.1" + HOST + b"te: trailers\r\n\r\n")


async def test_request_trailers_and_continue(tmp_path: Path) -> None:
    release, holding = asyncio.Event(), asyncio.Event()
    script = wire.reply(wire.answer(body=b"done"))
    async with wire.raw(script) as upstream, running(tmp_path, up=f"upstream: {upstream.url}") as gate:
        request = b"POST /t HTTP/1.1" + HOST + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-sum: 5\r\n\r\n"
        assert (await gate.raw("up", request)).endswith(b"done")
        assert (upstream.seen[-1].trailers, upstream.seen[-1].body_length) == ((("x-sum", "5"),), 2)

        # The client sends its body only after 100; the worker lets go only after the body. Envoy unties that.
        gate.worker.by_path["/c"] = hold(release, holding)
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports["up"])
        writer.write(b"POST /c HTTP/1.1" + HOST + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        async with asyncio.timeout(2):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        release.set()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()
        assert upstream.seen[-1].all("expect") == []
        assert upstream.seen[-1].body_length == 2


async def test_timeout_is_until_the_answer_begins(tmp_path: Path) -> None:
    release, holding = asyncio.Event(), asyncio.Event()
    slow = wire.chunked([b"a", b"b", b"c", b"d"], pause=0.5)
    async with (
        wire.raw(wire.stall()) as stalled,
        wire.raw(slow) as streaming,
        running(
            tmp_path,
            stalled=f"upstream: {stalled.url}, timeout: 1s",
            streaming=f"upstream: {streaming.url}, timeout: 1s",
        ) as gate,
    ):
        got = await gate.raw("stalled", b"GET /x HTTP/1.1" + HOST + b"connection: close\r\n\r\n", silence=3)
        assert got.startswith(b"HTTP/1.1 504")
        assert b'"upstream.timeout"' in got
        assert len(stalled.seen) == 1  # not sent again
        [logged] = await gate.worker.logged()
        assert logged.common_properties.response_flags.upstream_request_timeout

        gate.worker.by_path["/held"] = hold(release, holding)  # neither a hold nor a long answer counts
        asking = asyncio.create_task(
            gate.raw("streaming", b"GET /held HTTP/1.1" + HOST + b"connection: close\r\n\r\n", silence=4)
        )
        await holding.wait()
        await asyncio.sleep(1.3)
        release.set()
        assert (await asking).endswith(b"1\r\nd\r\n0\r\n\r\n")


async def test_how_streams_end_is_logged(tmp_path: Path) -> None:
    async with (
        wire.raw(wire.cut(announced=100, sent=10)) as upstream,
        wire.raw(wire.stall()) as stalled,
        running(tmp_path, cut=f"upstream: {upstream.url}", stalled=f"upstream: {stalled.url}") as gate,
    ):
        await gate.raw("cut", b"GET /cut HTTP/1.1" + HOST + b"\r\n")
        await gate.raw("stalled", b"GET /left HTTP/1.1" + HOST + b"\r\n", silence=0.3)  # and the client leaves
        cut, left = await gate.worker.logged(2)
        ids = [head.exchange.exchange_id for head in gate.worker.heads]
    assert [cut.request.request_id, left.request.request_id] == [str(exchange_id) for exchange_id in ids]
    assert cut.common_properties.response_flags.upstream_protocol_error
    assert left.common_properties.response_flags.downstream_connection_termination


def resident(proxy: EnvoyProcess) -> int:
    """Envoy's memory in MiB."""
    status = Path(f"/proc/{proxy.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) >> 10


async def test_memory_is_bounded(tmp_path: Path) -> None:
    size = 64 << 20
    async with (
        upstreams.web() as upstream,
        running(tmp_path, web=f"upstream: {upstream.url}") as gate,
        aiohttp.ClientSession() as session,
    ):
        before = resident(gate.proxy)
        async with session.get(f"{gate.url('web')}/download?bytes={size}") as response:
            await asyncio.sleep(1)  # a client that does not read holds the upstream back, not Envoy's memory
            held = resident(gate.proxy)
            got = 0
            async for part in response.content.iter_any():
                got += len(part)
        async with session.post(f"{gate.url('web')}/upload", data=io.BytesIO(b"x" * size)) as response:
            assert (await response.json())["length"] == size
        assert got == size
        assert max(held, resident(gate.proxy)) - before < 40
