"""Joins the events of one exchange, whichever journals they lie in, and says when it is finished. No I/O.

An attempt is one ext_proc stream of one journal. Envoy may replay a request to another worker, so an exchange may
have several; it is finished once, in this order of preference:

1. An attempt was closed with an outcome: that attempt is the record, at once.
2. All attempts have ended without one (closed with an empty outcome, or their journal was sealed), an Access event
   says how, and every slot of the gate is past their end, so that no further attempt can come.
3. All attempts have ended, and every slot is past their end by `GRACE_US`: outcome `unknown`.
4. Only an Access event came (Envoy refused the request before ext_proc saw it): denied, after the same grace.

A slot that was silent for `SILENCE_US` counts as past everything, and what its journals left open as ended: its gate
is gone. Times of events and watermarks are the gate's clock, `now_us` is the hub's; both in microseconds.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from ext_proc.hub.attempts import DIRECTIONS, Attempt, Finished, Gate, JournalKey, LoadedConfig, Ref
from ext_proc.pb import journal_pb2 as pb

GRACE_US = 10_000_000
"""Envoy's access log may come this much later than the end of an attempt."""
SILENCE_US = 3_600_000_000
"""A slot that was not heard of for this long is taken for dead."""
REMEMBER_US = 60_000_000
"""How far every slot of a gate must be past a finished exchange before its id is forgotten."""
DEAD_US = 7 * 86_400_000_000
"""A gate that left unsealed journals behind and was silent for this long is forgotten."""
INLINE_BYTES = 1 << 20
"""What one direction of one open exchange may hold in memory."""
MEMORY_BYTES = 64 << 20
"""What all open exchanges together may hold in memory."""

_SEALED = pb.Part.SEALED


@dataclass(slots=True)
class _Exchange:
    attempts: dict[tuple[_Journal, int], Attempt] = field(default_factory=dict)
    access: pb.Access | None = None
    access_us: int = 0
    journals: list[_Journal] = field(default_factory=list)

    def end_us(self) -> int:
        return max([self.access_us, *(a.end_us for a in self.attempts.values())])


@dataclass(slots=True, eq=False)
class _Journal:
    gate: _Gate
    consumed: int = 0
    open: dict[bytes, int] = field(default_factory=dict)
    """Open exchange -> the offset of its first frame here, in the order of the offsets."""


@dataclass(slots=True)
class _Slot:
    watermark_us: int
    heard_us: int


@dataclass(slots=True)
class _Gate:
    """One gate's exchanges: a gate cannot touch another's, not even by using its ids."""

    gate: Gate
    exchanges: dict[bytes, _Exchange] = field(default_factory=dict)
    emitted: set[bytes] = field(default_factory=set)
    remembered: deque[tuple[int, tuple[bytes, ...]]] = field(default_factory=deque)
    """(until, ids of `emitted`), as `remember` was told."""
    waiting: list[tuple[int, bytes]] = field(default_factory=list)
    """A heap of (look again when every slot is past this, exchange)."""
    slots: dict[int, _Slot] = field(default_factory=dict)
    count: int = 0
    journals: int = 0

    def past(self, now_us: int | None = None) -> int:
        """Every event of the gate before this was fed; given the time, silent slots do not count."""
        past = 1 << 62
        for number in range(self.count):
            slot = self.slots[number]
            if now_us is None or now_us - slot.heard_us <= SILENCE_US:
                past = min(past, slot.watermark_us)
        return past if self.count else 0

    def heard_us(self) -> int:
        return max((slot.heard_us for slot in self.slots.values()), default=0)


class Assembler:
    """Feed it every journal in order of offsets; take what is finished with `take()`."""

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._journals: dict[JournalKey, _Journal] = {}
        self._gates: dict[Gate, _Gate] = {}
        self._finished: list[Finished] = []
        self._configs: list[LoadedConfig] = []
        self._budget = memory_bytes
        self._last_key: JournalKey | None = None
        self._last_journal: _Journal

    # What is known from before a restart.

    def remember(self, gate: Gate, until_us: int, ids: tuple[bytes, ...]) -> None:
        """These exchanges have their row: nothing that still comes of them makes a second one.

        They are forgotten when every slot of `gate` is past `until_us` + REMEMBER_US.
        """
        state = self._gate(gate)
        state.emitted.update(ids)
        state.remembered.append((until_us, ids))

    def resume(self, key: JournalKey, consumed: int, open_at: dict[bytes, int]) -> None:
        """This journal was fed up to `consumed`; `open_at` holds its unfinished exchanges and where each begins.

        Feed it again from the first of them on: of what lies before `consumed`, only they are looked at.
        """
        journal = self._journal(key)
        journal.consumed = consumed
        journal.open = dict(open_at)

    # What journals bring.

    def feed(self, key: JournalKey, offset: int, length: int, event: pb.Event) -> None:
        """One event, whose frame lies at `offset` with `length` bytes."""
        if key is not self._last_key:
            self._last_key, self._last_journal = key, self._journal(key)
        journal = self._last_journal
        exchange_id = event.exchange_id
        if offset + length > journal.consumed:
            journal.consumed = offset + length
        elif exchange_id not in journal.open:
            return
        gate = journal.gate
        kind = event.WhichOneof("event")
        exchange = gate.exchanges.get(exchange_id)
        if exchange is not None:
            attempt = exchange.attempts.get((journal, event.attempt))
            if attempt is not None and not attempt.ended:
                attempt.end_us = event.at_us
                if kind == "part":
                    self._part(attempt, key, offset, length, event.part)
                    return
                if kind == "closed":
                    self._closed(gate, exchange_id, exchange, attempt, event.closed)
                    return
                if kind != "access":
                    attempt.add(kind, event)
                    return
        if kind == "config":
            self._configs.append(LoadedConfig(key.gate, event.at_us, event.config))
        elif (kind == "opened" or kind == "access") and len(exchange_id) == 16:
            # Only these begin something; what else comes belongs to an exchange that has its row.
            if exchange is None:
                if exchange_id in gate.emitted:
                    return
                exchange = gate.exchanges[exchange_id] = _Exchange()
            if journal not in exchange.journals:
                exchange.journals.append(journal)
                journal.open.setdefault(exchange_id, offset)
            if kind == "opened":
                attempt = Attempt(event.at_us, event.at_us, event.opened, masks=list(event.opened.masks))
                exchange.attempts[journal, event.attempt] = attempt
            else:
                exchange.access = event.access
                exchange.access_us = event.at_us
                self._wait(gate, exchange_id, exchange.end_us())

    def _part(self, attempt: Attempt, key: JournalKey, offset: int, length: int, part: pb.Part) -> None:
        if part.direction not in DIRECTIONS:
            return  # of a gate that speaks another language
        body = attempt.bodies[part.direction]
        form = part.form if 0 <= part.form <= _SEALED else _SEALED
        data = part.data
        size = len(data)
        if body.held + size > INLINE_BYTES or size > self._budget:
            body.pieces.append((form, Ref(key, offset, length)))
        else:
            body.pieces.append((form, data))
            body.held += size
            self._budget -= size
        if part.masks:
            attempt.masks.extend(part.masks)

    def _closed(
        self, gate: _Gate, exchange_id: bytes, exchange: _Exchange, attempt: Attempt, closed: pb.Closed
    ) -> None:
        attempt.closed = closed
        attempt.ended = True
        if closed.outcome:
            self._finish(gate, exchange_id, exchange, attempt, closed.outcome)
        else:
            self._wait(gate, exchange_id, exchange.end_us())

    def sealed(self, key: JournalKey, at_us: int) -> None:
        """Nothing follows in this journal. `at_us`: its slot's watermark by then, 0 if unknown."""
        journal = self._journals.get(key)
        if journal is None:
            return
        for exchange_id in list(journal.open):
            exchange = journal.gate.exchanges.get(exchange_id)
            if exchange is None:
                del journal.open[exchange_id]  # known from before a restart, but the journal holds it no longer
                continue
            for (held_by, _), attempt in exchange.attempts.items():
                if held_by is journal and not attempt.ended:
                    attempt.end_us = max(attempt.end_us, at_us)
                    attempt.ended = True
            self._wait(journal.gate, exchange_id, exchange.end_us())

    def drop(self, key: JournalKey) -> None:
        """The journal is gone: it was sealed, and nothing in it is needed."""
        journal = self._journals.pop(key, None)
        self._last_key = None
        if journal is not None:
            journal.gate.journals -= 1

    # What time brings.

    def watermark(self, gate: Gate, slot: int, slots: int, watermark_us: int, heard_us: int) -> None:
        """Every event of this slot before `watermark_us` was fed. `slots`: how many the gate has.

        `heard_us` is when the gate last spoke of this slot, by the hub's clock. A gate of which nothing was fed is
        ignored.
        """
        state = self._gates.get(gate)
        if state is None:
            return
        known = state.slots.get(slot)
        if known is None:
            known = state.slots[slot] = _Slot(0, heard_us)
        known.watermark_us = max(known.watermark_us, watermark_us)
        known.heard_us = max(known.heard_us, heard_us)
        if slots != state.count:
            state.count = slots
            for number in range(slots):
                state.slots.setdefault(number, _Slot(0, heard_us))

    def settle(self, now_us: int) -> None:
        """Finishes what the watermarks, or a gate's silence, have settled."""
        for key, journal in self._journals.items():
            if journal.open:
                slot = journal.gate.slots.get(key.slot)
                if slot is not None and now_us - slot.heard_us > SILENCE_US:
                    self.sealed(key, 0)
        for state in self._gates.values():
            if not state.waiting:
                continue
            past = state.past(now_us)
            while state.waiting and state.waiting[0][0] < past:
                exchange_id = heapq.heappop(state.waiting)[1]
                exchange = state.exchanges.get(exchange_id)
                if exchange is not None:
                    self._settle(state, exchange_id, exchange, past)

    def _settle(self, gate: _Gate, exchange_id: bytes, exchange: _Exchange, past: int) -> None:
        attempts = exchange.attempts.values()
        if any(not attempt.ended for attempt in attempts):
            return  # when it ends, it waits anew
        best = max(attempts, key=Attempt.progress, default=None)
        end = exchange.end_us()
        if best is not None and exchange.access is not None and end < past:
            self._finish(gate, exchange_id, exchange, best, exchange.access.outcome or "unknown")
        elif end + GRACE_US >= past:
            self._wait(gate, exchange_id, end + GRACE_US)
        else:
            self._finish(gate, exchange_id, exchange, best, "denied" if best is None else "unknown")

    def _wait(self, gate: _Gate, exchange_id: bytes, until_us: int) -> None:
        heapq.heappush(gate.waiting, (until_us, exchange_id))

    def _finish(
        self, gate: _Gate, exchange_id: bytes, exchange: _Exchange, attempt: Attempt | None, outcome: str
    ) -> None:
        end = exchange.end_us()
        self._finished.append(Finished(exchange_id, gate.gate, outcome, attempt, exchange.access, end))
        for other in exchange.attempts.values():
            self._budget += other.bodies[0].held + other.bodies[1].held
        for journal in exchange.journals:
            journal.open.pop(exchange_id, None)
        del gate.exchanges[exchange_id]
        gate.emitted.add(exchange_id)

    # What the ledger takes.

    def take(self) -> tuple[list[Finished], list[LoadedConfig]]:
        """What was finished since the last call. The caller owns it now, and tells `remember` once it is safe."""
        finished, self._finished = self._finished, []
        configs, self._configs = self._configs, []
        return finished, configs

    def position(self, key: JournalKey) -> tuple[int, dict[bytes, int]]:
        """(consumed offset, unfinished exchanges and where each begins), as `resume` wants them.

        The low-water mark is the first of those offsets, or the consumed offset: nothing before it is needed.
        """
        journal = self._journal(key)
        return journal.consumed, dict(journal.open)

    def forget(self, now_us: int) -> list[tuple[Gate, int]]:
        """Drops ids of which nothing can come any more: the gates, and the `until_us` below which theirs are gone."""
        forgotten = []
        for gate, state in list(self._gates.items()):
            silence = now_us - state.heard_us()
            if state.slots and silence > (DEAD_US if state.journals else SILENCE_US):
                if state.remembered:
                    forgotten.append((gate, 1 << 62))
                    state.remembered.clear()
                    state.emitted.clear()
                if not state.journals:
                    del self._gates[gate]
                continue
            limit = state.past() - REMEMBER_US
            if state.remembered and state.remembered[0][0] < limit:
                while state.remembered and state.remembered[0][0] < limit:
                    state.emitted.difference_update(state.remembered.popleft()[1])
                forgotten.append((gate, limit))
        return forgotten

    @property
    def open_exchanges(self) -> int:
        """How many exchanges are not finished yet."""
        return sum(len(state.exchanges) for state in self._gates.values())

    def _gate(self, gate: Gate) -> _Gate:
        state = self._gates.get(gate)
        if state is None:
            state = self._gates[gate] = _Gate(gate)
        return state

    def _journal(self, key: JournalKey) -> _Journal:
        journal = self._journals.get(key)
        if journal is None:
            journal = self._journals[key] = _Journal(self._gate(key.gate))
            journal.gate.journals += 1
        return journal
