"""An HTTP/1.1 upstream by hand, for what no library server does on purpose: `raw(script)`.

A script serves one request: `reply`, `chunked`, `expect_continue`, `early`, `cut`, `stall`, or one of your own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tests.dataplane.certificates import Ca

LOOPBACK = ("localhost", "127.0.0.1")
"""The names in every server's certificate."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it reached the upstream. `target` is the request line's; header names keep their case."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body_sha256: str
    body_length: int
    trailers: tuple[tuple[str, str], ...] = ()

    def all(self, name: str) -> list[str]:
        return [v for n, v in self.headers if n.lower() == name.lower()]


@dataclass(slots=True)
class Upstream:
    url: str
    port: int
    seen: list[Seen] = field(default_factory=list)
    """Every request that reached it, in order of completion."""
    connections: int = 0
    aborted: int = 0
    """Requests whose body ended early: a client that left, or a cut connection."""


@dataclass(slots=True)
class Wire:
    """One connection, seen from the server, with the request now being served."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    upstream: Upstream
    method: str = ""
    target: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def header(self, name: str) -> str:
        return next((v for n, v in self.headers if n.lower() == name), "")

    async def head(self) -> bool:
        """Read the next request's line and fields; False when the client is done with the connection."""
        try:
            raw = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        lines = raw.decode("latin-1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ", 2)
        self.headers = _fields(lines[1:])
        return True

    async def body(self) -> bytes:
        """Read the request's body by Content-Length or chunks, and remember the request."""
        content: bytes = b""
        trailers: tuple[tuple[str, str], ...] = ()
        try:
            if "chunked" in self.header("transfer-encoding"):
                content, trailers = await self._chunks()
            elif length := int(self.header("content-length") or 0):
                content = await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.upstream.aborted += 1
            raise
        sha256 = hashlib.sha256(content).hexdigest()
        seen = Seen(self.method, self.target, self.headers, sha256, len(content), trailers)
        self.upstream.seen.append(seen)
        return content

    async def _chunks(self) -> tuple[bytes, tuple[tuple[str, str], ...]]:
        parts = []
        while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append((await self.reader.readexactly(size + 2))[:-2])
        fields = []
        while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
            fields.append(line.decode("latin-1"))
        return b"".join(parts), _fields(fields)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """End the connection with a TCP reset rather than an orderly close."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Wire], Awaitable[bool]]
"""Serves one request whose head was read; False ends the connection."""


@contextlib.asynccontextmanager
async def raw(script: Script, *, ca: Ca | None = None) -> AsyncIterator[Upstream]:
    """An HTTP/1.1 server that does to each request what `script` says."""
    upstream = Upstream("", 0)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        upstream.connections += 1
        wire = Wire(reader, writer, upstream)
        try:
            while await wire.head() and await script(wire):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ca.server(*LOOPBACK) if ca else None, limit=1 << 20)
    upstream.port = server.sockets[0].getsockname()[1]
    upstream.url = url_of(ca, upstream.port)
    try:
        yield upstream
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def reply(data: bytes, *, close: bool = False) -> Script:
    """Read the whole request, then send these bytes."""

    async def script(wire: Wire) -> bool:
        await wire.body()
        await wire.send(data)
        return not close

    return script


def answer(status: str = "200 OK", body: bytes = b"", headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """The bytes of an answer; Content-Length is set unless a 1xx, 204 or 304 forbids a body."""
    fields = list(headers)
    if not status.startswith(("1", "204", "304")):
        fields.append(("content-length", str(len(body))))
    return (f"HTTP/1.1 {status}\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields) + "\r\n").encode("latin-1") + body


NO_CONTENT = answer("204 No Content")
NOT_MODIFIED = answer("304 Not Modified", headers=[("etag", '"7"'), ("content-length", "1234")])
"""A 304 may announce the length of what it does not send (RFC 9110, 15.4.5)."""
HEAD = answer(headers=[("content-type", "application/json")]).replace(b"content-length: 0", b"content-length: 4321")
"""The answer to a HEAD: the length that a GET would have, and no body."""


def chunked(
    parts: Sequence[bytes],
    *,
    trailers: Sequence[tuple[str, str]] = (),
    headers: Sequence[tuple[str, str]] = (),
    pause: float = 0.0,
) -> Script:
    """Answer in these chunks, `pause` seconds apart, and with trailers."""

    async def script(wire: Wire) -> bool:
        await wire.body()
        fields = [*headers, ("transfer-encoding", "chunked")]
        if trailers:
            fields.append(("trailer", ", ".join(n for n, _ in trailers)))
        await wire.send(
            ("HTTP/1.1 200 OK\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields) + "\r\n").encode("latin-1")
        )
        for part in parts:
            await wire.send(b"%x\r\n%b\r\n" % (len(part), part))
            await asyncio.sleep(pause)
        await wire.send(b"0\r\n" + "".join(f"{n}: {v}\r\n" for n, v in trailers).encode("latin-1") + b"\r\n")
        return True

    return script


def expect_continue(data: bytes) -> Script:
    """Send 100 Continue before reading the body, if the client waits for it; then these bytes."""

    async def script(wire: Wire) -> bool:
        if wire.header("expect").lower() == "100-continue":
            await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await wire.body()
        await wire.send(data)
        return True

    return script


def early(data: bytes) -> Script:
    """Answer as soon as the head is there, and read the body only afterwards."""

    async def script(wire: Wire) -> bool:
        await wire.send(data)
        await wire.body()
        return True

    return script


def cut(*, announced: int, sent: int, reset: bool = True) -> Script:
    """Announce a body, send a part of it, and end the connection. With `sent=-1` not even the head is sent."""

    async def script(wire: Wire) -> bool:
        await wire.body()
        if sent >= 0:
            head = answer(body=b"").replace(b"content-length: 0", b"content-length: %d" % announced)
            await wire.send(head + b"x" * sent)
            await asyncio.sleep(0.05)  # so that what was sent is read before the reset discards it
        if reset:
            wire.reset()
        return False

    return script


def stall() -> Script:
    """Read the request and never answer: for clients that leave and for time-outs."""

    async def script(wire: Wire) -> bool:
        await wire.body()
        await wire.reader.read(1)
        wire.upstream.aborted += 1
        return False

    return script


def _fields(lines: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = (line.rstrip("\r\n").partition(":") for line in lines if line.strip())
    return tuple((name, value.strip()) for name, _, value in pairs)


def url_of(ca: Ca | None, port: int) -> str:
    """Where a server on `port` is reached; `ca` makes it https."""
    return f"https://localhost:{port}" if ca else f"http://127.0.0.1:{port}"
