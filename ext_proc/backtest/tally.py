"""What would change, added up by rule, with examples. Tallies of parts of a range add up to that of the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ext_proc.backtest.judge import GRANTS, Hit, Verdict
from ext_proc.backtest.recorded import Recorded

CHANGES = ("newly_denied", "newly_held", "newly_allowed", "newly_withheld", "newly_masked", "newly_shown")
"""What counts as a change. The last three are about responses."""
COUNTS = (*CHANGES, "unchanged", "uncertain", "observed", "flagged")
"""`unchanged`: the rule decides, and the same was decided then. `observed`: a rule in `mode: observe` would have done
something. `flagged`: a response rule would have flagged it."""
_AFTER = {"deny": "newly_denied", "hold": "newly_held", "allow": "newly_allowed"}
_ANSWERED = {"withhold": "newly_withheld", "mask": "newly_masked", "pass": "newly_shown"}
_OF_POLICIES = ("grant.", "policy.", "approval.")

Mask = Callable[[Mapping[str, object]], Any]
"""Values as they may be shown."""


@dataclass(frozen=True, slots=True, order=True)
class Example:
    """One exchange. `at_us` and `exchange_id` order examples; `was` and `now` are decisions."""

    at_us: int
    exchange_id: str
    session: str = field(compare=False)
    request: str = field(compare=False)
    was: str = field(compare=False)
    now: str = field(compare=False)
    values: Any = field(compare=False)

    def row(self) -> dict[str, Any]:
        at = datetime.fromtimestamp(self.at_us / 1e6, UTC).isoformat(timespec="milliseconds")
        return {
            "exchange_id": self.exchange_id,
            "ts": at.replace("+00:00", "Z"),
            "session": self.session,
            "request": self.request,
            "was": self.was,
            "now": self.now,
            "values": self.values,
        }


@dataclass(slots=True)
class Row:
    """One rule."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Example]] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """`seen`: exchanges judged. `left_out`: those that were refused before any rule was asked, by reason. `changed`:
    exchanges of which something would be different, `uncertain`: those of which it cannot be said."""

    most_examples: int = 3
    seen: int = 0
    changed: int = 0
    uncertain: int = 0
    first_us: int = 0
    last_us: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    rows: dict[str, Row] = field(default_factory=dict)

    def add(self, recorded: Recorded, verdict: Verdict, mask: Mask) -> None:
        at_us = recorded.exchange.received_us
        self.first_us = min(self.first_us or at_us, at_us)
        self.last_us = max(self.last_us, at_us)
        self.seen += 1
        was, now = recorded.decision, verdict.outcome
        changes: list[tuple[str, Sequence[str]]] = []
        if now == "uncertain":
            changes.append(("uncertain", verdict.by))
        elif was == now:
            changes.append(("unchanged", verdict.by))
        else:
            changes.append((_AFTER[now], verdict.by if now != "allow" else _then(recorded)))
        changes += self._response(recorded, verdict)
        changes += [("observed", (h.rule,)) for h in verdict.hits if h.mode == "observe" and not h.doubt]
        changes += [("uncertain", (h.rule,)) for h in verdict.hits if h.mode == "observe" and h.doubt]
        for change, rules in changes:
            for rule in rules:
                self._count(rule, change, recorded, verdict, mask)
        found = {change for change, _ in changes}
        self.changed += bool(found & set(CHANGES))
        self.uncertain += "uncertain" in found
        self.changes.update(found & set(CHANGES))

    def leave_out(self, recorded: Recorded) -> None:
        self.left_out[recorded.reason or "unknown"] += 1

    def merge(self, other: Tally) -> None:
        self.seen += other.seen
        self.changed += other.changed
        self.uncertain += other.uncertain
        self.first_us = min(filter(None, (self.first_us, other.first_us)), default=0)
        self.last_us = max(self.last_us, other.last_us)
        self.left_out += other.left_out
        self.changes += other.changes
        for name, row in other.rows.items():
            mine = self.rows.setdefault(name, Row())
            mine.counts += row.counts
            for change, examples in row.examples.items():
                mine.examples[change] = sorted([*mine.examples.get(change, ()), *examples])[: self.most_examples]

    def _response(self, recorded: Recorded, verdict: Verdict) -> list[tuple[str, Sequence[str]]]:
        found: list[tuple[str, Sequence[str]]] = []
        for hit in verdict.response_hits:
            if hit.doubt:
                found.append(("uncertain", (hit.rule,)))
            elif hit.mode == "observe":
                found.append(("observed", (hit.rule,)))
            elif hit.effect == "flag":
                found.append(("flagged", (hit.rule,)))
        was, now = recorded.response_decision or "pass", verdict.response or "pass"
        if recorded.response is None or verdict.outcome == "deny" or now == "uncertain":
            return found
        by = (verdict.response_by,) if verdict.response_by else (_response_then(recorded),)
        if was != now:
            found.append((_ANSWERED[now], by))
        elif now != "pass":
            found.append(("unchanged", by))
        return found

    def _count(self, rule: str, change: str, recorded: Recorded, verdict: Verdict, mask: Mask) -> None:
        row = self.rows.setdefault(rule, Row())
        row.counts[change] += 1
        if change == "unchanged" or len(row.examples.setdefault(change, [])) >= self.most_examples:
            return
        exchange = recorded.exchange
        hit = next((h for h in (*verdict.hits, *verdict.response_hits) if h.rule == rule), None)
        row.examples[change].append(
            Example(
                exchange.received_us,
                str(exchange.exchange_id),
                recorded.session_label,
                f"{exchange.method} {exchange.path}",
                _said(recorded.decision, recorded.response_decision),
                _said(verdict.outcome, verdict.response),
                mask(_values(hit, verdict, recorded)),
            )
        )


def is_judgeable(recorded: Recorded) -> bool:
    """Whether rules were asked at all: a caller that was not known, say, is refused before."""
    if recorded.decision != "deny":
        return True
    return bool(recorded.policy) or recorded.reason.startswith(_OF_POLICIES)


def _then(recorded: Recorded) -> Sequence[str]:
    """What decided then, for what FILE no longer decides. Several holds were one decision: `a,b`."""
    return tuple(recorded.policy.split(",")) if recorded.policy and recorded.reason != "grant.none" else (GRANTS,)


def _response_then(recorded: Recorded) -> str:
    return next((name for name, effect in recorded.hits.items() if effect == recorded.response_decision), "(responses)")


def _said(decision: str, response: str) -> str:
    return f"{decision}, {response}" if response not in ("", "pass") else decision


def _values(hit: Hit | None, verdict: Verdict, recorded: Recorded) -> Mapping[str, object]:
    if hit is not None and hit.doubt:
        return {"unknown": hit.doubt}
    if hit is not None:
        return hit.values
    reason = verdict.reason or recorded.reason
    return {"reason": reason} if reason else {}
