"""What is on its way to ClickHouse, on disk: each exchange in exactly one batch, whatever dies when.

A batch is one immutable file of RowBinary rows for one table, `outbox/<number>`. Its number is its deduplication
token, so it may be sent any number of times. One SQLite transaction makes files batches; it also moves everything that
was derived from the journals to the same point: the heads of the chains, how far each journal was consumed, which
exchanges are open in it, and which were entered. A file without its row is from a transaction that never was, and is
removed at the next start; what was in it is assembled again, to the same rows.

    HUB/ledger.sqlite           the state
    HUB/outbox/000000000042     a batch
    HUB/quarantine/...          batches that ClickHouse will never take, kept for a person

All methods block, and may be called from any thread.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from uuid import uuid4

from ext_proc.hub.attempts import Gate, JournalKey
from ext_proc.hub.chain import Head

FILE_BYTES = 8 << 20
"""A batch is not made larger than this, but for one row that is."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS hub (id TEXT NOT NULL, next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
  number INTEGER PRIMARY KEY, tbl TEXT NOT NULL, columns TEXT NOT NULL, rows INTEGER NOT NULL, made_us INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS quarantined (
  number INTEGER PRIMARY KEY, tbl TEXT NOT NULL, columns TEXT NOT NULL, rows INTEGER NOT NULL, error TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS chains (chain_id TEXT PRIMARY KEY, seq INTEGER NOT NULL, record_hash BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS journals (
  writer TEXT, gate TEXT, slot INTEGER, journal TEXT, consumed INTEGER NOT NULL, open BLOB NOT NULL,
  PRIMARY KEY (writer, gate, slot, journal)
);
CREATE TABLE IF NOT EXISTS entered (writer TEXT, gate TEXT, until_us INTEGER NOT NULL, ids BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS entered_until ON entered (writer, gate, until_us);
CREATE TABLE IF NOT EXISTS configs (writer TEXT, gate TEXT, digest TEXT, PRIMARY KEY (writer, gate, digest));
CREATE TABLE IF NOT EXISTS approvals (one INTEGER PRIMARY KEY CHECK (one = 1), registry TEXT, number INTEGER);
"""
_OPEN = struct.Struct("<16sQ")


@dataclass(frozen=True, slots=True)
class Batch:
    """One insert. `rows` is their number."""

    number: int
    table: str
    columns: tuple[str, ...]
    rows: int
    made_us: int
    path: Path


@dataclass(slots=True)
class Entered:
    """Ids of exchanges of one gate, and the latest end among them, as `Assembler.remember` wants them."""

    until_us: int = 0
    ids: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Progress:
    """What one transaction moves beside its batches."""

    chains: Mapping[str, Head] = field(default_factory=dict)
    journals: dict[JournalKey, tuple[int, dict[bytes, int]]] = field(default_factory=dict)
    """Consumed offset, and the open exchanges with where each begins (`Assembler.position`)."""
    ended: list[JournalKey] = field(default_factory=list)
    """Journals of which nothing is needed any more."""
    entered: dict[Gate, Entered] = field(default_factory=dict)
    """Exchanges that have their row now."""
    forgotten: list[tuple[Gate, int]] = field(default_factory=list)
    """As `Assembler.forget` gave it."""
    configs: list[tuple[Gate, str]] = field(default_factory=list)
    """Digests that have their row now."""
    approvals: tuple[str, int] | None = None
    """The registry of approvals, and its last event that has its row now."""


class Draft:
    """Files of a transaction to come. Not thread-safe."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self.next_number = number
        self.files: list[tuple[int, str, tuple[str, ...], int]] = []
        self._pending: dict[str, tuple[tuple[str, ...], list[bytes]]] = {}
        self._sizes: dict[str, int] = {}
        self.rows = 0
        self.bytes = 0

    def add(self, table: str, columns: tuple[str, ...], row: bytes) -> None:
        """One row. A table's rows stay in order. Written to disk whenever a file is full. OSError."""
        if self._sizes.get(table, 0) + len(row) > FILE_BYTES:
            self.flush()
        pending = self._pending.get(table)
        if pending is None:
            pending = self._pending[table] = (columns, [])
        pending[1].append(row)
        self._sizes[table] = self._sizes.get(table, 0) + len(row)
        self.rows += 1
        self.bytes += len(row)

    def flush(self) -> None:
        """Write what is pending, parts of bodies before the exchanges they belong to. OSError."""
        for table in sorted(self._pending, key=lambda name: name == "exchanges"):
            columns, rows = self._pending[table]
            data = b"".join(rows)
            descriptor = os.open(self._folder / _name(self.next_number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fdatasync(descriptor)
            self.files.append((self.next_number, table, columns, len(rows)))
            self.next_number += 1
        self._pending.clear()
        self._sizes.clear()


class Outbox:
    """One per hub folder."""

    def __init__(self, path: Path) -> None:
        """Open or make it, and remove what no transaction made a batch. OSError, sqlite3.Error."""
        self._folder = path / "outbox"
        self._quarantine = path / "quarantine"
        for folder in (path, self._folder, self._quarantine):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = Lock()
        self._db = sqlite3.connect(path / "ledger.sqlite", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        with self._transaction() as db:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                db.execute(statement)
            if db.execute("SELECT count(*) FROM hub").fetchone()[0] == 0:
                db.execute("INSERT INTO hub VALUES (?, 1)", (uuid4().hex,))
            hub_id, number = db.execute("SELECT id, next FROM hub").fetchone()
            kept = {_name(row[0]) for row in db.execute("SELECT number FROM batches")}
        self.hub_id: str = hub_id
        self._next: int = number
        for file in self._folder.iterdir():
            if file.name not in kept:
                file.unlink()

    # What a start needs.

    def heads(self) -> dict[str, Head]:
        """The heads of all chains."""
        with self._lock:
            return {row[0]: Head(row[1], row[2]) for row in self._db.execute("SELECT * FROM chains")}

    def journals(self) -> dict[JournalKey, tuple[int, dict[bytes, int]]]:
        """Consumed offset and open exchanges, as `Assembler.resume` wants them."""
        with self._lock:
            rows = self._db.execute("SELECT * FROM journals").fetchall()
        return {
            JournalKey(Gate(writer, gate), slot, journal): (consumed, dict(_OPEN.iter_unpack(blob)))
            for writer, gate, slot, journal, consumed, blob in rows
        }

    def entered(self) -> list[tuple[Gate, int, tuple[bytes, ...]]]:
        """What `Assembler.remember` must know, oldest first."""
        with self._lock:
            rows = self._db.execute("SELECT writer, gate, until_us, ids FROM entered ORDER BY rowid").fetchall()
        return [
            (Gate(writer, gate), until, tuple(ids[at : at + 16] for at in range(0, len(ids), 16)))
            for writer, gate, until, ids in rows
        ]

    def configs(self) -> set[tuple[Gate, str]]:
        """Digests that have a row, by gate."""
        with self._lock:
            return {(Gate(row[0], row[1]), row[2]) for row in self._db.execute("SELECT * FROM configs")}

    def approvals(self) -> tuple[str, int]:
        """The registry of approvals, and its last event that has a row."""
        with self._lock:
            row = self._db.execute("SELECT registry, number FROM approvals").fetchone()
        return (row[0], row[1]) if row else ("", 0)

    # In.

    def draft(self) -> Draft:
        """Where the files of the next transaction are written. One at a time."""
        return Draft(self._folder, self._next)

    def commit(self, draft: Draft, progress: Progress) -> None:
        """Make all of it true at once. OSError, sqlite3.Error: then none of it is, and the ledger starts anew."""
        draft.flush()
        if draft.files:
            _sync_folder(self._folder)
        now_us = time.time_ns() // 1000
        with self._transaction() as db:
            db.execute("UPDATE hub SET next = ?", (draft.next_number,))
            db.executemany(
                "INSERT INTO batches VALUES (?, ?, ?, ?, ?)",
                [(n, table, ",".join(columns), rows, now_us) for n, table, columns, rows in draft.files],
            )
            db.executemany(
                "INSERT OR REPLACE INTO chains VALUES (?, ?, ?)",
                [(chain_id, head.seq, head.record_hash) for chain_id, head in progress.chains.items()],
            )
            db.executemany(
                "INSERT OR REPLACE INTO journals VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (*_columns(key), consumed, b"".join(_OPEN.pack(*item) for item in open_at.items()))
                    for key, (consumed, open_at) in progress.journals.items()
                ],
            )
            db.executemany(
                "DELETE FROM journals WHERE writer = ? AND gate = ? AND slot = ? AND journal = ?",
                [_columns(key) for key in progress.ended],
            )
            db.executemany(
                "INSERT INTO entered VALUES (?, ?, ?, ?)",
                [(g.writer, g.name, e.until_us, b"".join(e.ids)) for g, e in progress.entered.items()],
            )
            db.executemany(
                "DELETE FROM entered WHERE writer = ? AND gate = ? AND until_us < ?",
                [(gate.writer, gate.name, until) for gate, until in progress.forgotten],
            )
            db.executemany(
                "INSERT OR IGNORE INTO configs VALUES (?, ?, ?)",
                [(gate.writer, gate.name, digest) for gate, digest in progress.configs],
            )
            if progress.approvals is not None:
                db.execute("INSERT OR REPLACE INTO approvals VALUES (1, ?, ?)", progress.approvals)
        self._next = draft.next_number

    # Out.

    def token(self, batch: Batch) -> str:
        """Names the batch to ClickHouse, among those of all hubs."""
        return f"{self.hub_id}-{batch.number}"

    def first(self) -> Batch | None:
        """The next batch to insert."""
        with self._lock:
            row = self._db.execute("SELECT * FROM batches ORDER BY number LIMIT 1").fetchone()
        if row is None:
            return None
        number, table, columns, rows, made_us = row
        return Batch(number, table, tuple(columns.split(",")), rows, made_us, self._folder / _name(number))

    def waiting(self) -> int:
        """How many batches are not in ClickHouse yet."""
        with self._lock:
            count: int = self._db.execute("SELECT count(*) FROM batches").fetchone()[0]
        return count

    def done(self, batch: Batch) -> None:
        """ClickHouse has it. OSError, sqlite3.Error."""
        with self._transaction() as db:
            db.execute("DELETE FROM batches WHERE number = ?", (batch.number,))
        batch.path.unlink(missing_ok=True)

    def quarantine(self, batch: Batch, error: str) -> Path:
        """ClickHouse will never take it: where it lies now. A person can mend its cause and insert the file."""
        moved = self._quarantine / f"{_name(batch.number)}.{batch.table}.rowbinary"
        if batch.path.exists():
            batch.path.replace(moved)
            _sync_folder(self._quarantine)
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO quarantined VALUES (?, ?, ?, ?, ?)",
                (batch.number, batch.table, ",".join(batch.columns), batch.rows, error),
            )
            db.execute("DELETE FROM batches WHERE number = ?", (batch.number,))
        return moved

    def quarantined(self) -> int:
        """How many batches are set aside."""
        with self._lock:
            count: int = self._db.execute("SELECT count(*) FROM quarantined").fetchone()[0]
        return count

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _name(number: int) -> str:
    return f"{number:012d}"


def _columns(key: JournalKey) -> tuple[str, str, int, str]:
    return key.gate.writer, key.gate.name, key.slot, key.journal


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
