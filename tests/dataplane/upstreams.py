"""Real upstream servers on loopback for the protocol tests.

Each is an async context manager; what it yields has a `url` and remembers the requests that reached it.

- `web()`: aiohttp, with WebSocket, SSE, compressed answers, large bodies and an echo of the request it saw;
- `grpc_echo()`: grpc.aio, all four kinds of calls, with trailers;
- `wire.raw(script)`: HTTP/1.1 by hand (chunks, trailers, cuts, early answers).

With `ca=` they speak TLS under a throwaway CA (`Ca.create(folder)`), for the names `localhost` and 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import zlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import brotli
import grpc
import grpc.aio
import zstandard
from aiohttp import WSMsgType
from aiohttp import web as aio

from tests.dataplane.certificates import Ca
from tests.dataplane.wire import LOOPBACK, Seen, Upstream, url_of

__all__ = ["Ca", "Seen", "Upstream", "download_sha256", "grpc_echo", "text", "web"]

BLOCK = bytes(range(256)) * 256
"""64 KiB that `/download` repeats."""


# --- aiohttp -----------------------------------------------------------------------------------------------------

CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": lambda data: data,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


@contextlib.asynccontextmanager
async def web(*, ca: Ca | None = None) -> AsyncIterator[Upstream]:
    """One server with a path for each need.

    `/echo/...` answers JSON of the request it saw: method, target, headers (pairs, in order), body (base64), sha256.
    `/coded/CODING?bytes=N`  N bytes of JSON text in that content-coding; `text()` gives them.
    `/download?bytes=N[&chunked=1]`  N bytes, made as they are sent; `download_sha256(N)` tells their hash.
    `/upload`  swallows the body: `{"sha256", "length"}`. `/sse?events=N&pause=S`  a ticker. `/ws`  echoes frames.
    `/status/CODE`  that status, with the request's body sent back.
    """
    upstream = Upstream("", 0)

    async def echo(request: aio.Request) -> aio.Response:
        body = await request.read()
        seen = _remember(upstream, request, hashlib.sha256(body).hexdigest(), len(body))
        return aio.json_response(
            {
                "method": seen.method,
                "target": seen.target,
                "headers": [list(pair) for pair in seen.headers],
                "body": base64.b64encode(body).decode(),
                "sha256": seen.body_sha256,
            }
        )

    async def coded(request: aio.Request) -> aio.Response:
        coding = request.match_info["coding"]
        _remember(upstream, request, hashlib.sha256().hexdigest(), 0)
        body = CODINGS[coding](text(int(request.query.get("bytes", "2000"))))
        headers = {"content-type": "application/json"}
        if coding != "identity":
            headers["content-encoding"] = coding
        return aio.Response(body=body, headers=headers)

    async def status(request: aio.Request) -> aio.Response:
        body = await request.read()
        _remember(upstream, request, hashlib.sha256(body).hexdigest(), len(body))
        content_type = request.headers.get("content-type", "application/octet-stream")
        return aio.Response(status=int(request.match_info["code"]), body=body, headers={"content-type": content_type})

    app = aio.Application(client_max_size=1 << 30)
    app.add_routes(
        [
            aio.route("*", "/echo{tail:.*}", echo),
            aio.get("/coded/{coding}", coded),
            aio.get("/download", partial(_download, upstream)),
            aio.route("*", "/upload", partial(_upload, upstream)),
            aio.get("/sse", partial(_ticker, upstream)),
            aio.get("/ws", partial(_websocket, upstream)),
            aio.route("*", "/status/{code}", status),
        ]
    )
    runner = aio.AppRunner(app, access_log=None, auto_decompress=False, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    try:
        site = aio.TCPSite(runner, "127.0.0.1", 0, ssl_context=ca.server(*LOOPBACK) if ca else None)
        await site.start()
        upstream.port = runner.addresses[0][1]
        upstream.url = url_of(ca, upstream.port)
        yield upstream
    finally:
        await runner.cleanup()


def text(size: int) -> bytes:
    """`size` bytes of JSON text that compresses, with a string that a search can find."""
    head, tail = b'{"needle":"haystack-4711","fill":"', b'"}'
    words = b"the quick brown fox jumps over the lazy dog "
    room = max(size - len(head) - len(tail), 0)
    return head + (words * (room // len(words) + 1))[:room] + tail


def download_sha256(size: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, size, len(BLOCK)):
        digest.update(BLOCK[: min(len(BLOCK), size - start)])
    return digest.hexdigest()


async def _download(upstream: Upstream, request: aio.Request) -> aio.StreamResponse:
    size = int(request.query["bytes"])
    _remember(upstream, request, hashlib.sha256().hexdigest(), 0)
    response = aio.StreamResponse(headers={"content-type": "application/octet-stream"})
    if "chunked" in request.query:
        response.enable_chunked_encoding()
    else:
        response.content_length = size
    await response.prepare(request)
    for start in range(0, size, len(BLOCK)):
        await response.write(BLOCK[: min(len(BLOCK), size - start)])
    await response.write_eof()
    return response


async def _upload(upstream: Upstream, request: aio.Request) -> aio.Response:
    digest, length = hashlib.sha256(), 0
    try:
        async for chunk in request.content.iter_any():
            digest.update(chunk)
            length += len(chunk)
    except BaseException:
        upstream.aborted += 1
        raise
    _remember(upstream, request, digest.hexdigest(), length)
    return aio.json_response({"sha256": digest.hexdigest(), "length": length})


async def _ticker(upstream: Upstream, request: aio.Request) -> aio.StreamResponse:
    _remember(upstream, request, hashlib.sha256().hexdigest(), 0)
    response = aio.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
    await response.prepare(request)
    for n in range(int(request.query.get("events", "5"))):
        await response.write(b"id: %d\ndata: tick %d\n\n" % (n, n))
        await asyncio.sleep(float(request.query.get("pause", "0.05")))
    return response


async def _websocket(upstream: Upstream, request: aio.Request) -> aio.WebSocketResponse:
    _remember(upstream, request, hashlib.sha256().hexdigest(), 0)
    socket_ = aio.WebSocketResponse(protocols=("echo",), max_msg_size=16 << 20)
    await socket_.prepare(request)
    async for message in socket_:
        if message.type is WSMsgType.TEXT:
            await socket_.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket_.send_bytes(message.data)
    return socket_


def _remember(upstream: Upstream, request: aio.Request, sha256: str, length: int) -> Seen:
    headers = tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in request.raw_headers)
    seen = Seen(request.method, request.raw_path, headers, sha256, length)
    upstream.seen.append(seen)
    return seen


# --- gRPC --------------------------------------------------------------------------------------------------------

GRPC_SERVICE = "douane.test.Echo"
"""Methods Unary, ServerStream, ClientStream and Bidi over raw bytes; call them with `channel.unary_unary(...)` and so
on, without serializers. A request `fail` ends with INVALID_ARGUMENT; ServerStream answers `N` times for a text `N`."""


@contextlib.asynccontextmanager
async def grpc_echo(*, ca: Ca | None = None) -> AsyncIterator[Upstream]:
    """A gRPC server. Initial metadata `echo-initial`, trailing metadata `echo-trailer-bin`."""
    upstream = Upstream("", 0)

    async def begin(context: Any, method: str) -> None:
        headers = tuple(
            (n, base64.b64encode(v).decode() if isinstance(v, bytes) else v) for n, v in context.invocation_metadata()
        )
        upstream.seen.append(Seen("POST", f"/{GRPC_SERVICE}/{method}", headers, "", 0))
        context.set_trailing_metadata((("echo-trailer-bin", b"\x00\x01end"), ("echo-trailer", "end")))
        await context.send_initial_metadata((("echo-initial", "begin"),))

    async def unary(request: bytes, context: Any) -> bytes:
        await begin(context, "Unary")
        if request == b"fail":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "asked to fail")
        return request

    async def server_stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await begin(context, "ServerStream")
        for n in range(int(request)):
            yield b"%d" % n

    async def client_stream(requests: AsyncIterator[bytes], context: Any) -> bytes:
        await begin(context, "ClientStream")
        return b",".join([r async for r in requests])

    async def bidi(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await begin(context, "Bidi")
        async for request in requests:
            yield request

    server = grpc.aio.server()
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(GRPC_SERVICE, handlers),))
    if ca:
        credentials = grpc.ssl_server_credentials([ca.leaf(*LOOPBACK)])
        upstream.port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        upstream.port = server.add_insecure_port("127.0.0.1:0")
    upstream.url = url_of(ca, upstream.port)
    await server.start()
    try:
        yield upstream
    finally:
        await server.stop(grace=0.2)
