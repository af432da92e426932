"""The gRPC side of a worker: ext_proc, Envoy's access log, and the supervisor's control, on one unix socket.

Each handler ends in exactly one of two ways: the exchange is over, or the stream is aborted. A handler that simply
returned would make Envoy let the rest pass uninspected, whatever `failure_mode_allow` says.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from ext_proc import access_log, codec
from ext_proc.errors import Cut, DouaneError, RecordError
from ext_proc.exchange import now_us
from ext_proc.pb import journal_pb2
from ext_proc.pb.control_pb2 import ApplyReply, ApplyRequest
from ext_proc.pb.envoy_accesslog_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from ext_proc.pb.envoy_ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from ext_proc.stream import Stream

if TYPE_CHECKING:
    from ext_proc.runtime import Runtime
    from ext_proc.spool import Spool

log = logging.getLogger("douane.server")

IDLE_S = 1.0
"""How long a response chunk may wait for the next one before `Stream.on_idle` lets it go."""

_OPTIONS = [
    # grpc-core refuses bursts beyond these, which Envoy's clients would see as random 503s
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    ("grpc.max_concurrent_streams", 100_000),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.so_reuseport", 0),
]


class Servicer:
    """Moves messages between Envoy and `Stream`s."""

    def __init__(self, runtime: Runtime, spool: Spool, apply: Callable[[str, str], str]) -> None:
        self._runtime = runtime
        self._spool = spool
        self._apply = apply
        self._attempts = itertools.count(1)
        self.open_streams = 0

    async def process(self, _requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """envoy.service.ext_proc.v3.ExternalProcessor/Process: one exchange."""
        stream = Stream(self._runtime, self._spool, next(self._attempts))
        self.open_streams += 1
        reason = "gate.stream_ended"
        try:
            while not stream.done:
                message = await self._read(context, stream)
                if message is grpc.aio.EOF:
                    break
                phase = codec.decode(message, now_us())
                if phase is None:
                    reason = "gate.unknown_message"
                    break
                for answer in await stream.on(phase):
                    await context.write(answer)
        except Cut as cut:
            reason = str(cut)
        except asyncio.CancelledError:
            reason = "gate.cancelled"  # the client left, the upstream reset, or Envoy is done: the access log tells
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # What the exchange awaited was cancelled, not the exchange itself: gRPC would leave it open for ever.
        except DouaneError as fault:
            reason = fault.reason
            log.warning("%s", fault)
        except Exception:
            reason = "gate.fault"
            log.exception("an exchange failed and its connection is cut")
        finally:
            self.open_streams -= 1
            if not stream.done:
                self._note_abort(stream, reason)
            self._spool.met(stream)
        if not stream.done:
            await context.abort(grpc.StatusCode.INTERNAL, reason)

    async def _read(self, context: grpc.aio.ServicerContext[Any, Any], stream: Stream) -> Any:
        if not stream.waiting:
            return await context.read()
        reading = asyncio.ensure_future(context.read())
        try:
            done, _ = await asyncio.wait({reading}, timeout=IDLE_S)
            if not done:
                for answer in await stream.on_idle():
                    await context.write(answer)
            return await reading
        finally:
            reading.cancel()

    def _note_abort(self, stream: Stream, reason: str) -> None:
        try:
            stream.on_abort(reason)
        except DouaneError as fault:
            log.error("the end of an exchange could not be written: %s", fault)

    async def access_logs(
        self, _requests: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> StreamAccessLogsResponse:
        """envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs: how streams ended that we did not end."""
        while (message := await context.read()) is not grpc.aio.EOF:
            for entry in message.http_logs.log_entry:
                access = access_log.access_entry(entry)
                if access is not None:
                    event = self._access_event(access)
                    try:
                        self._spool.append(event)
                    except RecordError:
                        self._spool.owe(event)
        return StreamAccessLogsResponse()

    def _access_event(self, access: access_log.AccessEntry) -> journal_pb2.Event:
        masker = self._runtime.current.credentials_masker()
        event = journal_pb2.Event(exchange_id=access.exchange_id.bytes, at_us=now_us())
        into = event.access
        into.outcome = access.outcome
        into.reason = access.reason
        into.details = access.details
        into.status = access.status
        into.connection = access.route.partition("@")[0]
        into.method = access.method
        into.host = access.authority
        into.path, path_masks = masker.text("path", access.path)
        into.query, query_masks = masker.text("query", access.query)
        into.masks.extend([*path_masks, *query_masks])
        into.started_us = access.started_us
        into.duration_us = access.duration_us
        return event

    async def apply(self, request: ApplyRequest, _context: object) -> ApplyReply:
        """douane.control.v1.Control/Apply."""
        try:
            return ApplyReply(digest=self._apply(request.config_text, request.origin))
        except DouaneError as error:
            return ApplyReply(error=str(error))
        except ExceptionGroup as errors:
            return ApplyReply(error="\n".join(str(e) for e in errors.exceptions))


def make_server(servicer: Servicer, socket: Path) -> grpc.aio.Server:
    """A server on `socket`, mode 0600: who may connect may decide what Envoy lets pass."""
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "envoy.service.ext_proc.v3.ExternalProcessor",
                {
                    "Process": grpc.stream_stream_rpc_method_handler(
                        servicer.process, ProcessingRequest.FromString, ProcessingResponse.SerializeToString
                    )
                },
            ),
            grpc.method_handlers_generic_handler(
                "envoy.service.accesslog.v3.AccessLogService",
                {
                    "StreamAccessLogs": grpc.stream_unary_rpc_method_handler(
                        servicer.access_logs,
                        StreamAccessLogsMessage.FromString,
                        StreamAccessLogsResponse.SerializeToString,
                    )
                },
            ),
            grpc.method_handlers_generic_handler(
                "douane.control.v1.Control",
                {
                    "Apply": grpc.unary_unary_rpc_method_handler(
                        servicer.apply, ApplyRequest.FromString, ApplyReply.SerializeToString
                    )
                },
            ),
        )
    )
    server.add_insecure_port(f"unix:{socket}")
    return server
