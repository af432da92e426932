"""What the hub knows of journals beside their bytes: which ended, and how far each slot's time has come."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TOMBSTONE_DAYS = 30
"""How long a finished journal is remembered, so that a gate that missed the last answer cannot send it again."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS slots (
    writer TEXT, gate TEXT, slot INTEGER, slots INTEGER, watermark_us INTEGER, heard_us INTEGER,
    PRIMARY KEY (writer, gate, slot)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ended (
    writer TEXT, gate TEXT, slot INTEGER, journal TEXT, end_offset INTEGER, finished_us INTEGER,
    PRIMARY KEY (writer, gate, slot, journal)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Key:
    """One worker's life. `writer` is the authenticated name, the rest the gate's word."""

    writer: str
    gate: str
    slot: int
    journal: str


@dataclass(slots=True)
class SlotClock:
    """Every event of the slot before `watermark_us` has arrived. `heard_us`: when the gate last spoke, by our clock.

    `slots` is how many workers its gate has, as it last said. Times in microseconds since the epoch.
    """

    writer: str
    gate: str
    slot: int
    slots: int
    watermark_us: int = 0
    heard_us: int = 0


class Registry:
    """SQLite; every method blocks, from any thread. Ends are durable when their method returns; clocks may come back
    a little older than they were, which only makes the ledger wait."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(_SCHEMA)
        horizon = int((time.time() - TOMBSTONE_DAYS * 86400) * 1e6)
        self._db.execute("DELETE FROM ended WHERE finished_us < ?", (horizon,))

    def clocks(self) -> list[SlotClock]:
        rows = self._db.execute("SELECT writer, gate, slot, slots, watermark_us, heard_us FROM slots ORDER BY heard_us")
        return [SlotClock(*row) for row in rows]

    def keep_clocks(self, clocks: Iterable[SlotClock]) -> None:
        """Replaces what was kept."""
        rows = [(c.writer, c.gate, c.slot, c.slots, c.watermark_us, c.heard_us) for c in clocks]
        with self._lock:
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM slots")
            self._db.executemany("INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("COMMIT")

    def ended(self, key: Key) -> tuple[int, bool] | None:
        """(end, whether the ledger is done with it) of a sealed journal; None for one that is open or unknown."""
        row = self._db.execute(
            "SELECT end_offset, finished_us IS NOT NULL FROM ended"
            " WHERE writer = ? AND gate = ? AND slot = ? AND journal = ?",
            (key.writer, key.gate, key.slot, key.journal),
        ).fetchone()
        return (row[0], bool(row[1])) if row else None

    def seal(self, key: Key, end: int) -> None:
        self._write("INSERT OR IGNORE INTO ended VALUES (?, ?, ?, ?, ?, NULL)", key, end)

    def finish(self, key: Key, end: int) -> None:
        self._write(
            f"INSERT OR REPLACE INTO ended VALUES (?, ?, ?, ?, ?, {time.time_ns() // 1000})",  # noqa: S608 (a number)
            key,
            end,
        )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _write(self, statement: str, key: Key, end: int) -> None:
        with self._lock:
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(statement, (key.writer, key.gate, key.slot, key.journal, end))
