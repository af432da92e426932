"""The upstream servers of this suite do what the protocol tests rely on, without Envoy between."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import zlib
from typing import TYPE_CHECKING

import aiohttp
import grpc
import grpc.aio
import pytest
from yarl import URL

from tests.dataplane import upstreams, wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


async def exchange(upstream: wire.Upstream, request: bytes) -> bytes:
    """Send raw bytes; all that comes back until the server closes or is silent for 0.3 s."""
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
    writer.write(request)
    got = b""
    try:
        while part := await asyncio.wait_for(reader.read(65536), 0.3):
            got += part
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    return got


GET = b"GET /x HTTP/1.1\r\nhost: up\r\n\r\n"


async def test_chunks_and_trailers() -> None:
    async with wire.raw(wire.chunked([b"ab", b"cde"], trailers=[("x-sum", "5")])) as upstream:
        got = await exchange(upstream, GET)
    assert got.endswith(b"2\r\nab\r\n3\r\ncde\r\n0\r\nx-sum: 5\r\n\r\n")
    assert b"trailer: x-sum\r\n" in got


async def test_the_requests_chunks_and_trailers_are_read() -> None:
    request = b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\nx-sum: 5\r\n\r\n"
    async with wire.raw(wire.reply(wire.NO_CONTENT)) as upstream:
        assert await exchange(upstream, request + GET) == wire.NO_CONTENT * 2
    assert upstream.seen[0].body_sha256 == hashlib.sha256(b"abcde").hexdigest()
    assert upstream.seen[0].trailers == (("x-sum", "5"),)
    assert [s.method for s in upstream.seen] == ["POST", "GET"]


async def test_continue_comes_before_the_body() -> None:
    head = b"POST /x HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    async with wire.raw(wire.expect_continue(wire.answer())) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(head)
        assert await reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert upstream.seen == []
        writer.write(b"ok")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        writer.close()


async def test_an_early_answer_precedes_the_body() -> None:
    async with wire.raw(wire.early(wire.answer("413 Content Too Large"))) as upstream:
        got = await exchange(upstream, b"POST /x HTTP/1.1\r\ncontent-length: 1000\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 413")
        assert upstream.seen == []


async def test_a_cut_ends_in_the_middle() -> None:
    async with wire.raw(wire.cut(announced=100, sent=10)) as upstream:
        got = await exchange(upstream, GET)
    assert b"content-length: 100\r\n\r\n" in got
    assert got.endswith(b"\r\n\r\n" + b"x" * 10)


async def test_a_stalled_request_is_seen_and_its_client_leaving_too() -> None:
    async with wire.raw(wire.stall()) as upstream:
        assert await exchange(upstream, GET) == b""
        assert len(upstream.seen) == 1
        await asyncio.sleep(0.05)
        assert upstream.aborted == 1


async def test_bodyless_answers_announce_what_they_do_not_send() -> None:
    assert wire.NOT_MODIFIED.endswith(b"content-length: 1234\r\n\r\n")
    assert wire.HEAD.endswith(b"content-length: 4321\r\n\r\n")
    assert b"content-length" not in wire.NO_CONTENT


async def test_echo_tells_what_it_saw(http: aiohttp.ClientSession) -> None:
    body = zlib.compress(b"body")
    headers = [("X-Twice", "1"), ("X-Twice", "2"), ("content-encoding", "deflate")]
    async with (
        upstreams.web() as upstream,
        http.post(URL(f"{upstream.url}/echo/a%20b?q=%2F", encoded=True), data=body, headers=headers) as response,
    ):
        saw = await response.json()
    assert saw["target"] == "/echo/a%20b?q=%2F"
    assert [v for n, v in saw["headers"] if n.lower() == "x-twice"] == ["1", "2"]
    assert saw["sha256"] == hashlib.sha256(body).hexdigest()
    assert upstream.seen[0].all("X-TWICE") == ["1", "2"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
async def test_content_codings(http: aiohttp.ClientSession, coding: str) -> None:
    async with upstreams.web() as upstream, http.get(f"{upstream.url}/coded/{coding}?bytes=3000") as response:
        body = await response.read()
        assert response.headers["content-encoding"] == coding
    assert body == upstreams.CODINGS[coding](upstreams.text(3000))
    assert len(body) < 1000
    assert len(upstreams.text(3000)) == 3000


@pytest.mark.parametrize("query", ["", "&chunked=1"])
async def test_downloads_and_uploads(http: aiohttp.ClientSession, query: str) -> None:
    size = 1_000_003
    async with upstreams.web() as upstream:
        async with http.get(f"{upstream.url}/download?bytes={size}{query}") as response:
            body = await response.read()
        async with http.put(f"{upstream.url}/upload", data=body) as response:
            said = await response.json()
    assert said == {"sha256": upstreams.download_sha256(size), "length": size}


async def test_events_arrive_one_by_one(http: aiohttp.ClientSession) -> None:
    async with upstreams.web() as upstream, http.get(f"{upstream.url}/sse?events=3&pause=0.05") as response:
        assert await response.content.readuntil(b"\n\n") == b"id: 0\ndata: tick 0\n\n"
        assert (await response.content.read()).count(b"data: tick") == 2


async def test_websocket_frames_come_back(http: aiohttp.ClientSession) -> None:
    async with upstreams.web() as upstream, http.ws_connect(f"{upstream.url}/ws", protocols=["echo"]) as ws:
        await ws.send_str("text")
        await ws.send_bytes(b"\x00bytes")
        assert ws.protocol == "echo"
        assert await ws.receive_str() == "text"
        assert await ws.receive_bytes() == b"\x00bytes"


async def test_tls_is_verified_with_the_throwaway_ca(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    ca = upstreams.Ca.create(tmp_path)
    trust = ssl.create_default_context(cafile=str(ca.file))
    async with upstreams.web(ca=ca) as upstream:
        async with http.get(f"{upstream.url}/echo", ssl=trust) as response:
            assert response.status == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await http.get(f"{upstream.url}/echo")
    async with (
        wire.raw(wire.reply(wire.answer(body=b"tls")), ca=ca) as upstream,
        http.get(upstream.url, ssl=trust) as response,
    ):
        assert await response.read() == b"tls"


@pytest.mark.parametrize("tls", [False, True])
async def test_grpc_calls_of_all_kinds(tmp_path: Path, tls: bool) -> None:
    ca = upstreams.Ca.create(tmp_path) if tls else None
    async with upstreams.grpc_echo(ca=ca) as upstream:
        target = f"localhost:{upstream.port}" if tls else f"127.0.0.1:{upstream.port}"
        channel = (
            grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca.file.read_bytes()))
            if ca
            else grpc.aio.insecure_channel(target)
        )
        async with channel:
            path = f"/{upstreams.GRPC_SERVICE}"
            call = channel.unary_unary(f"{path}/Unary")(b"hello", metadata=(("x-who", "me"),))
            assert await call == b"hello"
            assert dict(await call.initial_metadata())["echo-initial"] == "begin"
            assert dict(await call.trailing_metadata())["echo-trailer-bin"] == b"\x00\x01end"
            assert [r async for r in channel.unary_stream(f"{path}/ServerStream")(b"3")] == [b"0", b"1", b"2"]
            assert await channel.stream_unary(f"{path}/ClientStream")(iter([b"a", b"b"])) == b"a,b"
            bidi = channel.stream_stream(f"{path}/Bidi")()
            await bidi.write(b"ping")
            assert await bidi.read() == b"ping"
            await bidi.done_writing()
            assert await bidi.read() is grpc.aio.EOF
            with pytest.raises(grpc.aio.AioRpcError, match="asked to fail"):
                await channel.unary_unary(f"{path}/Unary")(b"fail")
    assert upstream.seen[0].all("x-who") == ["me"]
    assert [s.target.rpartition("/")[2] for s in upstream.seen] == [
        "Unary", "ServerStream", "ClientStream", "Bidi", "Unary",
    ]  # fmt: skip
