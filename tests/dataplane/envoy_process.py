"""The real Envoy with the shipped bootstrap and a configuration of ours, and a worker that does as it is told.

    async with worker(run_dir) as told, envoy(text, run_dir) as proxy:
        told.by_path["/deny"] = deny
        await proxy.apply(other_text)

`EnvoyProcess` is for whoever needs Envoy without `douane up`; `ScriptedWorker` only for tests of Envoy's side.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from ext_proc import codec
from ext_proc.config import Config, parse
from ext_proc.decision import Deny
from ext_proc.pb.envoy_accesslog_data_pb2 import HTTPAccessLogEntry
from ext_proc.pb.envoy_accesslog_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from ext_proc.pb.envoy_ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from ext_proc.xds import Admin, CertificateAuthority, Envoy, Files, apply, build, confirm
from ext_proc.xds.files import LOG
from ext_proc.xds.naming import worker_socket

Context = grpc.aio.ServicerContext[Any, Any]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass
class EnvoyProcess:
    """A running Envoy. `apply` reloads as the supervisor does."""

    run_dir: Path
    process: asyncio.subprocess.Process
    admin: Admin
    files: Files
    authority: CertificateAuthority

    @property
    def log(self) -> str:
        path = self.run_dir / LOG
        return path.read_text() if path.is_file() else ""

    @property
    def ca_file(self) -> Path:
        return self.run_dir / "douane-ca.pem"

    async def apply(self, text: str) -> None:
        await apply(build(config(text, self.run_dir)), self.files, self.admin)


def config(text: str, folder: Path) -> Config:
    return parse(text, "douane.yaml", folder).config


@contextlib.asynccontextmanager
async def envoy(text: str, run_dir: Path, *, concurrency: int = 1) -> AsyncIterator[EnvoyProcess]:
    """Envoy on this configuration (douane.yaml's text), ready. It is killed at the end."""
    authority = CertificateAuthority()
    files = Files(run_dir, authority)
    resources = build(config(text, run_dir))
    files.install(resources)
    process = await asyncio.create_subprocess_exec(*Envoy.find().command(concurrency=concurrency), cwd=run_dir)
    proxy = EnvoyProcess(run_dir, process, Admin(run_dir / "admin.sock"), files, authority)
    try:
        await confirm(resources, files, proxy.admin)
        yield proxy
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


# --- a worker that does as it is told ------------------------------------------------------------------------------

Handler = Callable[["ScriptedWorker", codec.RequestHead, Context], Awaitable[None]]


@dataclass
class ScriptedWorker:
    """Lets everything pass, except paths that `by_path` gives another handler."""

    by_path: dict[str, Handler] = field(default_factory=dict)
    heads: list[codec.RequestHead] = field(default_factory=list)
    responses: list[codec.ResponseHead] = field(default_factory=list)
    orphans: list[codec.ResponseHead] = field(default_factory=list)
    """Responses of streams that began with one: Envoy's own answers, given before a request was seen."""
    log: list[HTTPAccessLogEntry] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def process(self, _requests: object, context: Context) -> None:
        message = await context.read()
        if message is grpc.aio.EOF:
            return
        phase = codec.decode(message, 0)
        if isinstance(phase, codec.RequestHead):
            self.heads.append(phase)
            await self.by_path.get(phase.exchange.path, let_pass)(self, phase, context)
        elif isinstance(phase, codec.ResponseHead):
            self.orphans.append(phase)
            await context.write(codec.forward_response_head())
            await forward(self, context)

    async def access_logs(self, _requests: object, context: Context) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            self.log.extend(message.http_logs.log_entry)
            async with self._news:
                self._news.notify_all()
        await context.write(StreamAccessLogsResponse())

    async def logged(self, count: int = 1) -> list[HTTPAccessLogEntry]:
        """The access log once it has this many entries; Envoy flushes it every half second."""
        async with asyncio.timeout(3), self._news:
            await self._news.wait_for(lambda: len(self.log) >= count)
        return self.log


async def let_pass(worker: ScriptedWorker, head: codec.RequestHead, context: Context) -> None:
    await context.write(codec.forward_request(remove=(), put=()))
    await forward(worker, context)


async def forward(worker: ScriptedWorker, context: Context) -> None:
    """Let everything that is still to come pass."""
    while (message := await context.read()) is not grpc.aio.EOF:
        phase = codec.decode(message, 0)
        if isinstance(phase, codec.Body) and phase.direction == "request":
            for answer in codec.forward_request_body(phase.data, phase.last):
                await context.write(answer)
        elif isinstance(phase, codec.Body):
            await context.write(codec.forward_response_body(phase.data, phase.data))
            if phase.last:
                return
        elif isinstance(phase, codec.ResponseHead):
            worker.responses.append(phase)
            await context.write(codec.forward_response_head())
            if phase.last:
                return
        elif isinstance(phase, codec.Trailers):
            await context.write(codec.forward_trailers(phase.direction))
            if phase.direction == "response":
                return


async def deny(worker: ScriptedWorker, head: codec.RequestHead, context: Context) -> None:
    await context.write(codec.refuse(Deny("grant.none", "no grant allows this"), head.exchange.exchange_id))


async def leave(worker: ScriptedWorker, head: codec.RequestHead, context: Context) -> None:
    """Return without a word: Envoy would let the request pass."""


async def fail(worker: ScriptedWorker, head: codec.RequestHead, context: Context) -> None:
    await context.abort(grpc.StatusCode.INTERNAL, "told to fail")


def hold(until: asyncio.Event, holding: asyncio.Event) -> Handler:
    """A handler that holds the request until `until`; `holding` says that it does."""

    async def handler(worker: ScriptedWorker, head: codec.RequestHead, context: Context) -> None:
        holding.set()
        await until.wait()
        await let_pass(worker, head, context)

    return handler


@contextlib.asynccontextmanager
async def worker(run_dir: Path, slot: int = 0) -> AsyncIterator[ScriptedWorker]:
    """A scripted worker on its socket in the run folder."""
    told = ScriptedWorker()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "envoy.service.ext_proc.v3.ExternalProcessor",
                {
                    "Process": grpc.stream_stream_rpc_method_handler(
                        told.process,
                        request_deserializer=ProcessingRequest.FromString,
                        response_serializer=ProcessingResponse.SerializeToString,
                    )
                },
            ),
            grpc.method_handlers_generic_handler(
                "envoy.service.accesslog.v3.AccessLogService",
                {
                    "StreamAccessLogs": grpc.stream_stream_rpc_method_handler(
                        told.access_logs,
                        request_deserializer=StreamAccessLogsMessage.FromString,
                        response_serializer=StreamAccessLogsResponse.SerializeToString,
                    )
                },
            ),
        )
    )
    server.add_insecure_port(f"unix:{run_dir / worker_socket(slot)}")
    await server.start()
    try:
        yield told
    finally:
        await server.stop(None)
