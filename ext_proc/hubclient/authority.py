"""What the hub alone decides: session keys, approvals, counters."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncGenerator
from datetime import timedelta

from ext_proc.errors import HubError
from ext_proc.exchange import SignedClaims
from ext_proc.hubclient.channel import HubClient
from ext_proc.pb import hub_pb2

_SESSION_TTL_S = 5.0
_SESSIONS = 1024


class Authority:
    """Every method raises HubError as `HubClient.ask` does.

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
        session = await self._client.ask("CreateSession", request, hub_pb2.Session)
        if session is None:
            raise HubError("hub.refused", "the hub made no session")
        return session.key, session.expires_at_us

    async def resolve_session(self, key: str) -> tuple[str, str, SignedClaims] | None:
        """(connection, issuer name, claims) of a live session key; None when unknown, revoked or expired."""
        digest = _digest(key)
        known = self._known.get(digest)
        if known is None or known[0] < time.monotonic():
            request = hub_pb2.ResolveSessionRequest(key_sha256=digest)
            session = await self._client.ask("ResolveSession", request, hub_pb2.Session)
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
        reply = await self._client.ask("RevokeSession", request, hub_pb2.RevokeSessionReply)
        self._remember(digest, None)
        return reply is not None and reply.revoked

    def hold(self, request: hub_pb2.HoldRequest) -> AsyncGenerator[hub_pb2.HoldState, None]:
        """The states of a request that waits for people, until it is granted or over. Closing it leaves the approval
        open, for the same request to be sent again."""
        return self._client.follow("Hold", request, hub_pb2.HoldState)

    async def count(self, request: hub_pb2.CountRequest) -> hub_pb2.Counters:
        """The counters of a session, this exchange included."""
        counters = await self._client.ask("Count", request, hub_pb2.Counters)
        if counters is None:
            raise HubError("hub.refused", "the hub keeps no counters")
        return counters

    async def take_rates(self, request: hub_pb2.TakeRatesRequest) -> hub_pb2.TakeRatesReply:
        """Which of the rates is used up, if any; if none is, one was taken from each."""
        reply = await self._client.ask("TakeRates", request, hub_pb2.TakeRatesReply)
        if reply is None:
            raise HubError("hub.refused", "the hub keeps no rates")
        return reply

    def _remember(self, digest: bytes, session: hub_pb2.Session | None) -> None:
        while len(self._known) >= _SESSIONS:
            del self._known[next(iter(self._known))]
        self._known.pop(digest, None)
        self._known[digest] = (time.monotonic() + _SESSION_TTL_S, session)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
