"""The way from a worker's spool to the hub's replica, over a real socket: whatever dies, every acknowledged event
arrives once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from ext_proc.config import Config, Hub
from ext_proc.errors import RecordError
from ext_proc.hub.replica import Replica, Replicas
from ext_proc.hub.server import Authorities, listening
from ext_proc.hubclient import HubClient
from ext_proc.pb import hub_pb2, journal_pb2
from ext_proc.shipper import Shipper
from ext_proc.spool import Durability, Spool, frames

WORKER = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
from ext_proc.config import Hub
from ext_proc.hubclient import HubClient
from ext_proc.pb import journal_pb2
from ext_proc.shipper import Shipper
from ext_proc.spool import Spool

async def main(path, listen, durability, first):
    spool = Spool.open(Path(path), 0, slots=1, max_size=64 << 20, max_lag=timedelta(hours=1), durability=durability)
    shipping = asyncio.create_task(Shipper(spool, HubClient(Hub(listen=listen)), gate="local").run())
    n = int(first)
    while True:
        event = journal_pb2.Event(attempt=n, at_us=1, part=journal_pb2.Part(data=bytes(n % 5000)))
        await spool.durable(spool.append(event))
        print(n, flush=True)
        n += 1
        await asyncio.sleep(0)

asyncio.run(main(*sys.argv[1:]))
"""

HUB = """
import asyncio, sys
from pathlib import Path
from ext_proc.config import Config, Hub
from ext_proc.hub.replica import Replicas
from ext_proc.hub.server import Authorities, listening

async def main(path, listen):
    replicas = Replicas(Path(path))
    config = Config(version=1, hub=Hub(path=path, listen=listen))
    async with listening(config, replicas, Authorities.open(Path(path))):
        print("ready", flush=True)
        await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="douane-") as path:  # short: a socket's path has at most 107 bytes
        yield Path(path)


class HubProcess:
    """The hub's receiving side, as often restarted as a test likes."""

    def __init__(self, folder: Path) -> None:
        self.settings = Hub(path=str(folder / "hub"), listen=f"unix:{folder}/hub.sock")
        self.replicas: Replicas
        self._running = contextlib.AsyncExitStack()

    async def start(self) -> None:
        path = Path(self.settings.path)
        self.replicas = await asyncio.to_thread(Replicas, path)
        authorities = await asyncio.to_thread(Authorities.open, path)
        config = Config(version=1, hub=self.settings)
        await self._running.enter_async_context(listening(config, self.replicas, authorities))
        self._running.callback(authorities.close)

    async def stop(self) -> None:
        await self._running.aclose()
        self._running = contextlib.AsyncExitStack()
        self.replicas.close()

    def events(self) -> list[int]:
        return [n for replica in self.replicas.journals() for n in content(replica)]


@pytest.fixture
async def hub(folder: Path) -> AsyncIterator[HubProcess]:
    hub = HubProcess(folder)
    await hub.start()
    yield hub
    await hub.stop()


def open_spool(folder: Path, slot: int = 0, slots: int = 1, durability: Durability = "process") -> Spool:
    return Spool.open(
        folder / "spool",
        slot,
        slots=slots,
        max_size=16 << 20,  # segments of 1 MiB
        max_lag=timedelta(hours=1),
        durability=durability,
        min_free=0,
    )


@contextlib.asynccontextmanager
async def shipping(spool: Spool, hub: HubProcess) -> AsyncIterator[Shipper]:
    client = HubClient(hub.settings)
    shipper = Shipper(spool, client, gate="local")
    task = asyncio.create_task(shipper.run())
    try:
        yield shipper
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()


def event(n: int, size: int = 100) -> journal_pb2.Event:
    return journal_pb2.Event(attempt=n, at_us=n, part=journal_pb2.Part(data=random.Random(n).randbytes(size)))


def content(replica: Replica) -> list[int]:
    found, offset = [], replica.start
    while data := replica.read(offset, 1 << 20):
        found += [journal_pb2.Event.FromString(payload).attempt for _, payload in frames.scan(data)]
        offset += len(data)
    return found


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (a condition on the disk sets no event)
            await asyncio.sleep(0.01)


async def test_a_journal_arrives_byte_for_byte_and_is_sealed(folder: Path, hub: HubProcess) -> None:
    spool = open_spool(folder)
    async with shipping(spool, hub) as shipper:
        for n in range(2000):
            spool.append(event(n, 1500))
            if n % 100 == 0:
                await asyncio.sleep(0.005)
        written = b"".join(path.read_bytes() for path in sorted((folder / "spool/slot-0" / spool.journal).iterdir()))
        assert await shipper.drain(10) == 0
    spool.close()
    (replica,) = hub.replicas.journals()
    assert (replica.gate, replica.slot, replica.slots, replica.writer) == ("local", 0, 1, f"local:{os.getuid()}")
    assert replica.sealed
    assert content(replica) == list(range(2000))
    copied = b"".join(p.read_bytes() for p in sorted((folder / "hub/journals").rglob("*.journal")))
    assert copied.endswith(written)
    assert [p.name for p in (folder / "spool/slot-0").iterdir()] == ["lock"]


async def test_events_reach_the_hub_soon_and_the_idle_watermark_follows(folder: Path, hub: HubProcess) -> None:
    spool = open_spool(folder)
    async with shipping(spool, hub):
        spool.append(event(1))
        await until(lambda: hub.events() == [1], 1)
        (replica,) = hub.replicas.journals()
        before = replica.watermark_us
        assert before > 0
        await until(lambda: replica.watermark_us > before, 2.5)
        assert hub.events() == [1]
    spool.close()


async def test_the_watermark_waits_for_exchanges_that_began_and_are_not_written(folder: Path, hub: HubProcess) -> None:
    """An upload is written when it is all there, under the time at which it began: what the hub was promised to have
    had everything of must not include that time, or it would settle what still comes."""
    spool = open_spool(folder)
    async with shipping(spool, hub):
        began = time.time_ns() // 1000
        spool.expect("long upload", began)
        spool.expect("later upload", began + 1)
        spool.append(event(1))
        await until(lambda: hub.events() == [1], 1)
        (replica,) = hub.replicas.journals()
        await until(lambda: replica.watermark_us == began, 1)
        spool.append(event(2))  # traffic beside it changes nothing
        await until(lambda: hub.events() == [1, 2], 1)
        spool.append(journal_pb2.Event(attempt=3, at_us=began))
        spool.met("long upload")
        await until(lambda: replica.watermark_us == began + 1, 2.5)
        assert hub.events() == [1, 2, 3]
        spool.met("later upload")
        await until(lambda: replica.watermark_us > began + 1_000_000, 3.5)
    spool.close()


async def test_hub_durability_waits_for_the_hubs_disk(folder: Path, hub: HubProcess) -> None:
    spool = open_spool(folder, durability="hub")
    async with shipping(spool, hub):

        async def request(n: int) -> None:
            end = spool.append(event(n))
            await spool.durable(end)
            (replica,) = hub.replicas.journals()
            assert replica.end >= end

        for start in range(0, 200, 20):
            await asyncio.gather(*(request(n) for n in range(start, start + 20)))
        await hub.stop()
        waiting = asyncio.create_task(request(200))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await hub.start()
        await asyncio.wait_for(waiting, 10)
    assert hub.events() == list(range(201))
    spool.close()


def admits(spool: Spool) -> bool:
    try:
        spool.admit(0)
    except RecordError:
        return False
    return True


async def test_hub_durability_fails_cleanly_while_the_hub_is_away(
    folder: Path, hub: HubProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ext_proc.spool.spool.HUB_PATIENCE_S", 0.3)
    await hub.stop()
    spool = open_spool(folder, durability="hub")
    async with shipping(spool, hub):
        with pytest.raises(RecordError) as caught:
            await spool.durable(spool.append(event(1)))
        assert (caught.value.reason, caught.value.http_status) == ("recording.unavailable", 503)
        await hub.start()
        await until(lambda: hub.events() == [1])
        await until(lambda: admits(spool))  # once that was acknowledged, too
        await spool.durable(spool.append(event(2)))
    spool.close()


async def test_a_hub_that_restarts_again_and_again_loses_and_doubles_nothing(folder: Path, hub: HubProcess) -> None:
    spool = open_spool(folder)
    async with shipping(spool, hub) as shipper:
        for n in range(3000):
            spool.append(event(n, 2000))
            if n % 500 == 250:
                await asyncio.sleep(0.15)
                await hub.stop()
                await asyncio.sleep(0.05)
                await hub.start()
        assert await shipper.drain(20) == 0
    spool.close()
    assert hub.events() == list(range(3000))


async def test_leftovers_go_first_in_order_and_hold_the_watermark(folder: Path, hub: HubProcess) -> None:
    journals = []
    for n in range(2):
        dead = open_spool(folder)
        for m in range(3):
            dead.append(event(10 * n + m))
        journals.append(dead.journal)
        dead.close()
        (file,) = (folder / "spool/slot-0" / dead.journal).iterdir()
        with file.open("ab") as torn:
            torn.write(frames.encode(b"never finished")[:-3])
        os.utime(file, (1000 + n, 1000 + n))
    spool = open_spool(folder)
    spool.append(event(20))
    seen: list[tuple[int, int]] = []  # (watermark, journals sealed), whenever the hub learns something
    hub.replicas.on_data = lambda: seen.append(
        (max(c.watermark_us for c in hub.replicas.clocks()), sum(r.sealed for r in hub.replicas.journals()))
    )
    async with shipping(spool, hub) as shipper:
        await until(lambda: seen and seen[-1][0] > 0)
        by_name = {replica.journal: content(replica) for replica in hub.replicas.journals()}
        assert [by_name[name] for name in [*journals, spool.journal]] == [[0, 1, 2], [10, 11, 12], [20]]
        assert all(sealed == 2 for watermark, sealed in seen if watermark)
        assert await shipper.drain(5) == 0
    spool.close()


async def test_slots_of_a_larger_former_gate_are_shipped_by_slot_0(folder: Path, hub: HubProcess) -> None:
    for slot in range(3):
        dead = open_spool(folder, slot, 3)
        dead.append(event(slot))
        dead.close()
    spool = open_spool(folder, 0, 1)
    async with shipping(spool, hub) as shipper:
        assert await shipper.drain(5) == 0
    spool.close()
    assert {(r.slot, r.slots, *content(r)) for r in hub.replicas.journals()} == {(0, 1, 0), (1, 1, 1), (2, 1, 2)}


async def test_a_hub_that_lost_its_folder_goes_on_where_the_gate_can(folder: Path, hub: HubProcess) -> None:
    spool = open_spool(folder)
    async with shipping(spool, hub) as shipper:
        for n in range(30):
            spool.append(event(n, 100_000))
        await until(lambda: len(hub.events()) == 30)
        await until(lambda: spool.start > 0)
        kept = spool.start
        await hub.stop()
        (folder / "hub").rename(folder / "burnt")
        await hub.start()
        spool.append(event(30))
        await until(lambda: 30 in hub.events())
        (replica,) = hub.replicas.journals()
        assert replica.start == kept
        assert hub.events() == list(range(31 - len(hub.events()), 31))
        assert await shipper.drain(5) == 0
    spool.close()


async def test_a_drain_without_a_hub_says_what_is_left(folder: Path, hub: HubProcess) -> None:
    await hub.stop()
    spool = open_spool(folder)
    async with shipping(spool, hub) as shipper:
        end = spool.append(event(1))
        assert await shipper.drain(0.2) == end
    spool.close()
    await hub.start()
    again = open_spool(folder)
    async with shipping(again, hub) as shipper:
        assert await shipper.drain(5) == 0
    again.close()
    assert hub.events() == [1]


@pytest.mark.parametrize("durability", ["process", "hub"])
async def test_killed_workers_lose_no_acknowledged_event(folder: Path, hub: HubProcess, durability: str) -> None:
    """Ten lives each, every one ended by SIGKILL at a random moment, some with a torn tail; the hub restarts too."""
    chance = random.Random(5)
    acknowledged: list[int] = []
    for life in range(10):
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            WORKER,
            str(folder / "spool"),
            hub.settings.listen,
            durability,
            str(100_000 * life),
            stdout=asyncio.subprocess.PIPE,
        )
        assert worker.stdout
        acknowledged.append(int(await worker.stdout.readline()))
        if life % 4 == 3:
            await hub.stop()
            await hub.start()
        await asyncio.sleep(chance.uniform(0, 0.2))
        worker.kill()
        acknowledged += [int(line) for line in (await worker.stdout.read()).split(b"\n")[:-1]]
        await worker.wait()
        if life % 2:
            torn = max((folder / "spool").rglob("*.journal"), key=lambda path: path.stat().st_mtime)
            with torn.open("ab") as file:
                file.write(frames.encode(event(7).SerializeToString())[:-1])
    spool = open_spool(folder)
    async with shipping(spool, hub) as shipper:
        assert await shipper.drain(20) == 0
    spool.close()
    arrived = hub.events()
    assert len(acknowledged) > 200
    assert len(arrived) == len(set(arrived))
    assert set(acknowledged) <= set(arrived)
    for replica in hub.replicas.journals():
        found = content(replica)
        assert replica.sealed
        assert found == list(range(found[0], found[0] + len(found)))


async def test_killed_hubs_lose_nothing_they_acknowledged(folder: Path, hub: HubProcess) -> None:
    """Five hubs, each killed with SIGKILL while it receives and left with a torn tail."""
    await hub.stop()
    chance = random.Random(6)
    spool = open_spool(folder, durability="hub")
    acknowledged: list[int] = []

    async def work() -> None:
        n = 0
        while True:
            for _ in range(20):
                end = spool.append(event(n, 3000))
                n += 1
            await spool.durable(end)
            acknowledged.append(n - 1)

    async with shipping(spool, hub) as shipper:
        working = asyncio.create_task(work())
        for _ in range(5):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", HUB, hub.settings.path, hub.settings.listen, stdout=asyncio.subprocess.PIPE
            )
            assert process.stdout
            assert await process.stdout.readline() == b"ready\n"
            known = len(acknowledged)
            await until(lambda known=known: len(acknowledged) > known)
            await asyncio.sleep(chance.uniform(0, 0.1))
            process.kill()
            await process.wait()
            known = len(acknowledged)
            with max((folder / "hub/journals").rglob("*.journal")).open("ab") as file:
                file.write(frames.encode(event(7, 5000).SerializeToString())[:-1000])
        await hub.start()
        working.cancel()
        assert await shipper.drain(20) == 0
    spool.close()
    arrived = hub.events()
    assert arrived == list(range(len(arrived)))
    assert len(acknowledged) > 20
    assert acknowledged[-1] < len(arrived)


# --- what a gate may not send ---------------------------------------------------------------------------------------


async def ship(hub: HubProcess, *requests: hub_pb2.ShipRequest) -> list[int]:
    client = HubClient(hub.settings)
    call = client.ship()
    offsets = []
    try:
        for request in requests:
            await call.write(request)
            reply = await call.read()
            assert reply is not grpc.aio.EOF
            offsets.append(reply.durable_offset)
    finally:
        call.cancel()
        await client.close()
    return offsets


def hello(**changes: Any) -> hub_pb2.ShipRequest:
    fields = {"gate": "local", "slot": 0, "slots": 1, "journal": "0b1c2d3e-0000-4000-8000-000000000000"} | changes
    return hub_pb2.ShipRequest(hello=hub_pb2.Hello(**fields))


def data(offset: int, *numbers: int, cut: int = 0, sealed: bool = False) -> hub_pb2.ShipRequest:
    chain = b"".join(frames.encode(event(n).SerializeToString()) for n in numbers)
    return hub_pb2.ShipRequest(frames=hub_pb2.Frames(offset=offset, data=chain[: len(chain) - cut], sealed=sealed))


SIZE = len(frames.encode(event(1).SerializeToString()))


async def test_resent_and_overlapping_frames_count_once(hub: HubProcess) -> None:
    offsets = await ship(hub, hello(), data(0, 1, 2), data(0, 1, 2), data(SIZE, 2, 3))
    assert offsets == [0, 2 * SIZE, 2 * SIZE, 3 * SIZE]
    assert await ship(hub, hello(), data(0, 1)) == [3 * SIZE, 3 * SIZE]
    assert hub.events() == [1, 2, 3]


async def test_a_gap_is_refused_and_the_next_hello_says_where_to_go_on(hub: HubProcess) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ship(hub, hello(), data(0, 1), data(2 * SIZE, 3))
    assert caught.value.code() == grpc.StatusCode.ABORTED
    assert await ship(hub, hello()) == [SIZE]


async def test_a_finished_journal_sent_again_is_acknowledged_and_kept_out(hub: HubProcess) -> None:
    await ship(hub, hello(), data(0, 1, 2, sealed=True))
    (replica,) = hub.replicas.journals()
    replica.forget(replica.end)
    assert hub.replicas.journals() == []
    for _ in range(2):
        assert await ship(hub, hello(), data(0, 1, 2, sealed=True)) == [2 * SIZE, 2 * SIZE]
        assert hub.replicas.journals() == []
        await hub.stop()
        await hub.start()


@pytest.mark.parametrize(
    "bad",
    [
        (hello(gate="../../etc"),),
        (hello(gate=""),),
        (hello(gate="a" * 101),),
        (hello(gate=".."),),
        (hello(journal="../../../x"),),
        (hello(journal="{0b1c2d3e-0000-4000-8000-000000000000}"),),
        (hello(journal="0B1C2D3E-0000-4000-8000-000000000000"),),
        (hello(slot=100_000),),
        (hello(slots=0),),
        (data(0, 1),),
        (hello(), data(0, 1, cut=1)),
        (hello(), hub_pb2.ShipRequest(frames=hub_pb2.Frames(data=b"garbage garbage"))),
    ],
    ids=lambda bad: str(bad)[:60].replace("\n", " "),
)
async def test_what_is_no_journal_is_refused_and_leaves_nothing(
    hub: HubProcess, folder: Path, bad: tuple[hub_pb2.ShipRequest, ...]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ship(hub, *bad)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert hub.events() == []
    assert set(os.listdir(folder)) == {"hub", "hub.sock"}  # noqa: PTH208 (pathlib blocks no less)


async def test_nothing_follows_a_seal(hub: HubProcess) -> None:
    await ship(hub, hello(), data(0, 1, sealed=True))
    assert await ship(hub, hello(), data(0, 1, sealed=True)) == [SIZE, SIZE]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ship(hub, hello(), data(SIZE, 2))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert hub.events() == [1]


async def test_the_socket_is_for_its_user_only(folder: Path, hub: HubProcess) -> None:
    assert (folder / "hub.sock").stat().st_mode & 0o777 == 0o600
