"""The one authority for session keys: `douane.hub.v1.Authority`, kept in SQLite."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio

from ext_proc.pb import hub_pb2

log = logging.getLogger(__name__)

MAX_LIFETIME_S = 30 * 86400
MAX_CLAIMS = 64 << 10
KEEP_ENDED_S = 86400
"""How long an expired or revoked key is still told apart from one that never was."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    key_sha256 BLOB PRIMARY KEY, writer TEXT NOT NULL, connection TEXT NOT NULL, issuer TEXT NOT NULL,
    claims_json TEXT NOT NULL, created_us INTEGER NOT NULL, expires_us INTEGER NOT NULL, revoked_us INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sessions_expires ON sessions (expires_us);
"""


class SessionError(Exception):
    """`reason` is unknown, revoked or expired."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the session key is {reason}")
        self.reason = reason


class Sessions:
    """The table. Every method blocks, from any thread; what it wrote is durable when it returns. A key belongs to the
    writer (the gate's authenticated name) it was made for: nobody else can use or revoke it."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        path.chmod(0o600)

    def create(self, writer: str, connection: str, issuer: str, claims_json: str, lifetime_s: int) -> tuple[str, int]:
        """(key, expiry in microseconds since the epoch). The key itself is not kept."""
        key = "dse_" + secrets.token_urlsafe(32)
        now = time.time_ns() // 1000
        expires = now + lifetime_s * 1_000_000
        with self._lock:
            self._db.execute("DELETE FROM sessions WHERE expires_us < ?", (now - KEEP_ENDED_S * 1_000_000,))
            self._db.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                (hashlib.sha256(key.encode()).digest(), writer, connection, issuer, claims_json, now, expires),
            )
        return key, expires

    def resolve(self, writer: str, key_sha256: bytes) -> tuple[str, str, str, int]:
        """(connection, issuer, claims as JSON, expiry). SessionError."""
        with self._lock:
            row = self._db.execute(
                "SELECT connection, issuer, claims_json, expires_us, revoked_us FROM sessions"
                " WHERE key_sha256 = ? AND writer = ?",
                (key_sha256, writer),
            ).fetchone()
        if row is None:
            raise SessionError("unknown")
        connection, issuer, claims_json, expires_us, revoked_us = row
        if revoked_us is not None:
            raise SessionError("revoked")
        if expires_us <= time.time_ns() // 1000:
            raise SessionError("expired")
        return connection, issuer, claims_json, expires_us

    def revoke(self, writer: str, key_sha256: bytes) -> bool:
        """Whether this ended a live key."""
        with self._lock:
            changed = self._db.execute(
                "UPDATE sessions SET revoked_us = ?1 WHERE key_sha256 = ?2 AND writer = ?3"
                " AND revoked_us IS NULL AND expires_us > ?1",
                (time.time_ns() // 1000, key_sha256, writer),
            )
        return changed.rowcount == 1

    def close(self) -> None:
        with self._lock:
            self._db.close()


class AuthorityService:
    """The gRPC methods. A refusal's details are its reason: `unknown`, `revoked`, `expired` with NOT_FOUND."""

    def __init__(self, sessions: Sessions, writer_of: Callable[[Any], str]) -> None:
        self._sessions = sessions
        self._writer_of = writer_of

    async def create_session(
        self, request: hub_pb2.CreateSessionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> hub_pb2.Session:
        problem = _problem(request)
        if problem:
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, problem)
        key, expires = await asyncio.to_thread(
            self._sessions.create,
            self._writer_of(context),
            request.connection,
            request.issuer,
            request.claims_json,
            request.lifetime_s,
        )
        return hub_pb2.Session(
            key=key,
            connection=request.connection,
            issuer=request.issuer,
            claims_json=request.claims_json,
            expires_at_us=expires,
        )

    async def resolve_session(
        self, request: hub_pb2.ResolveSessionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> hub_pb2.Session:
        try:
            found = await asyncio.to_thread(self._sessions.resolve, self._writer_of(context), request.key_sha256)
        except SessionError as error:
            await self._refuse(context, grpc.StatusCode.NOT_FOUND, error.reason)
        connection, issuer, claims_json, expires = found
        return hub_pb2.Session(connection=connection, issuer=issuer, claims_json=claims_json, expires_at_us=expires)

    async def revoke_session(
        self, request: hub_pb2.RevokeSessionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> hub_pb2.RevokeSessionReply:
        revoked = await asyncio.to_thread(self._sessions.revoke, self._writer_of(context), request.key_sha256)
        return hub_pb2.RevokeSessionReply(revoked=revoked)

    async def _refuse(
        self, context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, details: str
    ) -> NoReturn:
        await context.abort(code, details)
        raise AssertionError("abort raises")


def _problem(request: hub_pb2.CreateSessionRequest) -> str:
    if not request.connection or not request.issuer:
        return "a session belongs to a connection and an issuer"
    if not 0 < request.lifetime_s <= MAX_LIFETIME_S:
        return f"a session lives 1 to {MAX_LIFETIME_S} seconds"
    if len(request.claims_json) > MAX_CLAIMS:
        return f"claims have at most {MAX_CLAIMS} bytes"
    try:
        claims = json.loads(request.claims_json)
    except ValueError:
        claims = None
    return "" if isinstance(claims, dict) else "claims are a JSON object"
