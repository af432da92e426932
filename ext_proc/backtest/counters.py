"""Sessions' counters and rates, replayed in order of time. They start at zero where the range starts."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from ext_proc.backtest.scopes import READS
from ext_proc.decision import Rate
from ext_proc.exchange import Exchange

_MOST_SESSIONS = 20_000
"""Those that were silent longest are forgotten first; a session that comes back after so many others starts anew."""
_DAY_US = 86_400_000_000


@dataclass(slots=True)
class _Session:
    totals: Counter[str] = field(default_factory=Counter)
    targets: set[int] = field(default_factory=set)
    recent: deque[tuple[int, int, int, int, int]] = field(default_factory=deque)
    """(time, write, hash of its target, bytes, denied) of what the window has."""
    window: Counter[str] = field(default_factory=Counter)
    window_targets: Counter[int] = field(default_factory=Counter)
    takes: dict[str, deque[int]] = field(default_factory=dict)
    last_us: int = 0


class Counters:
    """As the hub counts: by session, over the whole of it and over `window`."""

    def __init__(self, window: timedelta) -> None:
        self._span_us = int(window.total_seconds() * 1e6)
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def count(self, session: str, exchange: Exchange, size: int) -> Mapping[str, int]:
        """Count a request; what rules see of the session then, this request included."""
        found = self._of(session, exchange.received_us)
        write = int(exchange.method not in READS)
        target = hash((exchange.connection, exchange.method, exchange.path)) if write else 0
        self._add(found, (exchange.received_us, write, target, size, 0))
        seen = {**found.totals, "targets": len(found.targets)}
        recent = {**found.window, "targets": len(found.window_targets)}
        names = ("calls", "writes", "targets", "bytes", "denied")
        return {n: seen.get(n, 0) for n in names} | {f"window.{n}": recent.get(n, 0) for n in names}

    def deny(self, session: str, at_us: int) -> None:
        """Count a refusal."""
        found = self._of(session, at_us)
        self._add(found, (at_us, 0, 0, 0, 1))

    def take(self, session: str, at_us: int, rates: Sequence[Rate]) -> str:
        """Take one of each rate or of none; the policy whose rate is used up, or nothing."""
        found = self._of(session, at_us)
        logs = [found.takes.setdefault(rate.policy, deque()) for rate in rates]
        for rate, log in zip(rates, logs, strict=True):
            oldest = at_us - int(rate.per.total_seconds() * 1e6)
            while log and log[0] <= oldest:
                log.popleft()
            if len(log) >= rate.limit:
                return rate.policy
        for log in logs:
            log.append(at_us)
        return ""

    def _of(self, session: str, at_us: int) -> _Session:
        found = self._sessions.get(session)
        if found is None or found.last_us < at_us - _DAY_US:  # the hub forgets after a day, too
            found = self._sessions[session] = _Session()
            if len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(session)
        found.last_us = at_us
        while found.recent and found.recent[0][0] <= at_us - self._span_us:
            _tally(found.window, found.window_targets, found.recent.popleft(), -1)
        return found

    def _add(self, found: _Session, event: tuple[int, int, int, int, int]) -> None:
        found.recent.append(event)
        _tally(found.totals, None, event, 1)
        _tally(found.window, found.window_targets, event, 1)
        if event[1]:
            found.targets.add(event[2])


def _tally(sums: Counter[str], targets: Counter[int] | None, event: tuple[int, int, int, int, int], sign: int) -> None:
    _, write, target, size, denied = event
    if denied:
        sums["denied"] += sign
        return
    sums["calls"] += sign
    sums["writes"] += sign * write
    sums["bytes"] += sign * size
    if write and targets is not None:
        targets[target] += sign
        if not targets[target]:
            del targets[target]
