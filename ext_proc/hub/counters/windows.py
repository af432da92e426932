"""What happened within the last so many seconds, kept so that asking costs as little as adding.

Both are memory only, made from the file when they are first needed. For one thread.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

MOST_TARGETS = 100_000
"""Different targets of a window are told apart up to here; then each write counts as one more, which only refuses
more."""

_SLICES = 3600
"""A window is looked at in slices of a second, or in so many."""


@dataclass(slots=True)
class Amounts:
    calls: int = 0
    writes: int = 0
    bytes: int = 0
    denied: int = 0

    def add(self, other: Amounts, sign: int = 1) -> None:
        self.calls += sign * other.calls
        self.writes += sign * other.writes
        self.bytes += sign * other.bytes
        self.denied += sign * other.denied


@dataclass(slots=True)
class _Slice:
    number: int
    amounts: Amounts = field(default_factory=Amounts)
    targets: set[bytes] = field(default_factory=set)
    """Targets whose latest write is in this slice."""
    beyond: int = 0


class Window:
    """The last `span_s` seconds of one session. What is added comes in about the order of its time."""

    def __init__(self, span_s: int) -> None:
        self._width_us = max(1_000_000, span_s * 1_000_000 // _SLICES)
        self._kept = -(-span_s * 1_000_000 // self._width_us)
        self._slices: deque[_Slice] = deque()
        self._latest: dict[bytes, _Slice] = {}
        self._sum = Amounts()
        self._beyond = 0

    def add(self, at_us: int, amounts: Amounts, target: bytes) -> None:
        """`target` is empty for what is no write."""
        number = at_us // self._width_us
        if not self._slices or number > self._slices[-1].number:
            self._slices.append(_Slice(number))
        current = self._slices[-1]  # what is late by a moment counts as of now
        current.amounts.add(amounts)
        self._sum.add(amounts)
        if target:
            self._see(target, current)

    def totals(self, at_us: int) -> tuple[Amounts, int]:
        """(the sums, how many different targets)."""
        oldest = at_us // self._width_us - self._kept
        while self._slices and self._slices[0].number <= oldest:
            gone = self._slices.popleft()
            self._sum.add(gone.amounts, -1)
            self._beyond -= gone.beyond
            for target in gone.targets:
                del self._latest[target]
        return self._sum, len(self._latest) + self._beyond

    def empty(self, at_us: int) -> bool:
        """Whether nothing happened in it."""
        self.totals(at_us)
        return not self._slices

    def _see(self, target: bytes, current: _Slice) -> None:
        before = self._latest.get(target)
        if before is None and len(self._latest) >= MOST_TARGETS:
            current.beyond += 1
            self._beyond += 1
            return
        if before is not None:
            before.targets.discard(target)
        current.targets.add(target)
        self._latest[target] = current


class Takes:
    """When each of the last takes of one rate was, exactly."""

    def __init__(self, per_s: int) -> None:
        self._per_us = per_s * 1_000_000
        self._times: deque[int] = deque()

    def wait_us(self, at_us: int, limit: int) -> int:
        """How long until there is room for one more; 0 when there is. `limit` is at least 1."""
        if self.empty(at_us) or len(self._times) < limit:
            return 0
        return self._times[len(self._times) - limit] + self._per_us - at_us

    def empty(self, at_us: int) -> bool:
        """Whether there was none within the time."""
        while self._times and self._times[0] <= at_us - self._per_us:
            self._times.popleft()
        return not self._times

    def take(self, at_us: int) -> None:
        self._times.append(at_us)
