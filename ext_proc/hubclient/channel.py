"""The channel from a gate to the hub, shared by all that a gate asks of it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from ext_proc.errors import HubError
from ext_proc.pb import hub_pb2

if TYPE_CHECKING:
    from ext_proc.config import Hub

Reply = TypeVar("Reply", bound=Message)

INGEST = "douane.hub.v1.Ingest"
AUTHORITY = "douane.hub.v1.Authority"
MAX_MESSAGE = 16 << 20
"""Bytes of one gRPC message; a frame may have 8 MiB."""

_CALL_TIMEOUT_S = 3.0
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),  # the proxy variables are for the job's traffic
]


class HubClient:
    """The channel, made at first use in the running loop. `settings` says where the hub is and how to prove who we
    are: nothing on a unix socket, mutual TLS elsewhere. HubError `hub.tls` when the TLS files cannot be read."""

    def __init__(self, settings: Hub) -> None:
        self._settings = settings
        self._channel: grpc.aio.Channel | None = None

    @property
    def target(self) -> str:
        return self._settings.url or self._settings.listen

    @property
    def channel(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._channel = self._connect()
        return self._channel

    def ship(self) -> grpc.aio.StreamStreamCall[hub_pb2.ShipRequest, hub_pb2.ShipReply]:
        """One journal's stream."""
        return self.channel.stream_stream(
            f"/{INGEST}/Ship",
            request_serializer=hub_pb2.ShipRequest.SerializeToString,
            response_deserializer=hub_pb2.ShipReply.FromString,
        )()

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def ask(self, method: str, request: Message, reply: type[Reply]) -> Reply | None:
        """One answer of the hub's authority; None where it knows no such thing.

        HubError `hub.unavailable` (503, retryable) while the hub is away; otherwise with the hub's own reason, or
        `hub.refused`.
        """
        call = self.channel.unary_unary(
            f"/{AUTHORITY}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            return cast("Reply", await call(request, timeout=_CALL_TIMEOUT_S))
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            raise fault(error) from error

    async def follow(self, method: str, request: Message, reply: type[Reply]) -> AsyncGenerator[Reply, None]:
        """The answers of the hub's authority until it has no more. Closing the iterator ends the call. HubError as in
        `ask`, at the first answer or at any later one."""
        call = self.channel.unary_stream(
            f"/{AUTHORITY}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )(request)
        try:
            async for answer in call:
                yield cast("Reply", answer)
        except grpc.aio.AioRpcError as error:
            raise fault(error) from error
        finally:
            call.cancel()

    def _connect(self) -> grpc.aio.Channel:
        if self.target.startswith("unix:"):
            return grpc.aio.insecure_channel(self.target, options=_OPTIONS)
        tls = self._settings.tls
        if tls is None:
            raise HubError("hub.tls", f"the hub at {self.target} is on the network and hub.tls is missing")
        try:
            credentials = grpc.ssl_channel_credentials(
                Path(tls.ca_file).read_bytes(), Path(tls.key_file).read_bytes(), Path(tls.cert_file).read_bytes()
            )
        except OSError as error:
            raise HubError("hub.tls", f"{error.filename}: {error.strerror}", remedy="Check hub.tls.") from error
        return grpc.aio.secure_channel(self.target, credentials, options=_OPTIONS)


_STATUS = {
    grpc.StatusCode.FAILED_PRECONDITION: 403,  # never, as things are
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.ABORTED: 409,  # another try of the same exchange took over
    grpc.StatusCode.INVALID_ARGUMENT: 502,
    grpc.StatusCode.PERMISSION_DENIED: 502,
}
_REASON = re.compile(r"([a-z]+\.[a-z_]+): (.*)", re.DOTALL)


def fault(error: grpc.aio.AioRpcError) -> HubError:
    """What a failed call means to the exchange that made it. The hub may say `REASON: words`."""
    status = _STATUS.get(error.code())
    if status is None:
        return unavailable(error)
    said = error.details() or ""
    reason, words = (
        match.groups() if (match := _REASON.fullmatch(said)) else ("hub.refused", f"the hub refused: {said}")
    )
    return HubError(reason, words, http_status=status)


def unavailable(error: grpc.aio.AioRpcError) -> HubError:
    """The hub cannot be asked now."""
    return HubError(
        "hub.unavailable",
        "the hub cannot be reached, and this request cannot be decided without it",
        remedy="Try again; if it stays, check that the hub runs and that hub.url is right.",
        retryable=True,
        detail=f"{error.code().name}: {error.details()}",
    )
