"""The spool alone: limits, durability, leftovers. The kill test is in test_kill.py."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import time
from datetime import timedelta
from pathlib import Path

import pytest

from ext_proc.errors import RecordError
from ext_proc.pb import journal_pb2
from ext_proc.spool import Durability, Spool, frames
from ext_proc.spool import spool as spool_module


def open_spool(
    path: Path,
    slot: int = 0,
    *,
    slots: int = 1,
    max_size: int = 64 << 20,
    max_lag: timedelta = timedelta(minutes=10),
    durability: Durability = "process",
    min_free: int = 0,
) -> Spool:
    return Spool.open(
        path, slot, slots=slots, max_size=max_size, max_lag=max_lag, durability=durability, min_free=min_free
    )


def event(n: int = 0, size: int = 0) -> journal_pb2.Event:
    part = journal_pb2.Part(data=bytes(size))
    return journal_pb2.Event(exchange_id=n.to_bytes(16, "big"), attempt=n, at_us=1, part=part)


def attempts(data: bytes) -> list[int]:
    return [journal_pb2.Event.FromString(payload).attempt for _, payload in frames.scan(data)]


def test_append_returns_journal_offsets_over_all_segments(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_size=1 << 20)  # the smallest segments: 64 KiB
    offsets = [spool.append(event(n, 10_000)) for n in range(30)]
    assert offsets == sorted(set(offsets))
    assert len(list(tmp_path.glob("slot-0/*/*.journal"))) > 3
    found, offset = [], 0
    while data := spool.read(offset, 25_000):
        found += attempts(data)
        offset += len(data)
    assert found == list(range(30))
    assert offset == spool.end == offsets[-1]
    spool.close()


def test_several_events_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = open_spool(tmp_path)
    spool.append(event())
    writes = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(len(data)) or real(fd, data))  # type: ignore[func-returns-value]
    before = spool.end
    after = spool.append(event(1), event(2), event(3))
    assert writes == [after - before]
    spool.close()


def test_a_read_is_cut_to_whole_frames_but_gives_at_least_one(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    ends = [spool.append(event(n, 1000)) for n in range(4)]
    assert len(spool.read(0, ends[1] + 500)) == ends[1]
    assert len(spool.read(0, 10)) == ends[0]
    with pytest.raises(ValueError, match="holds offsets"):
        spool.read(ends[-1] + 1, 10)
    spool.close()


def test_a_full_spool_refuses_new_requests_but_not_appends_in_flight(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_size=1 << 20)
    spool.admit(4096)
    spool.append(event(size=1 << 20))
    with pytest.raises(RecordError) as caught:
        spool.admit(0)
    assert caught.value.reason == "recording.unavailable"
    assert caught.value.http_status == 503
    assert caught.value.retryable
    assert "max_size" in caught.value.message
    end = spool.append(event(size=1 << 20))  # was admitted before
    spool.append(event())
    spool.acknowledge(end)
    spool.admit(4096)
    spool.close()


def test_a_body_larger_than_the_spool_is_admitted_into_an_empty_one(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_size=1 << 20)
    spool.admit(300 << 20)  # it is shipped while it is written
    spool.append(event(size=800 << 10))
    with pytest.raises(RecordError, match="max_size"):
        spool.admit(300 << 20)
    spool.admit(100 << 10)
    spool.close()


def test_the_disk_keeps_room_for_open_requests(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    spool = open_spool(tmp_path, min_free=disk.f_bavail * disk.f_frsize + (1 << 30))
    with pytest.raises(RecordError, match="bytes free"):
        spool.admit(0)
    spool.close()


def test_a_spool_whose_folder_went_away_refuses(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool")
    (tmp_path / "spool").rename(tmp_path / "elsewhere")
    with pytest.raises(RecordError, match="No such file"):
        spool.admit(0)
    spool.close()


def test_free_space_is_counted_down_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    real = os.statvfs
    disk = real(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    monkeypatch.setattr(os, "statvfs", lambda path: looks.append(path) or disk)  # type: ignore[func-returns-value]
    spool = open_spool(tmp_path, min_free=free - (1 << 20))
    spool.admit(0)
    spool.append(event(size=(1 << 20) + 1))
    with pytest.raises(RecordError, match="bytes free"):
        spool.admit(0)
    assert len(looks) == 1
    spool.close()


def test_lag_refuses_until_the_hub_has_what_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    spool = open_spool(tmp_path, max_lag=timedelta(seconds=60))
    old = spool.append(event())
    now += 50
    spool.append(event())
    now += 11
    with pytest.raises(RecordError, match="max_lag"):
        spool.admit(0)
    spool.acknowledge(old)
    spool.admit(0)
    now += 60
    with pytest.raises(RecordError, match="max_lag"):
        spool.admit(0)
    spool.acknowledge(spool.end)
    spool.admit(0)
    spool.close()


def test_a_failed_write_leaves_no_bytes_and_closes_the_spool_until_a_probe_succeeds(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    first = spool.append(event(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (first + 10, hard))  # ten bytes more fit, as on a full disk
    try:
        with pytest.raises(RecordError, match="File too large"):
            spool.append(event(2))
        assert spool.end == first
        with pytest.raises(RecordError, match="cannot be written"):
            spool.admit(0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(RecordError, match="cannot be written"):
        spool.admit(0)  # probes once a second at most
    spool._next_probe = 0.0
    spool.admit(0)
    spool.append(event(3))
    assert attempts(spool.read(0, 1 << 20)) == [1, 3]
    (file,) = tmp_path.glob("slot-0/*/*.journal")
    assert file.stat().st_size == spool.end
    spool.close()


def test_what_is_owed_follows_the_next_record_under_the_time_of_its_writing(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    promised = spool.watermark_us
    spool.owe(event(2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(RecordError):
            spool.append(event(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    end = spool.append(event(1))
    assert end < spool.end
    assert attempts(spool.read(0, 1 << 20)) == [1, 2]
    (_, payload) = list(frames.scan(spool.read(0, 1 << 20)))[1]
    assert journal_pb2.Event.FromString(payload).at_us >= promised
    spool.append(event(3))
    assert attempts(spool.read(0, 1 << 20)) == [1, 2, 3]
    spool.close()


def test_an_event_too_large_for_a_frame_is_refused(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    with pytest.raises(RecordError) as caught:
        spool.append(event(size=frames.MAX_PAYLOAD))
    assert caught.value.reason == "recording.event_too_large"
    assert spool.end == 0
    spool.close()


async def test_disk_durability_syncs_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(fd) or real(fd))  # type: ignore[func-returns-value]
    spool = open_spool(tmp_path, durability="disk", max_size=1 << 20)

    async def request(n: int) -> None:
        await spool.durable(spool.append(event(n, 5000)))

    await asyncio.gather(*(request(n) for n in range(50)))
    assert spool.end > 3 * (64 << 10)
    assert 4 <= len(synced) <= 8  # each of four segments, and not once a request
    before = len(synced)
    await spool.durable(spool.end)
    assert len(synced) == before
    spool.close()


async def test_a_failed_sync_fails_those_who_wait_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(tmp_path, durability="disk")

    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails)
        with pytest.raises(RecordError, match="Input/output error"):
            await spool.durable(spool.append(event(1)))
        with pytest.raises(RecordError, match="cannot be written"):
            spool.admit(0)
    spool._next_probe = 0.0
    spool.admit(0)
    await spool.durable(spool.append(event(2)))
    spool.close()


async def test_hub_durability_waits_for_the_acknowledgement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "HUB_PATIENCE_S", 0.2)
    spool = open_spool(tmp_path, durability="hub")
    first, second = spool.append(event(1)), spool.append(event(2))
    waits = [asyncio.create_task(spool.durable(offset)) for offset in (first, second, first)]
    await asyncio.sleep(0)
    spool.acknowledge(first)
    await asyncio.wait_for(asyncio.gather(waits[0], waits[2]), 1)
    assert not waits[1].done()
    with pytest.raises(RecordError, match="not acknowledged") as caught:
        await waits[1]
    assert caught.value.retryable
    with pytest.raises(RecordError, match="at the hub"):
        spool.admit(0)  # the next request need not wait as long to learn it
    spool.acknowledge(second)
    spool.admit(0)
    await spool.durable(second)
    spool.close()


async def test_process_durability_never_waits(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    await spool.durable(spool.append(event()))
    spool.close()


def test_acknowledged_segments_go_and_the_live_one_stays(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_size=1 << 20)
    ends = [spool.append(event(n, 30_000)) for n in range(12)]
    spool.acknowledge(ends[-1])
    (left,) = tmp_path.glob("slot-0/*/*.journal")
    assert int(left.stem) + left.stat().st_size == spool.end
    assert spool.start == int(left.stem) > 0
    spool.close()


def test_two_workers_never_own_a_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ext_proc.spool.leftovers._OWNER_LEAVES_WITHIN_S", 0.0)
    spool = open_spool(tmp_path)
    with pytest.raises(RecordError, match="another process owns slot-0"):
        open_spool(tmp_path)
    open_spool(tmp_path, 1, slots=2).close()
    spool.close()
    open_spool(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_a_record_error(tmp_path: Path) -> None:
    (tmp_path / "slot-0").write_text("a file")
    with pytest.raises(RecordError) as caught:
        open_spool(tmp_path)
    assert caught.value.reason == "recording.unavailable"


def test_leftovers_come_oldest_first_and_count_until_shipped(tmp_path: Path) -> None:
    journals = []
    for n in range(3):
        spool = open_spool(tmp_path)
        spool.append(event(n, 1000))
        journals.append(spool.journal)
        spool.close()
        (file,) = tmp_path.glob(f"slot-0/{spool.journal}/*")
        os.utime(file, (n, n))  # dead since 1970
    spool = open_spool(tmp_path, max_size=4000)
    assert [leftover.journal for leftover in spool.leftovers] == journals
    with pytest.raises(RecordError, match="max_lag"):
        spool.admit(0)
    for leftover in list(spool.leftovers):
        spool.shipped(leftover)
    assert [p.name for p in (tmp_path / "slot-0").iterdir()] == ["lock"]
    spool.admit(3900)
    spool.close()


def test_slot_0_adopts_slots_that_are_no_more(tmp_path: Path) -> None:
    for slot in range(3):
        spool = open_spool(tmp_path, slot, slots=3)
        spool.append(event(slot))
        spool.close()
    other = open_spool(tmp_path, 1, slots=2)
    assert [leftover.slot for leftover in other.leftovers] == [1]
    spool = open_spool(tmp_path, 0, slots=2)
    assert sorted(leftover.slot for leftover in spool.leftovers) == [0, 2]
    spool.close()
    other.close()


def test_an_empty_journal_leaves_nothing(tmp_path: Path) -> None:
    open_spool(tmp_path).close()
    assert [p.name for p in (tmp_path / "slot-0").iterdir()] == ["lock"]
