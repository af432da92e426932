"""Notices that are to be sent, in SQLite: each is there until it was sent, or was tried for long enough."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ext_proc.hub.approvals.notify.notice import Notice
from ext_proc.hub.commits import Commits

GIVE_UP_US = 24 * 3600 * 1_000_000
_FIRST_S, _LONGEST_S = 5, 900

_SCHEMA = """
CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY CHECK (one = 1), registry TEXT, number INTEGER);
CREATE TABLE IF NOT EXISTS notices (
    number INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT NOT NULL, notice TEXT NOT NULL, tries INTEGER NOT NULL,
    made_us INTEGER NOT NULL, due_us INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS notices_due ON notices (channel, due_us);
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    number: int
    notice: Notice
    tries: int
    made_us: int
    due_us: int


class Queue:
    """What a method did is on the disk when it is answered. sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        self._commits = Commits(path, _SCHEMA, durable=True)

    async def position(self) -> tuple[str, int] | None:
        """The registry, and its last event whose notices are here; None at first."""
        sql = "SELECT registry, number FROM position"
        found: tuple[str, int] | None = await self._commits.do(lambda db: db.execute(sql).fetchone())
        return found

    async def add(
        self, channels: Sequence[str], notices: Sequence[Notice], position: tuple[str, int], now_us: int
    ) -> None:
        """Each notice for each channel, and how far the events were read, at once."""

        def operation(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO notices (channel, notice, tries, made_us, due_us) VALUES (?, ?, 0, ?, ?)",
                [(name, notice.dump(), now_us, now_us) for notice in notices for name in channels],
            )
            db.execute("INSERT OR REPLACE INTO position VALUES (1, ?, ?)", position)

        await self._commits.do(operation)

    async def next(self, channel: str) -> Waiting | None:
        """What is due first."""
        sql = "SELECT number, notice, tries, made_us, due_us FROM notices WHERE channel = ? ORDER BY due_us, number"
        row = await self._commits.do(lambda db: db.execute(sql + " LIMIT 1", (channel,)).fetchone())
        return Waiting(row[0], Notice.load(row[1]), *row[2:]) if row is not None else None

    async def sent(self, number: int) -> None:
        await self._commits.do(lambda db: db.execute("DELETE FROM notices WHERE number = ?", (number,)).rowcount)

    async def failed(self, waiting: Waiting, now_us: int) -> bool:
        """Whether it will be tried again."""
        if now_us - waiting.made_us > GIVE_UP_US:
            await self.sent(waiting.number)
            return False
        due_us = now_us + min(_FIRST_S * 2**waiting.tries, _LONGEST_S) * 1_000_000
        sql = "UPDATE notices SET tries = tries + 1, due_us = ? WHERE number = ?"
        await self._commits.do(lambda db: db.execute(sql, (due_us, waiting.number)).rowcount)
        return True

    async def keep_only(self, channels: Sequence[str]) -> None:
        """Forget what was for channels that are not configured any more."""
        marks = ", ".join("?" * len(channels))
        sql = f"DELETE FROM notices WHERE channel NOT IN ({marks})"
        await self._commits.do(lambda db: db.execute(sql, list(channels)).rowcount)

    async def reset(self) -> None:
        """Nobody is told: what happens until somebody is again is not told later."""

        def operation(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM notices")
            db.execute("DELETE FROM position")

        await self._commits.do(operation)

    def close(self) -> None:
        self._commits.close()
