"""`/.douane/session`: a job's five-minute token, exchanged once for a key that may outlive it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from ext_proc.decision import Deny
from ext_proc.exchange import Exchange, Identified, SignedClaims
from ext_proc.oidc import Presented, is_session_key

if TYPE_CHECKING:
    from ext_proc.config import Connection


class SessionAuthority(Protocol):
    """The hub's authority, as far as this endpoint needs it. Each raises HubError while the hub is away."""

    async def create_session(
        self, connection: str, issuer: str, claims: SignedClaims, lifetime: timedelta
    ) -> tuple[str, int]:
        """(key, expiry in microseconds since the epoch)."""
        ...

    async def revoke_session(self, key: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class SessionAnswer:
    status: int
    body: dict[str, str] = field(repr=False)
    secrets: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)

    def text(self) -> bytes:
        return json.dumps(self.body, ensure_ascii=False).encode() + b"\n"


class SessionEndpoint:
    """Serves the one path that is ours on a connection's listener."""

    def __init__(self, authority: SessionAuthority) -> None:
        self._authority = authority

    async def serve(
        self, exchange: Exchange, identified: Identified, connection: str, settings: Connection, presented: Presented
    ) -> SessionAnswer | Deny:
        if settings.identity.require == "workload":
            return Deny("session.workload", "this connection knows its callers by their pod; it needs no session key")
        token = presented.required()
        if exchange.method == "DELETE":
            if not is_session_key(token):
                return Deny("session.not_a_key", "only a session key can be revoked", http_status=400)
            await self._authority.revoke_session(token)
            return SessionAnswer(200, {"revoked": "true"})
        if exchange.method != "POST":
            return Deny("request.method", f"{exchange.method} is not served here", 405, remedy="Use POST or DELETE.")
        if is_session_key(token):
            return Deny("session.from_session", "a session key cannot get another one", remedy="Send an OIDC token.")
        caller = identified.caller
        key, expires_us = await self._authority.create_session(
            connection, caller.issuer, caller.claims, settings.identity.max_session
        )
        expires = datetime.fromtimestamp(expires_us / 1e6, UTC).isoformat(timespec="seconds")
        body = {"session_key": key, "expires_at": expires, "session": caller.session_label}
        return SessionAnswer(200, body, secrets=(("session", key.encode()),))
