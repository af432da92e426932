"""Stage 1: who calls. `Exchange -> Identified`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ext_proc.errors import IdentityError
from ext_proc.exchange import Caller, Exchange, Identified, SignedClaims
from ext_proc.oidc import Presented, Verifier, caller, find_tokens, is_session_key

if TYPE_CHECKING:
    from ext_proc.config import ConnectionIdentity


_REMEMBERED = 1024


class SessionKeys(Protocol):
    """The hub's authority, as far as this stage needs it."""

    async def resolve_session(self, key: str) -> tuple[str, str, SignedClaims] | None:
        """(connection, issuer name, claims) of a live session key; None when unknown, revoked or expired."""
        ...


class WorkloadToken:
    """The pod's own token, re-read when the file changes (the kubelet replaces it)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] = (0, 0, 0)
        self._token = ""

    def read(self) -> str:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp != self._stamp:
                self._token = self._path.read_text("ascii").strip()
                self._stamp = stamp
        except (OSError, UnicodeDecodeError) as error:
            raise IdentityError(
                "identity.workload_unavailable",
                "this gate cannot read its workload token",
                remedy="Check gate.workload_token_file.",
                http_status=503,
                retryable=True,
                detail=str(error),
            ) from error
        return self._token


class IdentityStage:
    """Proves the caller, the workload, or both, as the connection requires; never one in place of the other."""

    def __init__(self, verifier: Verifier, sessions: SessionKeys, workload: WorkloadToken | None) -> None:
        self._verifier = verifier
        self._sessions = sessions
        self._workload = workload
        self._presented: dict[Hashable, Presented] = {}
        self._callers: OrderedDict[int, Caller] = OrderedDict()  # by the claims' identity, which the caller keeps alive

    def present(self, exchange: Exchange, settings: ConnectionIdentity) -> Presented:
        """What the identity headers hold, unverified."""
        key = (settings.headers, *(field for field in exchange.headers if field[0] in settings.headers))
        presented = self._presented.get(key)
        if presented is None:
            presented = find_tokens(exchange.headers, settings.headers)
            if len(self._presented) >= _REMEMBERED:
                self._presented.clear()
            self._presented[key] = presented
        return presented

    async def run(self, exchange: Exchange, settings: ConnectionIdentity, presented: Presented) -> Identified:
        workload = await self._prove_workload() if settings.require in ("workload", "both") else None
        if settings.require == "workload" and workload is not None:
            return Identified(exchange, workload, workload)
        token = presented.required()
        caller = await self._prove_caller(exchange, token)
        if workload is not None and (caller.issuer, caller.subject) == (workload.issuer, workload.subject):
            raise IdentityError(  # a job may be able to read the pod's token
                "identity.same",
                "the caller's token is the workload's, and this connection requires both",
                remedy="Send the job's own token.",
            )
        return Identified(exchange, caller, workload, None if is_session_key(token) else token.encode("ascii"))

    async def _prove_workload(self) -> Caller:
        if self._workload is None:
            raise IdentityError(
                "identity.workload_unavailable",
                "this connection requires a workload identity and the gate has none",
                remedy="Set gate.workload_token_file.",
                http_status=503,
            )
        return self._caller(*await self._verifier.verify(self._workload.read()))

    def _caller(self, issuer: str, claims: SignedClaims) -> Caller:
        """The verifier hands out the same claims as long as it remembers a token, so most calls find theirs made."""
        known = self._callers.get(id(claims))
        if known is None:
            known = self._callers[id(claims)] = caller(issuer, claims)
            if len(self._callers) > _REMEMBERED:
                self._callers.popitem(last=False)
        return known

    async def _prove_caller(self, exchange: Exchange, token: str) -> Caller:
        if not is_session_key(token):
            return self._caller(*await self._verifier.verify(token))
        session = await self._sessions.resolve_session(token)
        if session is None:
            raise IdentityError(
                "identity.session_unknown",
                "the session key is unknown, expired or revoked",
                remedy="Get a new one: POST /.douane/session with an OIDC token.",
            )
        connection, issuer, claims = session
        if connection != exchange.connection:
            raise IdentityError(
                "identity.session_connection",
                f"the session key was made for the connection {connection}",
                remedy=f"Get one for {exchange.connection}.",
            )
        return caller(issuer, claims)
