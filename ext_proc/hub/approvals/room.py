"""How many approvals may be open: a caller that asks for ever must neither fill the disk nor bury its approvers."""

from __future__ import annotations

import sqlite3

from ext_proc.errors import ApprovalError

MAX_OPEN = 20_000
MAX_OPEN_BYTES = 512 << 20
MAX_OPEN_OF_SESSION = 2_500
MAX_BYTES_OF_SESSION = 64 << 20


class Room:
    """Counts what is open, from the file at first and after a lost transaction. For one thread."""

    def __init__(self) -> None:
        self._known = False
        self._sessions: dict[bytes, tuple[int, int]] = {}
        self._count = self._bytes = 0

    def unknown(self) -> None:
        """What is counted may not be what the file has."""
        self._known = False

    def check(self, db: sqlite3.Connection, session_id: bytes, size: int) -> None:
        """ApprovalError `approval.too_many` where there is none left."""
        if not self._known:
            self._load(db)
        count, total = self._sessions.get(session_id, (0, 0))
        if count >= MAX_OPEN_OF_SESSION or total + size > MAX_BYTES_OF_SESSION:
            raise ApprovalError(
                "approval.too_many",
                f"this run has {count} requests that wait for people already",
                remedy="Wait until some of them are decided.",
                http_status=429,
            )
        if self._count >= MAX_OPEN or self._bytes + size > MAX_OPEN_BYTES:
            raise ApprovalError(
                "approval.too_many",
                f"{self._count} requests wait for people already, and the hub takes no more",
                remedy="Wait until some of them are decided or expire.",
                http_status=503,
            )

    def take(self, session_id: bytes, size: int) -> None:
        count, total = self._sessions.get(session_id, (0, 0))
        self._sessions[session_id] = (count + 1, total + size)
        self._count += 1
        self._bytes += size

    def leave(self, session_id: bytes, size: int) -> None:
        if not self._known:
            return
        count, total = self._sessions[session_id]
        if count > 1:
            self._sessions[session_id] = (count - 1, total - size)
        else:
            del self._sessions[session_id]
        self._count -= 1
        self._bytes -= size

    def _load(self, db: sqlite3.Connection) -> None:
        sql = "SELECT session_id, count(*), sum(size) FROM approvals WHERE closed_us = 0 GROUP BY session_id"
        self._sessions = {session: (count, size) for session, count, size in db.execute(sql)}
        self._count = sum(count for count, _ in self._sessions.values())
        self._bytes = sum(size for _, size in self._sessions.values())
        self._known = True
