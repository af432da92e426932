"""How many approvals may be open: a caller that asks for ever must neither fill the disk nor bury its approvers."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from ext_proc.errors import ApprovalError

MAX_OPEN = 20_000
MAX_OPEN_BYTES = 512 << 20
MAX_OPEN_OF_SUBJECT = 5_000
MAX_BYTES_OF_SUBJECT = 128 << 20
MAX_OPEN_OF_SESSION = 2_500
MAX_BYTES_OF_SESSION = 64 << 20

_REMEDY = "Wait until some of them are decided or expire."


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose request it is. A caller may have as many sessions as it gets tokens, but one subject."""

    session_id: bytes
    issuer: str
    subject: str

    @property
    def keys(self) -> tuple[object, object]:
        """What is counted: the session, the subject."""
        return self.session_id, (self.issuer, self.subject)


class Room:
    """Counts what is open, from the file at first and after a lost transaction. For one thread."""

    def __init__(self) -> None:
        self._known = False
        self._open: dict[object, tuple[int, int]] = {}
        self._count = self._bytes = 0

    def unknown(self) -> None:
        """What is counted may not be what the file has."""
        self._known = False

    def check(self, db: sqlite3.Connection, whose: Whose, size: int) -> None:
        """ApprovalError `approval.too_many` where there is none left."""
        if not self._known:
            self._load(db)
        session, subject = (self._open.get(key, (0, 0)) for key in whose.keys)
        if session[0] >= MAX_OPEN_OF_SESSION or session[1] + size > MAX_BYTES_OF_SESSION:
            raise ApprovalError(
                "approval.too_many",
                f"this run has {session[0]} requests that wait for people already",
                remedy=_REMEDY,
                http_status=429,
            )
        if subject[0] >= MAX_OPEN_OF_SUBJECT or subject[1] + size > MAX_BYTES_OF_SUBJECT:
            raise ApprovalError(
                "approval.too_many",
                f"the runs of this caller have {subject[0]} requests that wait for people already",
                remedy=_REMEDY,
                http_status=429,
            )
        if self._count >= MAX_OPEN or self._bytes + size > MAX_OPEN_BYTES:
            raise ApprovalError(
                "approval.too_many",
                f"{self._count} requests wait for people already, and the hub takes no more",
                remedy=_REMEDY,
                http_status=503,
            )

    def take(self, whose: Whose, size: int) -> None:
        for key in whose.keys:
            self._change(key, 1, size)
        self._count += 1
        self._bytes += size

    def leave(self, whose: Whose, size: int) -> None:
        if not self._known:
            return
        for key in whose.keys:
            self._change(key, -1, -size)
        self._count -= 1
        self._bytes -= size

    def _change(self, key: object, count: int, size: int) -> None:
        before = self._open.get(key, (0, 0))
        if before[0] + count:
            self._open[key] = (before[0] + count, before[1] + size)
        else:
            del self._open[key]

    def _load(self, db: sqlite3.Connection) -> None:
        self._open.clear()
        self._count = self._bytes = 0
        for session_id, issuer, subject, size in db.execute(
            "SELECT session_id, issuer, subject, size FROM approvals WHERE closed_us = 0"
        ):
            self.take(Whose(session_id, issuer, subject), size)
        self._known = True
