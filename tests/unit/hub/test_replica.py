"""The hub's copies without a network."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from ext_proc.hub import registry as registry_module
from ext_proc.hub.registry import Key
from ext_proc.hub.replica import BadFramesError, GapError, Replica, Replicas
from ext_proc.spool import frames

JOURNAL = "0b1c2d3e-0000-4000-8000-00000000000"


def key(n: int = 0, *, writer: str = "local:0", gate: str = "g", slot: int = 0) -> Key:
    return Key(writer, gate, slot, f"{JOURNAL}{n}")


def frame(n: int) -> bytes:
    return frames.encode(bytes([n]) * 100)


SIZE = len(frame(0))


def segment(folder: Path) -> Path:
    (file,) = folder.rglob("*.journal")
    return file


async def opened(replicas: Replicas, of: Key, slots: int = 1) -> Replica:
    replica = await replicas.open(of, slots)
    assert isinstance(replica, Replica)
    return replica


async def test_only_what_is_durable_is_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(fd) or real(fd))  # type: ignore[func-returns-value]
    replicas = Replicas(tmp_path)
    replica = await opened(replicas, key())
    replica.append(0, frame(1) + frame(2))
    assert (replica.end, replica.read(0, 1000)) == (0, b"")
    assert await replica.persist() == 2 * SIZE
    assert replica.read(0, 1000) == frame(1) + frame(2)
    assert replica.read(0, SIZE + 10) == frame(1)
    assert len(synced) == 1
    await replica.persist()
    assert len(synced) == 1
    replicas.close()


async def test_one_sync_serves_all_that_came_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def held(fd: int) -> None:
        synced.append(fd)
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(30)

    monkeypatch.setattr(os, "fdatasync", held)
    replicas = Replicas(tmp_path)
    replica = await opened(replicas, key())
    waits = []
    for n in range(10):
        replica.append(n * SIZE, frame(n))
        waits.append(asyncio.create_task(replica.persist()))
        await begun.wait()  # the first sync is under way, with the first frame
    go_on.set()
    await asyncio.gather(*waits)
    assert replica.end == 10 * SIZE
    assert len(synced) == 2
    replicas.close()


async def test_offsets_make_a_resend_harmless_and_a_gap_visible(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path)
    replica = await opened(replicas, key())
    replica.append(0, frame(1) + frame(2))
    replica.append(0, frame(1) + frame(2))
    replica.append(SIZE, frame(2) + frame(3))
    with pytest.raises(GapError):
        replica.append(4 * SIZE, frame(5))
    with pytest.raises(BadFramesError):
        replica.append(3 * SIZE, frame(4)[:-1])
    with pytest.raises(BadFramesError):
        replica.append(3 * SIZE - 5, bytes(5) + b"not a frame at all")
    await replica.persist()
    assert replica.read(0, 1 << 20) == frame(1) + frame(2) + frame(3)
    replicas.close()


async def test_everything_comes_back_after_a_restart(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path)
    first = await opened(replicas, key(1), 3)
    first.append(0, frame(1))
    await first.persist()
    await first.seal()
    second = await opened(replicas, key(2, writer="spiffe://td/ns/a", slot=2), 3)
    second.append(0, frame(2))
    await second.persist()
    replicas.heard(second.clock, 77)
    replicas.close()

    again = Replicas(tmp_path)
    found = {r.journal: r for r in again.journals()}
    assert found[key(1).journal].sealed
    back = found[key(2).journal]
    assert (back.writer, back.gate, back.slot, back.slots) == ("spiffe://td/ns/a", "g", 2, 3)
    assert not back.sealed
    assert back.watermark_us == 77
    assert back.read(0, 1000) == frame(2)
    back.append(SIZE, frame(3))
    await back.persist()
    assert back.read(SIZE, 1000) == frame(3)
    again.close()


async def test_a_torn_tail_is_cut_at_the_restart(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path)
    replica = await opened(replicas, key())
    replica.append(0, frame(1))
    await replica.persist()
    replicas.close()
    file = segment(tmp_path)
    with file.open("ab") as torn:
        torn.write(frame(2)[:-4])
    again = Replicas(tmp_path)
    (replica,) = again.journals()
    assert replica.end == SIZE
    replica.append(SIZE, frame(2))
    await replica.persist()
    assert replica.read(0, 1000) + replica.read(SIZE, 1000) == frame(1) + frame(2)
    again.close()


async def test_a_watermark_never_goes_back_and_belongs_to_the_slot(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path)
    old, new = await opened(replicas, key(1)), await opened(replicas, key(2))
    replicas.heard(new.clock, 100)
    replicas.heard(old.clock, 50)
    replicas.heard(old.clock, 0)
    assert old.watermark_us == new.watermark_us == 100
    other = await opened(replicas, key(3, slot=1), 2)
    assert other.watermark_us == 0
    assert [c.slots for c in replicas.clocks()] == [2, 2]
    replicas.close()


async def test_a_sealed_journal_forgotten_to_its_end_is_removed_and_never_taken_again(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path)
    replica = await opened(replicas, key())
    replica.append(0, frame(1) + frame(2))
    await replica.persist()
    replica.forget(replica.end)
    assert replicas.journals() == [replica]  # not sealed yet
    await replica.seal()
    with pytest.raises(BadFramesError):
        replica.append(2 * SIZE, frame(3))
    replica.forget(SIZE)
    assert replicas.journals() == [replica]
    replica.forget(2 * SIZE)
    assert replicas.journals() == []
    assert list((tmp_path / "journals").iterdir()) == []
    assert await replicas.open(key(), 1) == 2 * SIZE
    replicas.close()
    again = Replicas(tmp_path)
    assert await again.open(key(), 1) == 2 * SIZE
    assert again.journals() == []
    again.close()


async def test_a_removal_cut_short_by_a_crash_is_finished_at_the_restart(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path)
    replica = await opened(replicas, key())
    replica.append(0, frame(1))
    await replica.persist()
    await replica.seal()
    file = segment(tmp_path)
    content = file.read_bytes()
    replica.forget(SIZE)
    file.parent.mkdir(parents=True)
    file.write_bytes(content)  # as if the process had died between the commit and the deletion
    replicas.close()
    again = Replicas(tmp_path)
    assert again.journals() == []
    assert not file.exists()
    again.close()


async def test_tombstones_are_kept_for_a_month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = Replicas(tmp_path)
    await (await opened(replicas, key())).seal()
    assert await replicas.open(key(), 1) == 0
    replicas.close()
    monkeypatch.setattr(registry_module, "TOMBSTONE_DAYS", -1)
    again = Replicas(tmp_path)
    assert isinstance(await again.open(key(), 1), Replica)
    again.close()


@pytest.mark.parametrize(
    "bad",
    [
        key(gate="."),
        key(gate=".."),
        key(gate="a/b"),
        key(gate="a\0"),
        key(gate="a\n"),
        key(gate="é"),
        key(writer=""),
        key(writer=".."),
        key(writer="x" * 201),
        key(slot=-1),
        Key("w", "g", 0, "not-a-uuid"),
        Key("w", "g", 0, ""),
    ],
)
async def test_names_that_are_no_path_parts_are_refused(tmp_path: Path, bad: Key) -> None:
    replicas = Replicas(tmp_path)
    with pytest.raises(ValueError, match=r"name|slots"):
        await replicas.open(bad, 1)
    assert replicas.journals() == []
    replicas.close()


async def test_a_writers_name_stays_one_path_part(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path)
    replica = await opened(replicas, key(writer="spiffe://a/../../b"))
    replica.append(0, frame(1))
    await replica.persist()
    assert [p.name for p in (tmp_path / "journals").iterdir()] == ["spiffe%3A%2F%2Fa%2F..%2F..%2Fb"]
    replicas.close()


async def test_gates_long_gone_are_no_longer_known_unless_something_is_left_of_them(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path)
    gone, left = await opened(replicas, key(1, gate="gone")), await opened(replicas, key(2, gate="left"))
    gone.append(0, frame(1))
    await gone.persist()
    await gone.seal()
    gone.forget(SIZE)
    left.append(0, frame(1))
    await left.persist()
    week = 7 * 86_400_000_000
    replicas._drop_silent(time.time_ns() // 1000 + week - 10_000_000)
    assert {clock.gate for clock in replicas.clocks()} == {"gone", "left"}
    replicas._drop_silent(time.time_ns() // 1000 + week + 1)
    assert {clock.gate for clock in replicas.clocks()} == {"left"}
    replicas.close()
    again = Replicas(tmp_path)
    assert {clock.gate for clock in again.clocks()} == {"left"}
    again.close()
