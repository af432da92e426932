"""How insertion goes on after each kind of failure. tests/clickhouse does the same to a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ext_proc.hub import writer
from ext_proc.hub.clickhouse import ClickHouseError
from ext_proc.hub.outbox import Outbox, Progress
from ext_proc.hub.writer import Writer


class Scripted:
    """Takes rows, or raises what the script says next."""

    def __init__(self, *script: Exception | None) -> None:
        self.script = list(script)
        self.taken: list[tuple[str, bytes, str]] = []

    def insert(self, table: str, columns: tuple[str, ...], data: bytes, token: str) -> None:
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error
        self.taken.append((table, data, token.partition("-")[2]))


def outbox_with(path: Path, *batches: bytes) -> Outbox:
    outbox = Outbox(path)
    for data in batches:
        draft = outbox.draft()
        draft.add("exchanges", ("a",), data)
        outbox.commit(draft, Progress())
    return outbox


@asynccontextmanager
async def running(outbox: Outbox, sink: Scripted) -> AsyncIterator[Writer]:
    live = Writer(outbox, sink)
    live.wake()
    task = asyncio.create_task(live.run())
    try:
        yield live
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        outbox.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_FIRST_DELAY_S", 0.001)


AWAY = ClickHouseError("store.unavailable", "away", code=None)
BUSY = ClickHouseError("store.refused", "too many parts", code=252)
DENIED = ClickHouseError("store.denied", "no grant", code=497)
UNREADABLE = ClickHouseError("store.refused", "cannot read all data", code=33)


async def test_batches_go_in_order_and_what_fails_for_now_is_tried_again(tmp_path):
    sink = Scripted(AWAY, BUSY, None, DENIED, OSError("disk"))
    outbox = outbox_with(tmp_path, b"1", b"2", b"3")
    async with running(outbox, sink) as live:
        async with asyncio.timeout(10):
            await live.idle()
        assert sink.taken == [("exchanges", b"1", "1"), ("exchanges", b"2", "2"), ("exchanges", b"3", "3")]
        assert outbox.waiting() == 0
        assert live.health() == (True, "ClickHouse has everything")


async def test_an_unreadable_batch_is_tried_thrice_then_set_aside_and_the_rest_goes_on(tmp_path):
    sink = Scripted(UNREADABLE, UNREADABLE, UNREADABLE)
    outbox = outbox_with(tmp_path, b"bad", b"good")
    async with running(outbox, sink) as live:
        async with asyncio.timeout(10):
            await live.idle()
        assert sink.taken == [("exchanges", b"good", "2")]
        assert outbox.quarantined() == 1
        well, why = live.health()
        assert not well
        assert "quarantine" in why


async def test_unreadable_twice_is_not_enough(tmp_path):
    sink = Scripted(UNREADABLE, AWAY, UNREADABLE)
    outbox = outbox_with(tmp_path, b"fine")
    async with running(outbox, sink) as live:
        async with asyncio.timeout(10):
            await live.idle()
        assert len(sink.taken) == 1
        assert outbox.quarantined() == 0


async def test_a_file_that_is_gone_is_said_and_holds_up_nothing(tmp_path):
    sink = Scripted()
    outbox = outbox_with(tmp_path, b"gone", b"here")
    outbox.first().path.unlink()
    async with running(outbox, sink) as live:
        async with asyncio.timeout(10):
            await live.idle()
        assert [data for _, data, _ in sink.taken] == [b"here"]
        assert not live.health()[0]


async def test_health_says_how_long_rows_wait_and_why(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_LATE_S", 0.05)
    sink = Scripted(*[AWAY] * 1000)
    outbox = outbox_with(tmp_path, b"1")
    async with running(outbox, sink) as live:
        await asyncio.sleep(0.2)
        well, why = live.health()
        assert not well
        assert "away" in why
        assert live.behind
