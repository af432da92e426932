"""Counters and rates of sessions in SQLite, with the windows of those in use in memory.

What is counted is in the file before it is told, so a hub that is killed forgets nothing; a machine that loses power
may forget about a second. Everything here runs in the thread of `Commits`.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ext_proc.exchange import now_us
from ext_proc.hub.commits import Commits
from ext_proc.hub.counters.windows import Amounts, Takes, Window

IDLE_S = 86_400
"""A session that was silent for so long is forgotten, and so is each exchange after that time."""
MAX_WINDOW_S = 86_400
_MOST_WINDOWS = 10_000
_SPANS = 8
"""Different windows of one session: each policy engine of a gate asks for one."""
_SWEEP_US = 60_000_000
_SWEPT_AT_ONCE = 5_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    session_id BLOB PRIMARY KEY, calls INTEGER NOT NULL, writes INTEGER NOT NULL, targets INTEGER NOT NULL,
    bytes INTEGER NOT NULL, denied INTEGER NOT NULL, last_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sessions_last ON sessions (last_us);
CREATE TABLE IF NOT EXISTS targets (
    session_id BLOB NOT NULL, target BLOB NOT NULL, PRIMARY KEY (session_id, target)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counted (
    session_id BLOB NOT NULL, at_us INTEGER NOT NULL, exchange_id BLOB NOT NULL, denial INTEGER NOT NULL,
    write INTEGER NOT NULL, target BLOB NOT NULL, bytes INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS counted_once ON counted (exchange_id, session_id, denial);
CREATE INDEX IF NOT EXISTS counted_time ON counted (session_id, at_us);
CREATE TABLE IF NOT EXISTS takes (
    session_id BLOB NOT NULL, policy TEXT NOT NULL, at_us INTEGER NOT NULL, exchange_id BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS takes_once ON takes (exchange_id, session_id, policy);
CREATE INDEX IF NOT EXISTS takes_time ON takes (session_id, policy, at_us);
"""


@dataclass(frozen=True, slots=True)
class Counting:
    """One exchange. `denied`: said after the fact, adds to `denied` alone. `target` is empty for what is no write."""

    session_id: bytes
    exchange_id: bytes
    write: bool
    target: str
    bytes: int
    denied: bool
    window_s: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a session, or of the last seconds of it."""

    calls: int
    writes: int
    targets: int
    bytes: int
    denied: int


@dataclass(frozen=True, slots=True)
class Rate:
    policy: str
    limit: int
    per_s: int


class Counters:
    """One per hub. sqlite3.Error when the disk does not take what was counted: then it was not."""

    def __init__(self, path: Path) -> None:
        self._windows: OrderedDict[bytes, dict[int, Window]] = OrderedDict()
        self._takes: OrderedDict[tuple[bytes, str, int], Takes] = OrderedDict()
        self._swept_us = 0
        self._commits = Commits(path, _SCHEMA, durable=False, on_loss=self._forget_windows)

    async def count(self, counting: Counting) -> tuple[Counts, Counts]:
        """(the session, its last `window_s` seconds), with this exchange in both, counted once however often asked."""
        return await self._commits.do(lambda db: self._count(db, counting, now_us()))

    async def take(self, session_id: bytes, exchange_id: bytes, rates: Sequence[Rate]) -> tuple[str, int]:
        """Take one of each rate, or of none. (the policy whose rate is used up, the seconds until there is room)."""
        return await self._commits.do(lambda db: self._take(db, session_id, exchange_id, rates, now_us()))

    def close(self) -> None:
        self._commits.close()

    def _count(self, db: sqlite3.Connection, it: Counting, now: int) -> tuple[Counts, Counts]:
        self._sweep(db, now)
        target = hashlib.blake2b(it.target.encode(), digest_size=16).digest() if it.target and not it.denied else b""
        amounts = Amounts(denied=1) if it.denied else Amounts(1, int(it.write), it.bytes)
        window = self._window(db, it.session_id, it.window_s, now)  # before the row: it is made from rows
        fresh = db.execute(
            "INSERT OR IGNORE INTO counted VALUES (?, ?, ?, ?, ?, ?, ?)",
            (it.session_id, now, it.exchange_id, int(it.denied), amounts.writes, target, amounts.bytes),
        ).rowcount
        if fresh:
            for each in self._windows[it.session_id].values():
                each.add(now, amounts, target)
            new_target = 0
            if target:
                sql = "INSERT OR IGNORE INTO targets VALUES (?, ?)"
                new_target = db.execute(sql, (it.session_id, target)).rowcount
            db.execute(
                "INSERT INTO sessions VALUES (:s, :calls, :writes, :targets, :bytes, :denied, :now)"
                " ON CONFLICT (session_id) DO UPDATE SET calls = calls + :calls, writes = writes + :writes,"
                " targets = targets + :targets, bytes = bytes + :bytes, denied = denied + :denied, last_us = :now",
                {
                    "s": it.session_id,
                    "calls": amounts.calls,
                    "writes": amounts.writes,
                    "targets": new_target,
                    "bytes": amounts.bytes,
                    "denied": amounts.denied,
                    "now": now,
                },
            )
        row = db.execute(
            "SELECT calls, writes, targets, bytes, denied FROM sessions WHERE session_id = ?", (it.session_id,)
        ).fetchone()
        recent, targets = window.totals(now)
        return Counts(*row), Counts(recent.calls, recent.writes, targets, recent.bytes, recent.denied)

    def _take(
        self, db: sqlite3.Connection, session_id: bytes, exchange_id: bytes, rates: Sequence[Rate], now: int
    ) -> tuple[str, int]:
        self._sweep(db, now)
        sql = "SELECT policy FROM takes WHERE exchange_id = ? AND session_id = ?"
        taken = {row[0] for row in db.execute(sql, (exchange_id, session_id))}
        wanted = [rate for rate in rates if rate.policy not in taken]
        logs = [self._log(db, session_id, rate, now) for rate in wanted]
        for rate, log in zip(wanted, logs, strict=True):
            wait_us = log.wait_us(now, rate.limit)
            if wait_us:
                return rate.policy, -(-wait_us // 1_000_000)
        for rate, log in zip(wanted, logs, strict=True):
            log.take(now)
            db.execute("INSERT INTO takes VALUES (?, ?, ?, ?)", (session_id, rate.policy, now, exchange_id))
        return "", 0

    def _window(self, db: sqlite3.Connection, session_id: bytes, span_s: int, now: int) -> Window:
        windows = self._windows.setdefault(session_id, {})
        self._windows.move_to_end(session_id)
        while len(self._windows) > _MOST_WINDOWS:
            self._windows.popitem(last=False)
        if span_s not in windows:
            made = windows[span_s] = Window(span_s)
            rows = db.execute(
                "SELECT at_us, denial, write, bytes, target FROM counted WHERE session_id = ? AND at_us > ?"
                " ORDER BY at_us",
                (session_id, now - span_s * 1_000_000),
            )
            for at_us, denial, write, size, target in rows:
                made.add(at_us, Amounts(denied=1) if denial else Amounts(1, write, size), target)
            while len(windows) > _SPANS:
                del windows[next(iter(windows))]
        return windows[span_s]

    def _log(self, db: sqlite3.Connection, session_id: bytes, rate: Rate, now: int) -> Takes:
        key = (session_id, rate.policy, rate.per_s)
        log = self._takes.get(key)
        if log is None:
            log = self._takes[key] = Takes(rate.per_s)
            sql = "SELECT at_us FROM takes WHERE session_id = ? AND policy = ? AND at_us > ? ORDER BY at_us"
            for (at_us,) in db.execute(sql, (session_id, rate.policy, now - rate.per_s * 1_000_000)):
                log.take(at_us)
            while len(self._takes) > _MOST_WINDOWS:
                self._takes.popitem(last=False)
        self._takes.move_to_end(key)
        return log

    def _sweep(self, db: sqlite3.Connection, now: int) -> None:
        """Forget what is a day old, a little at a time."""
        if now - self._swept_us < _SWEEP_US:
            return
        before = now - IDLE_S * 1_000_000
        swept = 0
        for table in ("counted", "takes"):  # rows are in the order of their time
            oldest = f"SELECT rowid FROM {table} ORDER BY rowid LIMIT {_SWEPT_AT_ONCE}"
            swept += db.execute(f"DELETE FROM {table} WHERE rowid IN ({oldest}) AND at_us < ?", (before,)).rowcount
        idle = db.execute("SELECT session_id FROM sessions WHERE last_us < ? LIMIT 1", (before,)).fetchone()
        if idle is not None:
            some = f"SELECT target FROM targets WHERE session_id = :s LIMIT {_SWEPT_AT_ONCE}"
            swept += db.execute(
                f"DELETE FROM targets WHERE session_id = :s AND target IN ({some})", {"s": idle[0]}
            ).rowcount
            db.execute(
                "DELETE FROM sessions WHERE session_id = :s"
                " AND NOT EXISTS (SELECT 1 FROM targets WHERE session_id = :s)",
                {"s": idle[0]},
            )
            swept += 1
        if not swept:
            self._swept_us = now
            self._drop_empty(now)

    def _drop_empty(self, now: int) -> None:
        for session_id, windows in list(self._windows.items()):
            if all(window.empty(now) for window in windows.values()):
                del self._windows[session_id]
        for key, log in list(self._takes.items()):
            if log.empty(now):
                del self._takes[key]

    def _forget_windows(self) -> None:
        """They may be ahead of the file."""
        self._windows.clear()
        self._takes.clear()
