"""Counters and rates, checked against counting by hand."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ext_proc.hub.counters import store, windows
from ext_proc.hub.counters.store import Counters, Counting, Counts, Rate

SESSION = b"s" * 16


class Clock:
    now_us = 1_700_000_000_000_000

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(store, "now_us", made)
    return made


@pytest.fixture
async def counters(tmp_path: Path, clock: Clock) -> AsyncIterator[Counters]:
    made = Counters(tmp_path / "counters.sqlite")
    yield made
    made.close()


def one(number: int, *, session: bytes = SESSION, target: str = "", window_s: int = 60, **more: bool) -> Counting:
    exchange = number.to_bytes(16, "big")
    return Counting(session, exchange, bool(target), target, 7, more.get("denied", False), window_s)


async def test_counts_are_those_of_counting_by_hand(tmp_path: Path, clock: Clock) -> None:
    """Random traffic, with a restart now and then, which makes the windows anew from the file."""
    generator = random.Random(3)
    counters = Counters(tmp_path / "counters.sqlite")
    past: list[tuple[int, str, bool]] = []
    for number in range(1500):
        clock.now_us += generator.choice((0, 1000, 300_000, 2_500_000))
        target = generator.choice(("", f"c POST /{generator.randrange(30)}"))
        denied = generator.random() < 0.1
        session, recent = await counters.count(one(number, target=target, denied=denied))
        past.append((clock.now_us // 1_000_000, "" if denied else target, denied))
        second = clock.now_us // 1_000_000
        within = [event for event in past if event[0] > second - 60]
        assert session == by_hand(past)
        assert recent == by_hand(within)
        if generator.random() < 0.02:
            counters.close()
            counters = Counters(tmp_path / "counters.sqlite")
    counters.close()


def by_hand(events: list[tuple[int, str, bool]]) -> Counts:
    calls = [event for event in events if not event[2]]
    targets = [target for _, target, _ in calls if target]
    return Counts(len(calls), len(targets), len(set(targets)), 7 * len(calls), len(events) - len(calls))


async def test_an_exchange_counts_once_and_its_refusal_once(counters: Counters) -> None:
    for _ in range(3):
        session, _ = await counters.count(one(1, target="t"))
    assert session == Counts(1, 1, 1, 7, 0)
    for _ in range(3):
        session, recent = await counters.count(one(1, target="t", denied=True))
    assert session == recent == Counts(1, 1, 1, 7, 1)
    other, _ = await counters.count(one(1, session=b"o" * 16))
    assert other == Counts(1, 0, 0, 7, 0)


async def test_different_windows_of_one_session(counters: Counters, clock: Clock) -> None:
    await counters.count(one(1, window_s=10))
    clock.now_us += 30_000_000
    _, short = await counters.count(one(2, window_s=10))
    _, long = await counters.count(one(3, window_s=3600))
    assert (short.calls, long.calls) == (1, 3)
    _, day = await counters.count(one(4, window_s=86_400))
    assert day.calls == 4


async def test_beyond_so_many_targets_each_write_counts(
    counters: Counters, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "MOST_TARGETS", 5)
    for number in range(10):
        session, recent = await counters.count(one(number, target=f"t{number % 7}"))
    assert session.targets == 7
    assert recent.targets == 5 + 2  # t5 and t6 are told apart from none
    clock.now_us += 120_000_000
    _, recent = await counters.count(one(99, target="t1"))
    assert recent.targets == 1


async def test_idle_sessions_are_forgotten_a_little_at_a_time(
    counters: Counters, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_SWEPT_AT_ONCE", 4)
    for number in range(10):
        await counters.count(one(number, target=f"t{number}"))
    await counters.take(SESSION, b"x" * 16, [Rate("p", 5, 60)])
    clock.now_us += (store.IDLE_S + 1) * 1_000_000
    for number in range(10):
        await counters.count(one(number, session=b"o" * 16))

    def rows(db: sqlite3.Connection) -> dict[str, int]:
        tables = ("counted", "targets", "sessions", "takes")
        return {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}

    assert await counters._commits.do(rows) == {"counted": 10, "targets": 0, "sessions": 1, "takes": 0}
    session, _ = await counters.count(one(100))
    assert session.calls == 1


async def test_rates_are_all_or_none(counters: Counters, clock: Clock) -> None:
    two, one_only = Rate("two", 2, 60), Rate("one", 1, 10)

    async def take(number: int, *rates: Rate) -> tuple[str, int]:
        return await counters.take(SESSION, number.to_bytes(16, "big"), rates)

    assert await take(1, two, one_only) == ("", 0)
    assert await take(1, two, one_only) == ("", 0)  # the same exchange takes once
    clock.now_us += 4_000_000
    assert await take(2, two, one_only) == ("one", 6)
    assert await take(3, two) == ("", 0)  # the refusal above took none of `two`
    assert await take(4, two) == ("two", 56)
    assert await counters.take(b"o" * 16, b"4" * 16, [two]) == ("", 0)
    clock.now_us += 6_000_000
    assert await take(5, one_only) == ("", 0)
    assert await take(6, Rate("two", 1, 60)) == ("two", 54)  # a lowered limit counts what was taken
    clock.now_us += 50_000_000
    assert await take(7, two) == ("", 0)


async def test_rates_survive_a_restart(tmp_path: Path, clock: Clock) -> None:
    counters = Counters(tmp_path / "counters.sqlite")
    for number in range(3):
        await counters.take(SESSION, number.to_bytes(16, "big"), [Rate("p", 3, 60)])
    counters.close()
    counters = Counters(tmp_path / "counters.sqlite")
    assert await counters.take(SESSION, b"x" * 16, [Rate("p", 3, 60)]) == ("p", 60)
    assert await counters.take(SESSION, (0).to_bytes(16, "big"), [Rate("p", 3, 60)]) == ("", 0)
    counters.close()


async def test_what_was_not_written_is_not_counted(counters: Counters) -> None:
    await counters.count(one(1))

    def disk(_db: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    started, go = threading.Event(), threading.Event()
    blocked = counters._commits.do(lambda _db: started.set() or go.wait(5))
    await asyncio.to_thread(started.wait)  # what comes now is one transaction, the next
    waiting = [asyncio.ensure_future(counters.count(one(2)))]
    await asyncio.sleep(0)
    waiting.append(counters._commits.do(disk))
    go.set()
    lost = await asyncio.gather(*waiting, return_exceptions=True)
    assert await blocked
    assert [type(found) for found in lost] == [sqlite3.OperationalError] * 2
    session, recent = await counters.count(one(3))
    assert session.calls == recent.calls == 2
