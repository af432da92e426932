"""How a gate speaks to the hub: one channel, shared by the shipper and the client of the hub's authority."""

from __future__ import annotations

import hashlib
import json
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from ext_proc.errors import HubError
from ext_proc.exchange import SignedClaims
from ext_proc.pb import hub_pb2

if TYPE_CHECKING:
    from ext_proc.config import Hub

Reply = TypeVar("Reply", bound=Message)

INGEST = "douane.hub.v1.Ingest"
AUTHORITY = "douane.hub.v1.Authority"
MAX_MESSAGE = 16 << 20
"""Bytes of one gRPC message; a frame may have 8 MiB."""

_CALL_TIMEOUT_S = 3.0
_SESSION_TTL_S = 5.0
_SESSIONS = 1024
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


class Authority:
    """Session keys, decided by the hub alone. Every method raises HubError: `hub.unavailable` (503, retryable) while
    the hub is away, `hub.refused` when it does not take what it was given.

    An answer of `resolve_session` is used for 5 s, so a revoked key may live that much longer.
    """

    def __init__(self, client: HubClient) -> None:
        self._client = client
        self._known: dict[bytes, tuple[float, hub_pb2.Session | None]] = {}

    async def create_session(
        self, connection: str, issuer: str, claims: SignedClaims, lifetime: timedelta
    ) -> tuple[str, int]:
        """(key, expiry in microseconds since the epoch). The hub keeps the key's SHA-256 only."""
        request = hub_pb2.CreateSessionRequest(
            connection=connection,
            issuer=issuer,
            claims_json=json.dumps(claims, separators=(",", ":")),
            lifetime_s=int(lifetime.total_seconds()),
        )
        session = await self._call("CreateSession", request, hub_pb2.Session)
        if session is None:
            raise HubError("hub.refused", "the hub made no session")
        return session.key, session.expires_at_us

    async def resolve_session(self, key: str) -> tuple[str, str, SignedClaims] | None:
        """(connection, issuer name, claims) of a live session key; None when unknown, revoked or expired."""
        digest = _digest(key)
        known = self._known.get(digest)
        if known is None or known[0] < time.monotonic():
            request = hub_pb2.ResolveSessionRequest(key_sha256=digest)
            session = await self._call("ResolveSession", request, hub_pb2.Session)
            self._remember(digest, session)
        else:
            session = known[1]
        if session is None or session.expires_at_us <= time.time_ns() // 1000:
            return None
        return session.connection, session.issuer, SignedClaims(json.loads(session.claims_json))

    async def revoke_session(self, key: str) -> bool:
        """Whether there was such a key that was not revoked yet."""
        digest = _digest(key)
        request = hub_pb2.RevokeSessionRequest(key_sha256=digest)
        reply = await self._call("RevokeSession", request, hub_pb2.RevokeSessionReply)
        self._remember(digest, None)
        return reply is not None and reply.revoked

    def _remember(self, digest: bytes, session: hub_pb2.Session | None) -> None:
        while len(self._known) >= _SESSIONS:
            del self._known[next(iter(self._known))]
        self._known.pop(digest, None)
        self._known[digest] = (time.monotonic() + _SESSION_TTL_S, session)

    async def _call(self, method: str, request: Message, reply: type[Reply]) -> Reply | None:
        """None where the hub knows no such thing."""
        call = self._client.channel.unary_unary(
            f"/{AUTHORITY}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            return cast("Reply", await call(request, timeout=_CALL_TIMEOUT_S))
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED):
                raise HubError("hub.refused", f"the hub refused: {error.details()}", http_status=502) from error
            raise unavailable(error) from error


def unavailable(error: grpc.aio.AioRpcError) -> HubError:
    """The hub cannot be asked now."""
    return HubError(
        "hub.unavailable",
        "the hub cannot be reached, and this request cannot be decided without it",
        remedy="Try again; if it stays, check that the hub runs and that hub.url is right.",
        retryable=True,
        detail=f"{error.code().name}: {error.details()}",
    )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
