"""A real worker in this process behind the real Envoy, whose handler can be made to end early."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from ext_proc import config
from ext_proc.config import Hub
from ext_proc.hubclient import Authority, HubClient
from ext_proc.pb import journal_pb2
from ext_proc.pb.envoy_ext_proc_pb2 import ProcessingRequest
from ext_proc.runtime import Runtime
from ext_proc.server import Servicer, make_server
from ext_proc.spool import Spool, frames
from ext_proc.stream import Stream
from ext_proc.xds.naming import worker_socket
from tests.dataplane import wire
from tests.dataplane.envoy_process import EnvoyProcess, envoy
from tests.dataplane.stack import API_KEY, configuration, free_ports, merge
from tests.issuer import LoopbackIssuer

CHUNKS = [b"data: %d%s\n\n" % (n, b"x" * 200) for n in range(4)]
EVENTS = wire.chunked(CHUNKS, headers=[("content-type", "text/event-stream")], trailers=[("x-sum", "1")], pause=0.02)
WAYS = ["stops reading", "does not understand", "is cancelled", "fails"]
BODY = [b'{"a":"1111",', b'"b":"2222",', b'"c":"3333"}']


class Returned(BaseException):
    """Ends `Servicer.process` from within, past every `except Exception`."""


class EarlyServicer(Servicer):
    """Ends in the way `how` when message number `nth` (from 0) of the kind `phase` is there, before it is served."""

    phase, nth, how = "", 0, ""

    async def process(self, requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._seen = 0
        with contextlib.suppress(Returned):
            await super().process(requests, context)

    async def _read(self, context: grpc.aio.ServicerContext[Any, Any], stream: Stream) -> Any:
        message = await super()._read(context, stream)
        if message is grpc.aio.EOF or message.WhichOneof("request") != self.phase:
            return message
        self._seen += 1
        if self._seen <= self.nth:
            return message
        match self.how:
            case "returns":
                raise Returned
            case "stops reading":
                return grpc.aio.EOF
            case "does not understand":
                return ProcessingRequest()
            case "is cancelled":
                raise asyncio.CancelledError
            case _:
                raise RuntimeError("told to fail")


@dataclass
class Gate:
    """The worker's servicer and spool, and the way in."""

    servicer: EarlyServicer
    spool: Spool
    upstream: wire.Upstream
    port: int
    streaming_port: int
    token: str
    runtime: Runtime
    proxy: EnvoyProcess
    text: dict[str, Any]
    read_until: int = 0
    events: list[journal_pb2.Event] = field(default_factory=list)

    async def ask(self, path: str, body: list[bytes], *, port: int = 0) -> bytes:
        """What comes back for a chunked POST: a refusal, or everything until the end of the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ndd-api-key: {self.token}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}te: trailers\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            for piece in body:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
                await asyncio.sleep(0.02)  # so that Envoy passes each piece on by itself
            writer.write(b"0\r\n\r\n")
        got = b""
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                while not whole_refusal(got) and (part := await reader.read(1 << 16)):
                    got += part
        writer.close()
        return got

    async def reload(self, **overrides: Any) -> None:
        """As the supervisor does: the worker first, then Envoy."""
        self.text = merge(self.text, overrides)
        folder = self.proxy.run_dir
        self.runtime.apply(config.parse(json.dumps(self.text), "douane.yaml", folder))
        await self.proxy.apply(json.dumps(self.text))

    def written(self) -> list[journal_pb2.Event]:
        """What came into the journal since the last call."""
        data = self.spool.read(self.read_until, 1 << 24) if self.read_until < self.spool.end else b""
        self.read_until += len(data)
        return [journal_pb2.Event.FromString(payload) for _, payload in frames.scan(data)]

    async def ended(self, count: int = 1) -> list[journal_pb2.Event]:
        """The events of so many exchanges, once each has its end."""
        found: list[journal_pb2.Event] = []
        async with asyncio.timeout(5):
            while sum(event.WhichOneof("event") in ("closed", "access") for event in found) < count:
                found += self.written()
                await asyncio.sleep(0.01)
        return found


@contextlib.asynccontextmanager
async def gate(
    folder: Path,
    issuer: LoopbackIssuer,
    monkeypatch: pytest.MonkeyPatch,
    script: wire.Script = EVENTS,
    *,
    streaming: bool = True,
    **overrides: Any,
) -> AsyncIterator[Gate]:
    """The gate with `overrides` to its configuration, before an upstream that does what `script` says. `streaming` adds
    a connection with `body: stream`."""
    monkeypatch.setenv("DOUANE_TEST_API_KEY", API_KEY)
    (folder / "app-key").write_text("app")
    ports = free_ports(5)
    async with wire.raw(script) as upstream, contextlib.AsyncExitStack() as stack:
        text = merge(configuration(issuer.url, upstream.url, ports, gate={"workers": 1}), overrides)
        if streaming:
            own = {"listen": f"127.0.0.1:{ports[4]}", "body": "stream", "hosts": []}
            text["connections"]["streaming"] = {**text["connections"]["datadog"], **own}
            text["grants"][0]["allow"]["streaming"] = ["everything"]
        client = HubClient(Hub(listen=f"unix:{folder}/no-hub.sock"))
        stack.push_async_callback(client.close)
        runtime = Runtime(Authority(client), b"k" * 32, None)
        stack.push_async_callback(runtime.close)
        runtime.apply(config.parse(json.dumps(text), "douane.yaml", folder))
        limits: dict[str, Any] = {"max_size": 1 << 28, "max_lag": timedelta(hours=1), "durability": "process"}
        spool = Spool.open(folder / "spool", 0, slots=1, **limits)
        stack.callback(spool.close)
        servicer = EarlyServicer(runtime, spool, lambda text, _: text)
        server = make_server(servicer, folder / worker_socket(0))
        await server.start()
        stack.push_async_callback(server.stop, None)
        proxy = await stack.enter_async_context(envoy(json.dumps(text), folder))
        yield Gate(servicer, spool, upstream, ports[0], ports[4], issuer.token(), runtime, proxy, text)


def whole_refusal(raw: bytes) -> bool:
    """True where a body of known length is all there; Envoy then lingers before it closes."""
    head, _, body = raw.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    return length is not None and len(body) >= int(length[1])


def refusal(raw: bytes) -> tuple[int, str]:
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)["reason"]


def kinds(events: list[journal_pb2.Event]) -> str:
    """The kinds of an exchange's events; the access log may come in between."""
    return " ".join(str(event.WhichOneof("event")) for event in events if event.WhichOneof("event") != "access")


def dechunked(raw: bytes) -> bytes:
    body = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        body += raw[: int(size, 16)]
        raw = raw[int(size, 16) + 2 :]
    return body
