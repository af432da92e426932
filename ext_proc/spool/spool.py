"""One worker's spool: the journal it appends to, and what dead workers of its slot left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Literal
from uuid import uuid4

from ext_proc.errors import RecordError
from ext_proc.pb import journal_pb2
from ext_proc.spool import frames
from ext_proc.spool.files import SEGMENT_SIZE, JournalFiles, sync_folder
from ext_proc.spool.leftovers import Leftover, SlotLock, leftovers
from ext_proc.spool.progress import Progress
from ext_proc.spool.space import MIN_FREE, Lag, Space, monotonic_of, refusal

log = logging.getLogger(__name__)

Durability = Literal["process", "disk", "hub"]

HUB_PATIENCE_S = 10.0
"""With `durability: hub`, how long a record may wait for the hub before its request is refused."""

_PROBE_EVERY_S = 1.0
_MOST_OWED = 10_000
_SMALLEST_SEGMENT = 64 << 10


class Spool:
    """Where a worker writes every event before anything passes. For one event loop.

    Layout: `PATH/slot-<i>/<journal uuid>/<start offset>.journal`, and `PATH/slot-<i>/lock`. Each `open` begins a new
    journal. Offsets count bytes of this journal.
    """

    sealed = False

    def __init__(
        self,
        folder: Path,
        slot: int,
        *,
        slots: int,
        max_size: int,
        max_lag: timedelta,
        durability: Durability,
        min_free: int,
    ) -> None:
        self.slot = slot
        self.slots = slots
        self.journal = str(uuid4())
        self.durability = durability
        self.appended = asyncio.Event()
        self._folder = folder
        segment_size = min(SEGMENT_SIZE, max(max_size // 16, _SMALLEST_SEGMENT))
        self._files = JournalFiles(folder / self.journal, segment_size=segment_size)
        self._max_lag = max_lag.total_seconds()
        self._max_wait = min(self._max_lag, HUB_PATIENCE_S) if durability == "hub" else self._max_lag
        # A large body is shipped while it is written, so it need not fit in one piece beside everything else.
        self._largest_hint = max_size // 4
        self._space = Space(folder, max_size=max_size, min_free=min_free)
        self._lag = Lag()
        self._leftover_since: float | None = None
        self._durable = Progress()
        self._syncing: asyncio.Task[None] | None = None
        self._sync_thread = ThreadPoolExecutor(1, "spool-sync")  # starts no thread before it is used
        self._fault: OSError | None = None
        self._next_probe = 0.0
        self._locks: list[SlotLock] = []
        self._expected: dict[object, int] = {}
        self._owed: list[journal_pb2.Event] = []
        self.leftovers: list[Leftover] = []

    @classmethod
    def open(
        cls,
        path: Path,
        slot: int,
        *,
        slots: int,
        max_size: int,
        max_lag: timedelta,
        durability: Durability,
        min_free: int = MIN_FREE,
    ) -> Spool:
        """Take the slot and begin a journal. `max_size` (bytes) is this slot's share. Slot 0 also takes over what
        slots beyond `slots` left. RecordError `recording.unavailable` when the folder cannot be used or is taken."""
        folder = path / f"slot-{slot}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(error, folder) from error
        spool = cls(
            folder,
            slot,
            slots=slots,
            max_size=max_size,
            max_lag=max_lag,
            durability=durability,
            min_free=min_free,
        )
        try:
            spool._take()
        except OSError as error:
            spool.close()
            raise _unwritable(error, folder) from error
        return spool

    @property
    def end(self) -> int:
        return self._files.end

    @property
    def start(self) -> int:
        return self._files.start

    def admit(self, size_hint: int) -> None:
        """RecordError `recording.unavailable` (503) unless a new request of about `size_hint` bytes has room.

        Requests already admitted are not held to these limits: `append` knows none.
        """
        now = time.monotonic()
        if self._fault is not None:
            self._probe(now)
        self._space.check(min(size_hint, self._largest_hint), now)
        if self._lag.seconds(now) > self._max_wait:
            raise _late(self._lag.seconds(now), self._max_wait)
        if self._leftover_since is not None and now - self._leftover_since > self._max_lag:
            raise _late(now - self._leftover_since, self._max_lag)

    def expect(self, key: object, at_us: int) -> None:
        """An event as old as `at_us` may still be appended, until `met`: an exchange begins when its head comes, and is
        written when all of it is there. `watermark_us` waits for it."""
        self._expected[key] = at_us

    def met(self, key: object) -> None:
        """What `key` expected was appended, or never will be."""
        self._expected.pop(key, None)

    @property
    def watermark_us(self) -> int:
        """No event that is appended from now on is older than this (microseconds since the epoch)."""
        return min([time.time_ns() // 1000, *self._expected.values()])

    def append(self, *events: journal_pb2.Event) -> int:
        """Write the events in one write(2); the journal offset after them.

        RecordError `recording.unavailable` when the disk refuses, `recording.event_too_large` above 8 MiB in one event.
        """
        try:
            data = b"".join([frames.encode(event.SerializeToString()) for event in events])
        except ValueError as error:
            raise RecordError(
                "recording.event_too_large", f"One record cannot be written: {error}.", remedy="Send less in one piece."
            ) from error
        start = self._files.end
        try:
            end = self._files.append(data)
        except OSError as error:
            self._fault = error
            raise _unwritable(error, self._folder) from error
        self._space.add(end - start)
        self._lag.appended(start, time.monotonic())
        self.appended.set()
        if self._owed:
            self._pay()
        return end

    def owe(self, event: journal_pb2.Event) -> None:
        """Append this behind what is next written: how an exchange ended that could not be written. Without its
        end, its record would stay open for as long as this worker lives."""
        if len(self._owed) < _MOST_OWED:
            self._owed.append(event)

    def _pay(self) -> None:
        owed, self._owed = self._owed, []
        for event in owed:
            event.at_us = time.time_ns() // 1000  # a watermark beyond its own time may have been claimed since
        try:
            self.append(*owed)
        except RecordError:
            self._owed = owed

    async def durable(self, offset: int) -> None:
        """Return once everything before `offset` is as durable as configured; RecordError `recording.unavailable`."""
        if self.durability == "process" or offset <= self._durable.offset:
            return
        reached = self._durable.reached(offset)
        if self.durability == "disk":
            if self._syncing is None:
                self._syncing = asyncio.create_task(self._sync())
            await reached
            return
        try:
            await asyncio.wait_for(reached, HUB_PATIENCE_S)
        except TimeoutError:
            raise refusal(
                f"the hub has not acknowledged the record within {HUB_PATIENCE_S:.0f} s",
                "Check that the hub runs and that hub.url is right.",
            ) from None

    def recover(self) -> None:
        """Nothing to do: a failed append leaves nothing behind."""

    def read(self, offset: int, max_bytes: int) -> bytes:
        """Whole frames of this journal, for the shipper."""
        return self._files.read(offset, max_bytes)

    def acknowledge(self, offset: int) -> None:
        """The hub has everything before `offset` of this journal."""
        self._lag.acknowledged(offset, self._files.end)
        self._space.add(-self._files.drop(offset))
        if self.durability == "hub":
            self._durable.advance(offset)

    def acknowledge_leftover(self, leftover: Leftover, offset: int) -> None:
        self._space.add(-leftover.drop(offset))

    def shipped(self, leftover: Leftover) -> None:
        """The hub has all of a dead journal: delete it."""
        self._space.add(-leftover.size)
        leftover.remove()
        self.leftovers.remove(leftover)
        self._leftover_since = monotonic_of(min(map(Leftover.modified, self.leftovers))) if self.leftovers else None

    def discard(self) -> None:
        """The hub has all of this journal, sealed. Nothing may be appended any more."""
        self._space.add(-self._files.size)
        self._files.remove()

    def close(self) -> None:
        """Give up the slot. What the hub has not got is left for the next worker of this slot."""
        if self._syncing is not None:
            self._syncing.cancel()
        self._sync_thread.shutdown(wait=True)
        if not self._files.size:
            self._files.remove()
        self._files.close()
        for lock in self._locks:
            lock.release()
        self._locks.clear()

    def _take(self) -> None:
        self._locks.append(SlotLock.take(self._folder))
        self.leftovers = leftovers(self._folder, self.slot)
        if self.slot == 0:
            self._adopt()
        if self.leftovers:
            self.leftovers.sort(key=Leftover.modified)
            self._space.add(sum(leftover.size for leftover in self.leftovers))
            self._leftover_since = monotonic_of(self.leftovers[0].modified())
        if self.durability == "disk":
            self._files.keep_for_sync()
            self._files.folder.mkdir(mode=0o700)
            sync_folder(self._folder)
            sync_folder(self._folder.parent)

    def _adopt(self) -> None:
        for folder in self._folder.parent.glob("slot-*"):
            number = folder.name.removeprefix("slot-")
            if number.isdecimal() and int(number) >= self.slots and (found := leftovers(folder, int(number))):
                try:
                    self._locks.append(SlotLock.take(folder, wait_s=0))
                except RecordError:
                    log.warning("%s still has an owner, which ships its journals itself", folder)
                else:
                    self.leftovers += found

    def _probe(self, now: float) -> None:
        """Look once a second whether the disk takes writes again."""
        assert self._fault is not None
        if now >= self._next_probe:
            self._next_probe = now + _PROBE_EVERY_S
            try:
                _write_and_sync(self._folder / "probe")
            except OSError as error:
                self._fault = error
            else:
                self._fault = None
                return
        raise _unwritable(self._fault, self._folder)

    async def _sync(self) -> None:
        """One fdatasync serves all who wait; another follows while someone does."""
        loop = asyncio.get_running_loop()
        try:
            while self._durable.awaited:
                self._durable.advance(await loop.run_in_executor(self._sync_thread, self._files.sync))
        except OSError as error:
            # The kernel forgets what it could not write, so a later sync of this file would prove nothing.
            self._files.roll()
            self._fault = error
            self._durable.fail(_unwritable(error, self._folder))
        finally:
            self._syncing = None


def _write_and_sync(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, bytes(4096)) < 4096:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fdatasync(fd)
    finally:
        os.close(fd)
        with contextlib.suppress(OSError):
            path.unlink()


def _late(age_s: float, limit_s: float) -> RecordError:
    return refusal(
        f"the oldest record not yet at the hub is {age_s:.0f} s old and may be {limit_s:.0f} s "
        f"(recording.spool.max_lag; {HUB_PATIENCE_S:.0f} s at most with durability: hub)",
        "Check that the hub runs and that hub.url is right.",
    )


def _unwritable(error: OSError, folder: Path) -> RecordError:
    return refusal(
        f"the spool cannot be written ({error.strerror or error})",
        "Check the disk and the permissions of recording.spool.path.",
        detail=f"{folder}: {error}",
    )
