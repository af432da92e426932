"""The hub's byte-exact copies of the gates' journals.

`<hub.path>/journals/<writer>/<gate>/slot-<i>/<journal>/<start offset>.journal`. A copy grows by offset, so whatever a
gate sends twice is skipped. What `end` covers is on this machine's disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote
from uuid import UUID

from ext_proc.hub.registry import Key, Registry, SlotClock
from ext_proc.spool import frames
from ext_proc.spool.files import JournalFiles, sync_folder

log = logging.getLogger(__name__)

MAX_SLOTS = 1024
_KEEP_CLOCKS_EVERY_S = 5.0
_SILENT_US = 7 * 86_400_000_000
"""A gate that has said nothing for this long, and of which nothing is left to enter, is no longer known."""
_GATE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class GapError(ValueError):
    """Bytes are missing before these. The gate says hello again and sends from the durable offset."""


class BadFramesError(ValueError):
    """What came is not whole frames, or follows the end of a sealed journal."""


class Replica:
    """One journal. For the ledger: `read`, `forget`, `start`, `end`, `sealed`, `watermark_us` and the names.

    Read `watermark_us` before `end`: every event of the slot before it lies below the `end` seen afterwards, or in
    another journal of the slot.
    """

    def __init__(self, key: Key, clock: SlotClock, files: JournalFiles, registry: Registry, *, sync: bool) -> None:
        self.key = key
        self.clock = clock
        self.sealed = False
        self.on_finished: Callable[[], None] = lambda: None
        self._files = files
        self._registry = registry
        self._sync = sync
        self._syncing = asyncio.Lock()
        self._finishing = threading.Lock()
        self._named = files.end > files.start
        self._end = files.end
        self._finished = False

    @property
    def writer(self) -> str:
        return self.key.writer

    @property
    def gate(self) -> str:
        return self.key.gate

    @property
    def slot(self) -> int:
        return self.key.slot

    @property
    def journal(self) -> str:
        return self.key.journal

    @property
    def slots(self) -> int:
        """How many workers the gate has, as it last said."""
        return self.clock.slots

    @property
    def watermark_us(self) -> int:
        """Every event of this slot (whichever journal) before this time has arrived; 0 while nothing is known."""
        return self.clock.watermark_us

    @property
    def heard_us(self) -> int:
        """When the gate last spoke of this slot, by the hub's clock."""
        return self.clock.heard_us

    @property
    def start(self) -> int:
        """The oldest offset still here."""
        return min(self._files.start, self._end)

    @property
    def end(self) -> int:
        """The offset after the last durable byte."""
        return self._end

    def read(self, offset: int, max_bytes: int) -> bytes:
        """Whole frames from `offset`, at least one; empty at `end`. ValueError outside of `start` to `end`."""
        return self._files.read(offset, max_bytes, self._end)

    def forget(self, before_offset: int) -> None:
        """The ledger needs nothing before this offset any more. A sealed journal forgotten to its end is removed."""
        self._files.drop(before_offset)
        if self.sealed and before_offset >= self._end:
            self._finish()

    # What the ingest service does.

    def append(self, offset: int, data: bytes) -> None:
        """Write what is new of these frames; `persist` makes it durable. GapError, BadFramesError, OSError."""
        written = self._files.end
        if offset > written:
            if written:
                raise GapError(f"the hub has {written} bytes of journal {self.journal}, not yet {offset}")
            # Only a hub that lost its folder meets a gate that has already deleted what was acknowledged.
            log.warning(
                "journal %s of gate %s begins at %d: the hub lost what was before", self.journal, self.gate, offset
            )
            self._files = JournalFiles(self._files.folder, start=offset)
            self._files.keep_for_sync()
            self._end = offset
        fresh = data[written - offset :] if offset < written else data
        if not fresh:
            return
        if self.sealed:
            raise BadFramesError(f"journal {self.journal} is sealed at {written}")
        _check(fresh)
        self._files.append(fresh)

    async def persist(self) -> int:
        """Make what was appended durable, and visible to the ledger. OSError."""
        async with self._syncing:
            if self._files.end > self._end:
                self._end = await asyncio.to_thread(self._make_durable) if self._sync else self._files.end
        return self._end

    async def seal(self) -> None:
        """Nothing follows; everything is durable already."""
        if not self.sealed:
            await asyncio.to_thread(self._registry.seal, self.key, self._end)
            self.sealed = True
            self._files.close()
            if self._files.start == self._end:
                self._finish()

    def close(self) -> None:
        self._files.close()

    def _make_durable(self) -> int:
        end = self._files.sync()
        if not self._named:
            folder = self._files.folder
            for parent in list(folder.parents)[:5]:  # slot, gate, writer, journals, the hub's folder
                sync_folder(parent)
            self._named = True
        return end

    def _finish(self) -> None:
        with self._finishing:
            if self._finished:
                return
            self._registry.finish(self.key, self._end)
            self._files.remove()
            with contextlib.suppress(OSError):  # another journal is there
                for parent in list(self._files.folder.parents)[:3]:
                    parent.rmdir()
            self._finished = True
        self.on_finished()


class Replicas:
    """All journals of all gates. `on_data` is called in the event loop whenever a replica or a watermark grew."""

    def __init__(self, path: Path, *, sync: bool = True) -> None:
        """Blocking: finds what is on the disk, and cuts what a crash left unfinished. OSError, sqlite3.Error."""
        self.on_data: Callable[[], None] = lambda: None
        self._root = path / "journals"
        self._sync = sync
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._registry = Registry(path / "replicas.sqlite")
        self._clocks = {(c.writer, c.gate, c.slot): c for c in self._registry.clocks()}
        self._replicas: dict[Key, Replica] = {}
        for folder in self._root.glob("*/*/slot-*/*"):
            self._load(folder)

    def journals(self) -> list[Replica]:
        """Every journal that the ledger is not done with."""
        return list(self._replicas.values())

    def clocks(self) -> list[SlotClock]:
        """Every slot's time, also of slots whose journals are all finished."""
        return list(self._clocks.values())

    async def open(self, key: Key, slots: int) -> Replica | int:
        """The replica of a journal, or the end of one that the ledger is done with. ValueError for a bad name."""
        _check_names(key, slots)
        clock = self._clock(key, slots)
        replica = self._replicas.get(key)
        if replica is not None:
            return replica
        ended = await asyncio.to_thread(self._registry.ended, key)
        if ended is not None:
            return ended[0]
        return self._replicas.get(key) or self._add(key, clock, JournalFiles(self._folder(key)))

    def heard(self, clock: SlotClock, watermark_us: int) -> None:
        """A gate spoke, and everything it sent before is durable. `watermark_us` is 0 where it claims nothing."""
        clock.heard_us = time.time_ns() // 1000
        clock.watermark_us = max(clock.watermark_us, watermark_us)

    async def keep_clocks(self) -> None:
        """Runs until cancelled: writes the clocks down every few seconds, and drops those of gates long gone."""
        kept: list[tuple[int, int]] = []
        while True:
            await asyncio.sleep(_KEEP_CLOCKS_EVERY_S)
            self._drop_silent(time.time_ns() // 1000)
            now = [(c.watermark_us, c.heard_us) for c in self._clocks.values()]
            if now != kept:
                kept = now
                await asyncio.to_thread(self._registry.keep_clocks, self.clocks())

    def close(self) -> None:
        for replica in self._replicas.values():
            replica.close()
        self._registry.keep_clocks(self.clocks())
        self._registry.close()

    def _drop_silent(self, now_us: int) -> None:
        needed = {id(replica.clock) for replica in self._replicas.values()}
        for name, clock in list(self._clocks.items()):
            if now_us - clock.heard_us > _SILENT_US and id(clock) not in needed:
                del self._clocks[name]

    def _clock(self, key: Key, slots: int) -> SlotClock:
        mine = (key.writer, key.gate)
        for clock in self._clocks.values():
            if (clock.writer, clock.gate) == mine:
                clock.slots = slots
        return self._clocks.setdefault(
            (*mine, key.slot), SlotClock(*mine, key.slot, slots, heard_us=time.time_ns() // 1000)
        )

    def _folder(self, key: Key) -> Path:
        return self._root / quote(key.writer, safe="") / key.gate / f"slot-{key.slot}" / key.journal

    def _add(self, key: Key, clock: SlotClock, files: JournalFiles) -> Replica:
        replica = self._replicas[key] = Replica(key, clock, files, self._registry, sync=self._sync)
        replica.on_finished = lambda: self._drop(key)
        if self._sync:
            files.keep_for_sync()
        return replica

    def _drop(self, key: Key) -> None:
        self._replicas.pop(key, None)

    def _load(self, folder: Path) -> None:
        slot, gate, writer = list(folder.parents)[:3]
        key = Key(unquote(writer.name), gate.name, int(slot.name.removeprefix("slot-")), folder.name)
        files = JournalFiles(folder)
        ended = self._registry.ended(key)
        if ended is not None and ended[1]:
            files.remove()
            return
        for path in files.recover(synced=self._sync):
            log.error("a replica is damaged; what followed the damage is kept in %s", path)
        known = self._clocks.get((key.writer, key.gate, key.slot))
        clock = known or self._clock(key, key.slot + 1)
        self._add(key, clock, files).sealed = ended is not None


def _check_names(key: Key, slots: int) -> None:
    """Names come from the network and become paths."""
    if not _GATE_NAME.fullmatch(key.gate):
        raise ValueError(
            "a gate's name has 1 to 100 letters, digits, '.', '_' or '-' and begins with a letter or digit"
        )
    if not (0 <= key.slot < MAX_SLOTS and 0 < slots <= MAX_SLOTS):
        raise ValueError(f"a gate has 1 to {MAX_SLOTS} slots")
    if not (key.writer and len(quote(key.writer, safe="")) <= 200 and key.writer.strip(".")):
        raise ValueError("the writer's name is too long to keep journals under")
    try:
        canonical = str(UUID(key.journal)) == key.journal
    except ValueError:
        canonical = False
    if not canonical:
        raise ValueError("a journal's name is a UUID in its canonical form")


def _check(data: bytes) -> None:
    after = 0
    try:
        for after, _ in frames.scan(data):  # noqa: B007 (the checksums are what matters)
            pass
    except frames.CorruptFrameError as error:
        raise BadFramesError(str(error)) from error
    if after != len(data):
        raise BadFramesError(f"the last frame is cut after {len(data) - after} bytes")
