"""One life of the ledger's state: reads the replicas from where the last life stopped, and enters what is finished.

All its state is a function of the replicas and the outbox. When anything fails, drop it and make another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from ext_proc.hub import rows
from ext_proc.hub.approvals import history
from ext_proc.hub.assembler import Assembler
from ext_proc.hub.attempts import Finished, Gate, JournalKey, LoadedConfig, Ref
from ext_proc.hub.chain import Chains
from ext_proc.hub.outbox import FILE_BYTES, Entered, Outbox, Progress
from ext_proc.pb.journal_pb2 import Event
from ext_proc.spool import frames

if TYPE_CHECKING:
    from ext_proc.hub.approvals.history import History
    from ext_proc.hub.replica import Replica, Replicas

log = logging.getLogger(__name__)

_READ_BYTES = 128 << 10
"""Read of one journal before the rest of the hub gets its turn."""
_BATCH_ROWS = 4000
_BATCH_S = 0.3
_BUSY_ROWS = 100
_BATCH_BUSY_S = 0.8
"""From so many rows on a batch may take longer: an insert costs ClickHouse some 35 ms of CPU before its first row."""
_BATCH_BEHIND_S = 3.0
"""While ClickHouse is away, fewer and larger batches are made for it."""
_PROGRESS_S = 5.0
"""How often it is written down how far the journals were read, when there is no row to write."""


class Entries:
    """Call `turn` again and again. OSError and sqlite3.Error end this life."""

    def __init__(self, replicas: Replicas, outbox: Outbox, max_decoded: int, history: History | None = None) -> None:
        """Blocking. `history` has begun."""
        self._replicas = replicas
        self._outbox = outbox
        self._max_decoded = max_decoded
        self._history = history
        self._assembler = Assembler()
        self._chains = Chains(outbox.hub_id, outbox.heads())
        self._configs = outbox.configs()
        self._draft = outbox.draft()
        self._progress = Progress()
        self._oldest_row = 0.0
        self._committed = time.monotonic()
        self._read: dict[JournalKey, int] = {}
        self._keys: dict[Replica, JournalKey] = {}
        self._moved: set[Replica] = set()
        self.damaged: set[str] = set()
        """Journals that cannot be read on."""
        for gate, until_us, ids in outbox.entered():
            self._assembler.remember(gate, until_us, ids)
        alive = {self._key(replica) for replica in replicas.journals()}
        for key, (consumed, open_at) in outbox.journals().items():
            if key in alive:
                self._assembler.resume(key, consumed, open_at)
                self._read[key] = min(open_at.values(), default=consumed)
            else:
                self._progress.ended.append(key)  # the replica was removed, but not yet this

    async def turn(self, started_us: int, *, behind: bool, now: bool) -> bool:
        """Read everything there is, and enter it when it is time to: `now`, or when a batch is full or old enough.

        `started_us`: no slot was silent before, for the hub was not there to hear it. `behind`: ClickHouse does not
        keep up. True when new batches were made.
        """
        made = False
        clocks = [(c.writer, c.gate, c.slot, c.slots, c.watermark_us, c.heard_us) for c in self._replicas.clocks()]
        replicas = self._replicas.journals()
        for replica in self._keys.keys() - set(replicas):  # sealed, and forgotten to its end
            self._end(replica)
        for replica in replicas:
            made |= await self._follow(replica)
        for writer, gate, slot, slots, watermark_us, heard_us in clocks:
            self._assembler.watermark(Gate(writer, gate), slot, slots, watermark_us, max(heard_us, started_us))
        self._assembler.settle(time.time_ns() // 1000)
        await self._enter()
        await self._enter_approvals()
        longest = _BATCH_BEHIND_S if behind else _BATCH_S if self._draft.rows < _BUSY_ROWS else _BATCH_BUSY_S
        if self._draft.rows:
            due = now or time.monotonic() - self._oldest_row >= longest
        else:
            due = bool(self._moved) and (now or time.monotonic() - self._committed >= _PROGRESS_S)
        if due:
            made |= await self._commit()
        return made

    async def _follow(self, replica: Replica) -> bool:
        """Feed what is new in one journal."""
        made = False
        key = self._key(replica)
        sealed = replica.sealed
        end = replica.end
        position = self._read.get(key, 0)
        if position < replica.start:
            log.error(
                "journal %s of gate %s begins at %d, not at %d", key.journal, key.gate.name, replica.start, position
            )
            position = replica.start
        while position < end and key.journal not in self.damaged:
            position = self._feed(key, position, replica.read(position, min(_READ_BYTES, end - position)))
            self._read[key] = position
            self._moved.add(replica)
            await self._enter()
            if self._draft.rows >= _BATCH_ROWS or self._draft.bytes >= FILE_BYTES:
                made |= await self._commit()
            else:
                await asyncio.sleep(0)
        if sealed and position >= end:
            self._assembler.sealed(key, replica.watermark_us)
            self._moved.add(replica)
        return made

    def _feed(self, key: JournalKey, position: int, data: bytes) -> int:
        """Hand frames to the assembler; the position after them."""
        feed = self._assembler.feed
        parse = Event.FromString
        base, before = position, 0
        try:
            for after, payload in frames.scan(data):
                try:
                    feed(key, base + before, after - before, parse(payload))
                except DecodeError:
                    log.error("journal %s of gate %s holds no event at %d", key.journal, key.gate.name, base + before)
                before = after
        except frames.CorruptFrameError as error:
            self.damaged.add(key.journal)
            log.critical("journal %s of gate %s cannot be read on: %s", key.journal, key.gate.name, error)
        return base + before

    async def _enter(self) -> None:
        """Rows for what is finished."""
        finished, configs = self._assembler.take()
        for exchange in finished:
            if not self._draft.rows:
                self._oldest_row = time.monotonic()
            if _is_large(exchange):
                await asyncio.to_thread(self._add, exchange)
            else:
                self._add(exchange)
        for loaded in configs:
            self._add_config(loaded)

    def _add(self, exchange: Finished) -> None:
        draft = self._draft
        row = rows.exchange(
            exchange,
            self._chains,
            read=self._part,
            add_part=lambda part: draft.add("body_parts", rows.BODY_PARTS, part),
            limit=self._max_decoded,
        )
        draft.add("exchanges", rows.EXCHANGES, row)
        entered = self._progress.entered.get(exchange.gate)
        if entered is None:
            entered = self._progress.entered[exchange.gate] = Entered()
        entered.until_us = max(entered.until_us, exchange.ended_us)
        entered.ids.append(exchange.exchange_id)

    def _add_config(self, loaded: LoadedConfig) -> None:
        name = (loaded.gate, loaded.config.digest)
        if name in self._configs:
            return
        if not self._draft.rows:
            self._oldest_row = time.monotonic()
        self._configs.add(name)
        self._progress.configs.append(name)
        self._draft.add("configs", rows.CONFIGS, rows.config(loaded))

    async def _enter_approvals(self) -> None:
        if self._history is None:
            return
        rows_of_events = await self._history.rows()
        if rows_of_events and not self._draft.rows:
            self._oldest_row = time.monotonic()
        for row in rows_of_events:
            self._draft.add(history.TABLE, history.COLUMNS, row)
        if rows_of_events:
            self._progress.approvals = self._history.position

    def _part(self, ref: Ref) -> bytes:
        """The data of a part that the assembler did not keep in memory."""
        try:
            replica = next(replica for replica, key in self._keys.items() if key == ref.journal)
            _, payload = next(frames.scan(replica.read(ref.offset, ref.length)))
            data: bytes = Event.FromString(payload).part.data
        except (ValueError, StopIteration, DecodeError) as error:
            # The copy was damaged on disk after it was read once. The row says so by its size and the gap in its text.
            log.critical("journal %s cannot be read again at %d: %s", ref.journal.journal, ref.offset, error)
            return b""
        return data

    async def _commit(self) -> bool:
        """Make everything up to here true at once, and drop what is needed no more."""
        progress, draft = self._progress, self._draft
        progress.chains = self._chains.changed()
        progress.forgotten = self._assembler.forget(time.time_ns() // 1000)
        lows: list[tuple[Replica, int]] = []
        for replica in self._moved:
            key = self._key(replica)
            consumed, open_at = self._assembler.position(key)
            consumed = max(consumed, self._read.get(key, 0))
            progress.journals[key] = (consumed, open_at)
            lows.append((replica, min(open_at.values(), default=consumed)))
        await asyncio.to_thread(self._outbox.commit, draft, progress)
        await asyncio.to_thread(_forget, lows)
        for gate, entered in progress.entered.items():
            self._assembler.remember(gate, entered.until_us, tuple(entered.ids))
        if self._history is not None and progress.approvals is not None:
            self._history.entered(progress.approvals)
        self._draft = self._outbox.draft()
        self._progress = Progress()
        self._moved.clear()
        self._committed = time.monotonic()
        return bool(draft.files)

    def _end(self, replica: Replica) -> None:
        key = self._keys.pop(replica)
        self._assembler.drop(key)
        self._read.pop(key, None)
        self._moved.discard(replica)
        self._progress.ended.append(key)

    def _key(self, replica: Replica) -> JournalKey:
        key = self._keys.get(replica)
        if key is None:
            gate = Gate(replica.writer, replica.gate)
            key = self._keys[replica] = JournalKey(gate, replica.slot, replica.journal)
        return key


def _is_large(exchange: Finished) -> bool:
    """True where a body must be read from its journal again."""
    attempt = exchange.attempt
    return attempt is not None and any(isinstance(data, Ref) for body in attempt.bodies for _, data in body.pieces[-1:])


def _forget(lows: list[tuple[Replica, int]]) -> None:
    for replica, low in lows:
        replica.forget(low)
