"""Where secrets are in a buffer, and how far a stream may look: the values that the search and the stream exchange."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from heapq import merge
from itertools import groupby

TAIL = 4096
"""The most that a stream holds back undecided, in bytes (a known value's own longest form aside)."""
CONTEXT = 256
"""How much of the text before stays in view: anchors and names are shorter than this."""


@dataclass(frozen=True, slots=True)
class Span:
    """`buffer[start:end]` is to be masked. `secret` is what the fingerprint is of (decoded, where it was encoded)."""

    start: int
    end: int
    detector: str
    secret: bytes = field(repr=False)
    rank: int = 2  # a known value goes first (0), then a configured place (1), then what a detector found
    redact: bool = False
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Growth:
    """A possible secret that reaches the buffer's end: `run` says what continues it."""

    start: int
    detector: str
    run: re.Pattern[bytes]


def disjoint(spans: Iterable[Span], start: int) -> list[Span]:
    """Spans without overlap, in order: the more certain keeps its bytes, others keep what remains of them.

    What lies before `start` is recorded already and is cut off.
    """
    spans = sorted((s for s in spans if s.end > start), key=lambda s: (s.rank, s.start, -s.end))
    taken: list[Span] = []
    for _, group in groupby(spans, key=lambda s: s.rank):
        taken = list(merge(taken, _remaining(group, taken, start), key=lambda s: s.start))
    return taken


def _remaining(spans: Iterable[Span], taken: Sequence[Span], at: int) -> Iterable[Span]:
    """What of `spans` (by start) neither `taken` nor an earlier one of them covers, from `at` on."""
    n = 0
    for span in spans:
        at = max(at, span.start)
        while at < span.end:
            while n < len(taken) and taken[n].end <= at:
                n += 1
            end = min(span.end, taken[n].start) if n < len(taken) else span.end
            if at < end:
                yield span if (at, end) == (span.start, span.end) else _piece(span, at, end)
            at = max(end, taken[n].end) if n < len(taken) and taken[n].start < span.end else end


def _piece(span: Span, start: int, end: int) -> Span:
    secret = span.secret if span.rank == 0 else span.secret[start - span.start : end - span.start]
    return replace(span, start=start, end=end, secret=secret, quoted=False)
