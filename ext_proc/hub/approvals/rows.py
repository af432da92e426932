"""Approvals and their events as rows of SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar

from ext_proc.hub.approvals.states import Approval, Approver, Requirement, State, Yes

SCHEMA = """
CREATE TABLE IF NOT EXISTS registry (id TEXT NOT NULL);
INSERT INTO registry SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM registry);
CREATE TABLE IF NOT EXISTS approvals (
    id TEXT PRIMARY KEY, version INTEGER NOT NULL, state TEXT NOT NULL, requirements TEXT NOT NULL, person TEXT,
    made_us INTEGER NOT NULL, expires_us INTEGER NOT NULL, validity_us INTEGER NOT NULL, exchange_id BLOB NOT NULL,
    yes TEXT NOT NULL, valid_until_us INTEGER NOT NULL, closed_us INTEGER NOT NULL, told INTEGER NOT NULL,
    comment TEXT NOT NULL, deadline_us INTEGER,
    writer TEXT NOT NULL, gate TEXT NOT NULL, digest BLOB NOT NULL, session_id BLOB NOT NULL,
    session_label TEXT NOT NULL, connection TEXT NOT NULL, operation TEXT NOT NULL, issuer TEXT NOT NULL,
    subject TEXT NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL, message TEXT NOT NULL,
    shown BLOB NOT NULL, size INTEGER NOT NULL, attached INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS approvals_free ON approvals (digest, attached, state, told, made_us);
CREATE INDEX IF NOT EXISTS approvals_own ON approvals (digest, exchange_id, made_us);
CREATE INDEX IF NOT EXISTS approvals_attached ON approvals (attached) WHERE attached IS NOT NULL;
CREATE INDEX IF NOT EXISTS approvals_deadline ON approvals (deadline_us) WHERE deadline_us IS NOT NULL;
CREATE INDEX IF NOT EXISTS approvals_made ON approvals (state, made_us);
CREATE INDEX IF NOT EXISTS approvals_closed ON approvals (closed_us);
CREATE TABLE IF NOT EXISTS requests (id TEXT PRIMARY KEY, request BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, approval_id TEXT NOT NULL, event TEXT NOT NULL, at_us INTEGER NOT NULL,
    state TEXT NOT NULL, approver TEXT NOT NULL, approver_issuer TEXT NOT NULL, approver_subject TEXT NOT NULL,
    comment TEXT NOT NULL, exchange_id BLOB NOT NULL, gate TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_approval ON events (approval_id);
UPDATE approvals SET attached = NULL WHERE attached IS NOT NULL;
"""

_APPROVAL = (
    *("id", "version", "state", "requirements", "person", "made_us", "expires_us", "validity_us", "exchange_id"),
    *("yes", "valid_until_us", "closed_us", "told", "comment"),
)
_SUMMARY = (
    *("connection", "operation", "issuer", "subject", "session_id", "session_label", "method", "path", "message"),
    *("writer", "gate", "digest"),
)
COLUMNS = ", ".join(f"approvals.{name}" for name in (*_APPROVAL, *_SUMMARY))


@dataclass(frozen=True, slots=True)
class Summary:
    """What a request is about, in words that fit a line; masked by the gate."""

    connection: str
    operation: str
    issuer: str
    subject: str
    session_id: bytes
    session_label: str
    method: str
    path: str
    message: str
    writer: str = ""
    gate: str = ""
    digest: bytes = b""

    def columns(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to an approval. `event` is requested, approved (one approver's yes), denied, expired, used or
    withdrawn; `state` where that brought it."""

    event: str
    at_us: int
    state: str = ""
    approver: str = ""
    approver_issuer: str = ""
    approver_subject: str = ""
    comment: str = ""
    exchange_id: bytes = b""
    gate: str = ""
    number: int = 0

    COLUMNS: ClassVar[str] = (
        "event, at_us, events.state, approver, approver_issuer, approver_subject, events.comment, events.exchange_id,"
        " events.gate, number"
    )
    WIDTH: ClassVar[int] = 10

    @classmethod
    def by(cls, event: str, approver: Approver, comment: str, at_us: int) -> Event:
        return cls(
            event,
            at_us,
            approver=approver.label,
            approver_issuer=approver.issuer,
            approver_subject=approver.subject,
            comment=comment,
        )

    def insert(self, db: sqlite3.Connection, after: Approval) -> None:
        db.execute(
            "INSERT INTO events (approval_id, event, at_us, state, approver, approver_issuer, approver_subject,"
            " comment, exchange_id, gate) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(after.id, self.event, self.at_us, str(after.state), self.approver, self.approver_issuer),
                *(self.approver_subject, self.comment, self.exchange_id, self.gate),
            ),
        )


def dump(approval: Approval) -> dict[str, Any]:
    """The columns of its own, and the one to find what expires by."""
    return {
        "id": approval.id,
        "version": approval.version,
        "state": str(approval.state),
        "requirements": requirements_text(approval.requirements),
        "person": approval.person,
        "made_us": approval.made_us,
        "expires_us": approval.expires_us,
        "validity_us": approval.validity_us,
        "exchange_id": approval.exchange_id,
        "yes": json.dumps([[y.name, y.issuer, y.subject, y.meets] for y in approval.yes]),
        "valid_until_us": approval.valid_until_us,
        "closed_us": approval.closed_us,
        "told": int(approval.told),
        "comment": approval.comment,
        "deadline_us": approval.deadline_us,
    }


def load(row: Sequence[Any]) -> Approval:
    """Of a row of COLUMNS."""
    approval_id, version, state, requirements, person, made, expires, validity, exchange_id, yes, until = row[:11]
    closed, told, comment = row[11:14]
    return Approval(
        id=approval_id,
        version=version,
        state=State(state),
        requirements=_requirements(requirements),
        person=person,
        made_us=made,
        expires_us=expires,
        validity_us=validity,
        exchange_id=exchange_id,
        yes=tuple(Yes(n, i, s, tuple(m)) for n, i, s, m in json.loads(yes)) if yes != "[]" else (),
        valid_until_us=until,
        closed_us=closed,
        told=bool(told),
        comment=comment,
    )


@lru_cache(1024)
def _requirements(text: str) -> tuple[Requirement, ...]:
    """There are as many as rules, and lists read thousands of rows."""
    return tuple(Requirement(p, tuple(a), q) for p, a, q in json.loads(text))


def summary(row: Sequence[Any]) -> Summary:
    """Of a row of COLUMNS."""
    return Summary(*row[len(_APPROVAL) : len(_APPROVAL) + len(_SUMMARY)])


def requirements_text(requirements: tuple[Requirement, ...]) -> str:
    """The same for the same requirements."""
    return json.dumps([[r.policy, list(r.approvers), r.quorum] for r in requirements], separators=(",", ":"))
