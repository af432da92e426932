"""Many small transactions on one SQLite file, committed together.

A thread of its own runs operations in the order in which they were asked for. What waits while it commits is the next
transaction, so a thousand requests at once cost a few syncs of the disk, and a single one costs one.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

_MOST = 512
"""Operations of one transaction: a later one must not wait for too many before it."""
_SYNC_S = 1.0


class _Job(NamedTuple):
    operation: Callable[[sqlite3.Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class Commits:
    """`durable`: an answer is given after the disk has what it says. Otherwise it survives the death of any process at
    once, and the machine's within about a second.

    `on_loss` is called in the thread after a transaction that was not committed: what operations keep in memory is
    then ahead of the file.
    """

    def __init__(self, path: Path, schema: str, *, durable: bool, on_loss: Callable[[], None] = lambda: None) -> None:
        """Open or make the file. OSError, sqlite3.Error."""
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        if not durable:
            self._db.execute("PRAGMA wal_autocheckpoint=0")  # `_sync` does it, not every few hundred answers
        self._db.executescript(schema)
        self._durable = durable
        self._on_loss = on_loss
        self._synced = time.monotonic()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"commits {path.name}", daemon=True)
        self._thread.start()

    def do(self, operation: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """The operation's result, once it is committed. What it raises undoes its own changes alone. sqlite3.Error
        when the transaction as a whole cannot be committed: then nothing of it was."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._closed:
            raise sqlite3.ProgrammingError("the database is closed")
        self._jobs.put(_Job(operation, loop, future))
        return future

    def close(self) -> None:
        """Finish what was asked for, and close the file."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            self._thread.join()
            self._db.close()

    def _run(self) -> None:
        unsynced = False
        while True:
            try:
                jobs = self._waiting(_SYNC_S if unsynced else None)
            except queue.Empty:
                jobs = []
            live = [job for job in jobs if job is not None]
            if live:
                _deliver(self._transaction(live))
                unsynced = not self._durable
            if unsynced and time.monotonic() - self._synced >= _SYNC_S:
                self._sync()
                unsynced = False
            if len(live) < len(jobs):
                return

    def _waiting(self, timeout: float | None) -> list[_Job | None]:
        """What there is to do; None among it is the end. queue.Empty when nothing comes in time."""
        jobs = [self._jobs.get(timeout=timeout)]
        while len(jobs) < _MOST and jobs[-1] is not None:
            try:
                jobs.append(self._jobs.get_nowait())
            except queue.Empty:
                break
        return jobs

    def _transaction(self, jobs: list[_Job]) -> list[tuple[_Job, Any, BaseException | None]]:
        outcomes: list[tuple[_Job, Any, BaseException | None]] = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._db.execute("SAVEPOINT one")
                try:
                    outcomes.append((job, job.operation(self._db), None))
                except sqlite3.OperationalError:
                    raise  # the disk's fault, and so everyone's
                except Exception as error:
                    self._db.execute("ROLLBACK TO one")
                    outcomes.append((job, None, error))
                self._db.execute("RELEASE one")
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            log.exception("a transaction of %d operations is lost", len(jobs))
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._on_loss()
            return [(job, None, error) for job in jobs]
        return outcomes

    def _sync(self) -> None:
        """Bring to the disk what was committed without waiting for it."""
        try:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error:
            log.exception("the disk does not take what was committed")
        self._synced = time.monotonic()


def _deliver(outcomes: list[tuple[_Job, Any, BaseException | None]]) -> None:
    """One wake of each loop, however many there are to tell."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Any, BaseException | None]]] = {}
    for outcome in outcomes:
        by_loop.setdefault(outcome[0].loop, []).append(outcome)
    for loop, theirs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, theirs)
        except RuntimeError:
            log.debug("nobody waits any more")  # the loop is closed


def _settle(outcomes: list[tuple[_Job, Any, BaseException | None]]) -> None:
    for job, result, error in outcomes:
        if job.future.done():
            continue  # cancelled
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)
