"""The ledger's process is killed while it works; ClickHouse goes away; and every exchange has one row, in one chain."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections import Counter
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from ext_proc.hub import chain, rows
from ext_proc.hub.clickhouse import ClickHouse
from ext_proc.hub.outbox import Outbox, Progress
from ext_proc.hub.registry import Key
from ext_proc.hub.replica import Replica, Replicas
from ext_proc.pb import journal_pb2 as pb
from ext_proc.spool import frames
from tests.clickhouse.ledger import process
from tests.journals import Attempt, framed


def _journals(gate: str, count: int) -> tuple[list[tuple[Key, bytes]], set[UUID]]:
    """Interleaved exchanges of three workers, some with a body for body_parts, some replayed to another worker."""
    generator = random.Random(4)
    files: list[list[pb.Event]] = [[], [], []]
    expected = set()
    for number in range(count):
        attempt = Attempt(number=number)
        expected.add(attempt.exchange_id)
        size = 1_500_000 if number % 97 == 5 else generator.randrange(4000)
        events = attempt.complete(b"r" * 100, generator.randbytes(size))
        if number % 10 == 3:  # this one begins in another worker, which passes it on
            first = Attempt(attempt.exchange_id, number)
            files[(number + 1) % 3] += [first.opened(), first.closed("")]
        files[number % 3] += events
    keys = [Key("local:0", gate, slot, str(uuid4())) for slot in range(3)]
    return [(key, framed(events)) for key, events in zip(keys, files, strict=True)], expected


def _batches(folder: Path) -> set[str]:
    return {file.name for file in (folder / "outbox").glob("*")}


async def _replicate(folder: Path, portions: list[tuple[Key, int, bytes]], *, sealed: bool) -> None:
    """What ingest does with what comes while the ledger is dead."""
    replicas = Replicas(folder)
    for key, offset, data in portions:
        replica = await replicas.open(key, 3)
        assert isinstance(replica, Replica)
        replica.append(offset, data)
        await replica.persist()
        if sealed:
            await replica.seal()
    replicas.close()


@pytest.mark.slow
def test_killed_twenty_times_each_exchange_has_one_row(tmp_path, store_config, clickhouse: ClickHouse):
    gate = f"gate-{uuid4().hex[:8]}"
    journals, expected = _journals(gate, 4000)
    folder = tmp_path / "hub"
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["tests.clickhouse.ledger.process"])
    generator = random.Random(11)
    sent = dict.fromkeys((key for key, _ in journals), 0)
    inserting = 0
    for life in range(21):
        portions = []
        for key, data in journals:
            end = frames.whole(data[: len(data) * (life + 1) // 21]) if life < 20 else len(data)
            portions.append((key, sent[key], data[sent[key] : end]))
            sent[key] = end
        asyncio.run(_replicate(folder, portions, sealed=life == 20))
        parent, child = forks.Pipe()
        ledger = forks.Process(target=process.run, args=(folder, store_config, child))
        ledger.start()
        assert parent.poll(30)
        if life < 20:
            before = _batches(folder)
            while life % 2 and ledger.is_alive() and _batches(folder) == before:
                time.sleep(0.001)  # half of them are killed around a commit or an insert, the others wherever they are
            time.sleep(generator.random() * (0.2 if life % 2 else 0.7))
            ledger.kill()
            ledger.join()
            outbox = Outbox(folder)
            inserting += outbox.waiting() > 0
            outbox.close()
        ledger.join(60)
        assert life < 20 or ledger.exitcode == 0
        ledger.close()
    assert inserting >= 3  # killed with batches on their way
    where = f"FROM {clickhouse.database}.exchanges WHERE gate = '{gate}'"
    found = Counter(UUID(row["exchange_id"]) for row in clickhouse.query(f"SELECT exchange_id {where}"))
    assert set(found) == expected
    assert set(found.values()) == {1}
    [chained] = clickhouse.query(f"SELECT any(chain_id) AS id, uniqExact(chain_id) AS chains, max(seq) AS last {where}")
    assert (chained["chains"], chained["last"]) == (1, len(expected))
    assert list(clickhouse.query(chain.verify_sql(clickhouse.database, rows.HASHED), {"chain": chained["id"]})) == []
    parts = f"SELECT count() AS n FROM {clickhouse.database}.body_parts WHERE chain_id = '{chained['id']}'"
    large = f"SELECT countIf(resp_body_size > 1048576) AS n {where}"
    assert [row["n"] for row in clickhouse.query(parts)] == [2 * row["n"] for row in clickhouse.query(large)] == [84]
    outbox = Outbox(folder)
    assert (outbox.waiting(), outbox.quarantined(), list((folder / "outbox").iterdir())) == (0, 0, [])
    outbox.close()


async def test_rows_wait_while_clickhouse_is_away_and_arrive_once(open_hub, own_store):
    async with open_hub(own_store.config) as hub:
        journal = await hub.journal()
        for _ in range(3):
            await hub.ship(journal, Attempt().complete())
        await asyncio.sleep(1.0)
        well, why = hub.ledger.healthy()
        assert not well
        assert "password" in why  # the store makes it at its first start
        await asyncio.to_thread(own_store.start)
        assert await hub.ledger.drain(20) == 0
        for _ in range(3):
            for _ in range(5):
                await hub.ship(journal, Attempt().complete())
            await asyncio.sleep(0.35)
            await asyncio.to_thread(own_store.kill)
            await hub.ship(journal, Attempt().complete())
            await asyncio.sleep(0.4)
            await asyncio.to_thread(own_store.start)
        assert await hub.ledger.drain(20) == 0
        clickhouse = ClickHouse(own_store.config)
        [row] = clickhouse.query(
            "SELECT count() AS n, uniqExact(exchange_id) AS ids, max(seq) AS last FROM douane.exchanges"
        )
        assert row == {"n": 21, "ids": 21, "last": 21}
        clickhouse.close()


async def test_a_batch_that_cannot_be_read_is_set_aside_and_said(open_hub, clickhouse, tmp_path, caplog):
    async with open_hub(drain_s=0.1) as hub:
        await hub.ship(await hub.journal(), Attempt().complete())
        await hub.ledger.drain(20)
    outbox = Outbox(tmp_path / "hub")
    draft = outbox.draft()
    draft.add("exchanges", rows.EXCHANGES, b"no row")
    outbox.commit(draft, Progress())
    outbox.close()
    async with open_hub() as hub:
        await hub.ship(await hub.journal(), Attempt().complete())
        assert await hub.ledger.drain(20) == 0
        well, why = hub.ledger.healthy()
        assert not well
        assert "1 batches" in why
    [kept] = (tmp_path / "hub" / "quarantine").iterdir()
    assert kept.read_bytes() == b"no row"
    assert any(r.levelname == "CRITICAL" and "set aside" in r.message for r in caplog.records)
    sql = f"SELECT count() AS n FROM {clickhouse.database}.exchanges WHERE gate = '{hub.gate}'"
    assert list(clickhouse.query(sql)) == [{"n": 2}]
