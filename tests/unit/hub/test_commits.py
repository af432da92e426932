"""Operations on one file, committed together."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from ext_proc.hub.commits import Commits

SCHEMA = "CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY);"


def insert(n: int):
    return lambda db: db.execute("INSERT INTO t VALUES (?)", (n,)).rowcount


def count(db: sqlite3.Connection) -> int:
    return db.execute("SELECT count(*) FROM t").fetchone()[0]


@pytest.mark.parametrize("durable", [True, False])
async def test_what_waits_is_committed_together_and_is_there_again(tmp_path: Path, durable: bool) -> None:
    commits = Commits(tmp_path / "c.sqlite", SCHEMA, durable=durable)
    assert (tmp_path / "c.sqlite").stat().st_mode & 0o777 == 0o600
    first = commits.do(lambda db: threading.Event().wait(0.05) or count(db))  # the others queue up behind it
    assert await asyncio.gather(first, *(commits.do(insert(n)) for n in range(2000))) == [0, *[1] * 2000]
    last = commits.do(insert(5000))
    commits.close()  # finishes what was asked for
    assert await last == 1
    with pytest.raises(sqlite3.ProgrammingError):
        commits.do(count)
    again = Commits(tmp_path / "c.sqlite", SCHEMA, durable=durable)
    assert await again.do(count) == 2001
    again.close()


async def test_an_operation_that_fails_undoes_its_own_changes_alone(tmp_path: Path) -> None:
    commits = Commits(tmp_path / "c.sqlite", SCHEMA, durable=True)

    def half(db: sqlite3.Connection) -> None:
        insert(1)(db)
        raise KeyError("no")

    found = await asyncio.gather(
        *(commits.do(one) for one in (insert(0), half, insert(2), insert(2))), return_exceptions=True
    )
    assert found[0] == found[2] == 1
    assert isinstance(found[1], KeyError)
    assert isinstance(found[3], sqlite3.IntegrityError)
    assert await commits.do(lambda db: [row[0] for row in db.execute("SELECT n FROM t ORDER BY n")]) == [0, 2]
    commits.close()


async def test_a_transaction_that_is_lost_is_lost_for_all_and_said(tmp_path: Path) -> None:
    lost = threading.Event()
    commits = Commits(tmp_path / "c.sqlite", SCHEMA, durable=True, on_loss=lost.set)

    def disk(_db: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    started, go = threading.Event(), threading.Event()
    block = commits.do(lambda _db: started.set() or go.wait(5))
    await asyncio.to_thread(started.wait)  # what comes now is one transaction, the next
    waiting = [commits.do(one) for one in (insert(1), disk, insert(2))]
    go.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert await block
    assert [type(one) for one in found] == [sqlite3.OperationalError] * 3
    assert lost.is_set()
    assert await commits.do(count) == 0
    assert await commits.do(insert(1)) == 1
    commits.close()


async def test_who_left_is_not_waited_for(tmp_path: Path) -> None:
    commits = Commits(tmp_path / "c.sqlite", SCHEMA, durable=True)
    task = asyncio.ensure_future(commits.do(insert(1)))
    task.cancel()
    assert await commits.do(count) == 1
    commits.close()
