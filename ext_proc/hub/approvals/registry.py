"""Approvals in SQLite: the one place that says what is approved, and what of it was used.

A row is where its events have brought it; both change in one transaction, and only from the version that was read
(compare-and-set). What a method tells is on the disk. Everything here is one process's: who is attached is written
down so that a query can find what is free, and forgotten at the next start, when every request attaches again.
"""

from __future__ import annotations

import itertools
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ext_proc.errors import ApprovalError
from ext_proc.exchange import now_us
from ext_proc.hub.approvals import states
from ext_proc.hub.approvals.room import Room, Whose
from ext_proc.hub.approvals.rows import COLUMNS, SCHEMA, Event, Summary, dump, load, requirements_text, summary
from ext_proc.hub.approvals.states import Approval, Approver, Requirement, State
from ext_proc.hub.commits import Commits

REPLAY_US = 30_000_000
"""A worker that dies between the grant and the sending is replaced by another, which asks again for the same exchange
within this time."""
KEEP_CLOSED = 5_000
KEEP_CLOSED_BYTES = 256 << 20
_EXPIRE_AT_ONCE = 500

_LEFT = ((State.APPROVED, False), (State.DENIED, True), (State.WITHDRAWN, True), (State.REQUESTED, False))
"""What an earlier try may have left, in the order of preference; whether it counts until it would have expired."""
_FOUND = (
    "digest = :digest AND session_id = :session AND requirements = :requirements"
    " AND (writer = :writer OR shown = :shown)"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a gate wants to be approved. `request` is what approvers are shown, as the gate sent it (`HoldRequest`)."""

    about: Summary
    exchange_id: bytes
    requirements: tuple[Requirement, ...]
    person: str | None
    validity_us: int
    expires_us: int
    wait_s: float
    shown: bytes
    """A hash of what people see and what follows from it, the same at each gate."""
    request: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Attached:
    """`replaced` is the ticket of the same exchange's former call, which is over; `new` whether the approval was made
    for this one."""

    approval: Approval
    replaced: int | None = None
    new: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """`request` is the gate's HoldRequest."""

    approval: Approval
    about: Summary
    request: bytes = field(repr=False)
    events: tuple[Event, ...] = ()


class Registry:
    """One per hub. Its methods are answered when what they changed is on the disk; sqlite3.Error when it cannot be."""

    def __init__(self, path: Path) -> None:
        self._room = Room()
        self._forgotten = 0
        self._commits = Commits(path, SCHEMA, durable=True, on_loss=self._room.unknown)

    # Requests that wait.

    async def attach(self, asked: Asked, ticket: int) -> Attached:
        """Find or make the approval of this request, and attach the call `ticket` to it. One that is approved is used
        up in the same step. ApprovalError `approval.too_many`."""
        return await self._commits.do(lambda db: self._attach(db, asked, ticket, now_us()))

    def detach(self, ticket: int) -> None:
        """The call has ended. Does not wait."""
        future = self._commits.do(
            lambda db: db.execute("UPDATE approvals SET attached = NULL WHERE attached = ?", (ticket,)).rowcount
        )
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def use(self, approval_id: str, ticket: int, exchange_id: bytes, gate: str) -> Approval:
        """Use it up for the attached call, if it still is approved; otherwise as it is now."""
        return await self._commits.do(lambda db: self._use(db, approval_id, ticket, exchange_id, gate, now_us()))

    # People.

    async def decide(
        self, approval_id: str, approver: Approver, *, approve: bool, comment: str
    ) -> tuple[Approval, int | None]:
        """(as it is then, the ticket of the call that is attached). ApprovalError; KeyError for no such approval."""

        def operation(db: sqlite3.Connection) -> tuple[Approval, int | None]:
            before, ticket = self._load(db, approval_id)
            say = states.say_yes if approve else states.say_no
            after = say(before, approver, now_us(), comment)
            after = replace(after, told=ticket is not None and not after.state.open)
            event = "approved" if approve else str(after.state)
            saved = self._save(db, before, after, Event.by(event, approver, comment, after.closed_us or now_us()))
            return saved, ticket

        return await self._commits.do(operation)

    async def expire(self) -> tuple[list[tuple[Approval, int | None]], int | None]:
        """(those whose time is over, with the ticket of the attached call; when the next one's will be)."""
        return await self._commits.do(lambda db: self._expire(db, now_us()))

    # Looking.

    async def find(self, approval_id: str) -> Found:
        """All of one. KeyError."""

        def operation(db: sqlite3.Connection) -> Found:
            row = db.execute(f"SELECT {COLUMNS} FROM approvals WHERE id = ?", (approval_id,)).fetchone()
            if row is None:
                raise KeyError(approval_id)
            [request] = db.execute("SELECT request FROM requests WHERE id = ?", (approval_id,)).fetchone()
            events = db.execute(
                f"SELECT {Event.COLUMNS} FROM events WHERE approval_id = ? ORDER BY number", (approval_id,)
            )
            return Found(load(row), summary(row), request, tuple(Event(*event) for event in events))

        return await self._commits.do(operation)

    async def named(self, prefix: str) -> list[str]:
        """At most two ids that begin with `prefix`, hexadecimal digits."""
        sql = "SELECT id FROM approvals WHERE id >= ? AND id < ? ORDER BY id LIMIT 2"
        rows = await self._commits.do(lambda db: db.execute(sql, (prefix, prefix + "g")).fetchall())
        return [row[0] for row in rows]

    async def listed(
        self, wanted: Sequence[State], limit: int, visible: Callable[[Approval], bool] = lambda _: True
    ) -> list[tuple[Approval, Summary]]:
        """The newest first, of those that are `visible`."""
        marks = ", ".join("?" * len(wanted))
        sql = f"SELECT {COLUMNS} FROM approvals WHERE state IN ({marks}) ORDER BY made_us DESC"

        def operation(db: sqlite3.Connection) -> list[tuple[Approval, Summary]]:
            found = ((load(row), row) for row in db.execute(sql, [str(state) for state in wanted]))
            seen = itertools.islice((one for one in found if visible(one[0])), limit)
            return [(approval, summary(row)) for approval, row in seen]

        return await self._commits.do(operation)

    async def events(self, after: int, limit: int) -> list[tuple[Event, Approval, Summary]]:
        """Events with a number above `after`, in order, each with its approval as it is now."""
        sql = (
            f"SELECT {Event.COLUMNS}, {COLUMNS} FROM events JOIN approvals ON id = approval_id"
            " WHERE number > ? ORDER BY number LIMIT ?"
        )
        rows = await self._commits.do(lambda db: db.execute(sql, (after, limit)).fetchall())
        return [(Event(*row[: Event.WIDTH]), load(row[Event.WIDTH :]), summary(row[Event.WIDTH :])) for row in rows]

    async def last_event(self) -> int:
        """The number of the newest event."""
        sql = "SELECT coalesce(max(number), 0) FROM events"
        number: int = await self._commits.do(lambda db: db.execute(sql).fetchone()[0])
        return number

    async def identity(self) -> str:
        """Names this file: event numbers mean something within it alone."""
        found: str = await self._commits.do(lambda db: db.execute("SELECT id FROM registry").fetchone()[0])
        return found

    async def forget(self, entered: int) -> None:
        """Remove what is over and not among the latest, as far as the history has it: events up to `entered`."""
        await self._commits.do(lambda db: self._forget(db, entered))

    def close(self) -> None:
        self._commits.close()

    # In the thread of Commits, inside its transaction.

    def _attach(self, db: sqlite3.Connection, asked: Asked, ticket: int, now: int) -> Attached:
        late = False
        while True:
            found = self._own(db, asked, now) or self._free(db, asked, now)
            if found is None:
                try:
                    return Attached(self._make(db, asked, ticket, now), new=True)
                except ApprovalError:
                    if late:  # what expired here is undone with this, but for its place
                        self._room.unknown()
                    raise
            before, replaced = found
            if states.expire(before, now) is before:
                break
            self._save(db, before, states.expire(before, now), Event("expired", now))
            late = True
        if before.state is State.APPROVED:
            after = states.use(before, asked.exchange_id, now)
            event = Event("used", now, exchange_id=asked.exchange_id, gate=asked.about.gate)
            return Attached(self._save(db, before, after, event), replaced)
        if before.state is State.REQUESTED:
            after = replace(before, exchange_id=asked.exchange_id)
            db.execute(
                "UPDATE approvals SET attached = ?, exchange_id = ? WHERE id = ?",
                (ticket, asked.exchange_id, before.id),
            )
            return Attached(after, replaced)
        db.execute("UPDATE approvals SET told = 1, exchange_id = ? WHERE id = ?", (asked.exchange_id, before.id))
        return Attached(replace(before, told=True), replaced)

    def _own(self, db: sqlite3.Connection, asked: Asked, now: int) -> tuple[Approval, int | None] | None:
        """The one this very exchange was attached to before."""
        row = db.execute(
            f"SELECT {COLUMNS}, attached FROM approvals WHERE {_FOUND} AND exchange_id = :exchange"
            " ORDER BY made_us DESC LIMIT 1",
            {**_key(asked), "exchange": asked.exchange_id},
        ).fetchone()
        if row is None:
            return None
        found = load(row)
        if found.state is State.USED and found.closed_us + REPLAY_US < now:
            return None
        return found, row[-1]

    def _free(self, db: sqlite3.Connection, asked: Asked, now: int) -> tuple[Approval, int | None] | None:
        """One that an earlier try of the same request left: approved, or denied while nobody was there to hear it, or
        still open."""
        for state, since in _LEFT:
            row = db.execute(
                f"SELECT {COLUMNS} FROM approvals WHERE {_FOUND} AND attached IS NULL AND state = :state AND told = 0"
                " AND expires_us > :since ORDER BY made_us LIMIT 1",
                {**_key(asked), "state": str(state), "since": now if since else 0},
            ).fetchone()
            if row is not None:
                return load(row), None
        return None

    def _make(self, db: sqlite3.Connection, asked: Asked, ticket: int, now: int) -> Approval:
        self._room.check(db, _whose(asked.about), len(asked.request))
        made = Approval(
            id=secrets.token_hex(12),
            state=State.REQUESTED,
            requirements=asked.requirements,
            person=asked.person,
            made_us=now,
            expires_us=now + asked.expires_us,
            validity_us=asked.validity_us,
            exchange_id=asked.exchange_id,
            version=1,
        )
        db.execute("INSERT INTO requests VALUES (?, ?)", (made.id, asked.request))
        row = {**dump(made), **asked.about.columns(), "shown": asked.shown, "attached": ticket}
        row["size"] = len(asked.request)
        names = ", ".join(row)
        db.execute(f"INSERT INTO approvals ({names}) VALUES ({', '.join(f':{name}' for name in row)})", row)
        Event("requested", now, exchange_id=asked.exchange_id, gate=asked.about.gate).insert(db, made)
        self._room.take(_whose(asked.about), len(asked.request))
        return made

    def _use(
        self, db: sqlite3.Connection, approval_id: str, ticket: int, exchange_id: bytes, gate: str, now: int
    ) -> Approval:
        before, attached = self._load(db, approval_id)
        after = states.expire(before, now)
        if after is not before:
            return self._save(db, before, replace(after, told=True), Event("expired", now))
        if before.state is not State.APPROVED or attached != ticket:
            return before
        event = Event("used", now, exchange_id=exchange_id, gate=gate)
        return self._save(db, before, states.use(before, exchange_id, now), event)

    def _expire(self, db: sqlite3.Connection, now: int) -> tuple[list[tuple[Approval, int | None]], int | None]:
        rows = db.execute(
            f"SELECT {COLUMNS}, attached FROM approvals WHERE deadline_us <= ? LIMIT ?", (now, _EXPIRE_AT_ONCE)
        ).fetchall()
        over = []
        for row in rows:
            before, ticket = load(row), row[-1]
            after = replace(states.expire(before, now), told=ticket is not None)
            over.append((self._save(db, before, after, Event("expired", now)), ticket))
        return over, db.execute("SELECT min(deadline_us) FROM approvals WHERE deadline_us > 0").fetchone()[0]

    def _load(self, db: sqlite3.Connection, approval_id: str) -> tuple[Approval, int | None]:
        row = db.execute(f"SELECT {COLUMNS}, attached FROM approvals WHERE id = ?", (approval_id,)).fetchone()
        if row is None:
            raise KeyError(approval_id)
        return load(row), row[-1]

    def _save(self, db: sqlite3.Connection, before: Approval, after: Approval, event: Event) -> Approval:
        """Compare, set, and append the event that brought it about."""
        after = replace(after, version=before.version + 1)
        row = dump(after)
        row["before"] = before.version
        sets = ", ".join(f"{name} = :{name}" for name in row if name not in ("id", "before"))
        over = "" if after.state.open else ", attached = NULL"
        changed = db.execute(f"UPDATE approvals SET {sets}{over} WHERE id = :id AND version = :before", row)
        if changed.rowcount != 1:
            raise RuntimeError(f"{before.id} was changed by another")
        event.insert(db, after)
        if not after.state.open:
            *whose, size = db.execute(
                "SELECT session_id, issuer, subject, size FROM approvals WHERE id = ?", (after.id,)
            ).fetchone()
            self._room.leave(Whose(*whose), size)
        return after

    def _forget(self, db: sqlite3.Connection, entered: int) -> None:
        if entered <= self._forgotten:
            return
        self._forgotten = entered
        closed = db.execute(
            "SELECT id, size, (SELECT max(number) FROM events WHERE approval_id = id) FROM approvals"
            " WHERE closed_us > 0 ORDER BY closed_us DESC"
        )
        count = size = 0
        gone = []
        for approval_id, its, last in closed:
            count, size = count + 1, size + its
            if (count > KEEP_CLOSED or size > KEEP_CLOSED_BYTES) and last <= entered:
                gone.append((approval_id,))
        for table, column in (("events", "approval_id"), ("requests", "id"), ("approvals", "id")):
            db.executemany(f"DELETE FROM {table} WHERE {column} = ?", gone)


def _whose(about: Summary) -> Whose:
    return Whose(about.session_id, about.issuer, about.subject)


def _key(asked: Asked) -> dict[str, object]:
    """What must be the same for two requests to be one: nobody's approval serves another run, another request or
    other approvers. A job may find another gate the next time; but what one gate showed to people serves another only
    if that would have shown the same, for the digest is only the gate's word."""
    return {
        "writer": asked.about.writer,
        "shown": asked.shown,
        "digest": asked.about.digest,
        "session": asked.about.session_id,
        "requirements": requirements_text(asked.requirements),
    }
