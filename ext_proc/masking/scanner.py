"""Finds the spans to mask in a buffer, and says from where on a match might still grow.

One hyperscan scan finds the literal anchors of all detectors and the keywords; Python's `re` then decides at each
anchor only. That order is what makes a body without secrets cheap (bench/masking_engines.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from heapq import merge
from itertools import groupby
from urllib.parse import unquote_to_bytes

import hyperscan

from ext_proc.masking.detectors import Detector
from ext_proc.masking.known import KnownSet
from ext_proc.masking.names import KEYWORDS, locate, plausible

TAIL = 4096
"""The most that a stream holds back undecided, in bytes (a known value's own longest form aside)."""
CONTEXT = 256
"""How much of the text before stays in view: anchors and names are shorter than this."""
MOST_TRIES = 64
"""How often one run of characters is looked at by one detector; without a bound `sk-sk-sk-` would cost its square."""
_KEPT = 128
_TOKEN = bytes(range(0x30, 0x3A)) + bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B)) + b"_-.+/=~%\\:"


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


@dataclass(slots=True)
class Findings:
    spans: list[Span]
    growths: list[Growth]
    known_from: int  # from here on a known value may be incomplete


Runs = dict[str, tuple[int, int]]  # where a detector's latest run ends, and how often it was looked at


class Detectors:
    """The compiled anchors of `detectors`. Not for use by two threads at a time (hyperscan's scratch space)."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._owners: list[Detector | None] = []
        literals: list[bytes] = []
        flags: list[int] = []
        for detector in detectors:
            for anchor in detector.anchors:
                literals.append(anchor)
                flags.append(hyperscan.HS_FLAG_CASELESS if detector.caseless else 0)
                self._owners.append(detector)
        for keyword in KEYWORDS:
            literals.append(keyword)
            flags.append(hyperscan.HS_FLAG_CASELESS)
            self._owners.append(None)
        self._literals = literals
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        self._database.compile(literals, ids=list(range(len(literals))), flags=flags, literal=True)

    def find(self, buffer: bytes, last: bool, spans: list[Span], growths: list[Growth]) -> None:
        hits: list[tuple[int, int]] = []
        self._database.scan(buffer, match_event_handler=lambda i, _s, end, _f, _c: hits.append((i, end)))
        runs: Runs = {}
        for number, end in hits:
            owner = self._owners[number]
            start = end - len(self._literals[number])
            if owner is None:
                _apply_named(buffer, start, end, last, runs, spans, growths)
            else:
                _apply(owner, buffer, start, last, runs, spans, growths)


def _apply(
    detector: Detector,
    buffer: bytes,
    start: int,
    last: bool,
    runs: Runs,
    spans: list[Span],
    growths: list[Growth],
) -> None:
    run_end, tries = runs.get(detector.name, (-1, 0))
    if start >= run_end:
        run = detector.run.match(buffer, start)
        if run is None:
            return
        runs[detector.name] = (run.end(), 0)
        if run.end() == len(buffer) and not last:
            group = "secret" if "secret" in detector.run.groupindex else 0
            growths.append(Growth(run.start(group), detector.name, detector.more))
            return
    elif tries < MOST_TRIES and (last or run_end < len(buffer)):
        runs[detector.name] = (run_end, tries + 1)
    else:
        return
    match = detector.pattern.match(buffer, start)
    if match is None:
        return
    group = "secret" if "secret" in detector.pattern.groupindex else 0
    raw = match[group]
    if detector.check is None or detector.check(raw):
        spans.append(Span(match.start(group), match.end(group), detector.name, raw))
        run_end = runs[detector.name][0]
        if match.end() >= run_end:
            runs[detector.name] = (run_end, MOST_TRIES)  # masked to its end: nothing within it needs a look


def _apply_named(
    buffer: bytes, start: int, end: int, last: bool, runs: Runs, spans: list[Span], growths: list[Growth]
) -> None:
    place = locate(buffer, start, end)
    if place is None:
        return
    run_end, tries = runs.get(place.kind, (-1, 0))
    if place.start >= run_end:
        value = place.run.match(buffer, place.start)
        run_end, tries = value.end() if value else place.start, 0
        if run_end == len(buffer) and not last:
            growths.append(Growth(place.start, "named", place.run))
    else:
        tries += 1
    runs[place.kind] = (run_end, tries)
    if tries > MOST_TRIES or run_end == place.start or (run_end == len(buffer) and not last):
        return
    secret = unescaped(buffer[place.start : run_end])
    if plausible(secret, place.strong):
        spans.append(Span(place.start, run_end, "named", secret, quoted=place.bare))
        runs[place.kind] = (run_end, MOST_TRIES)  # masked to its end: nothing within it needs a look


def unescaped(raw: bytes) -> bytes:
    """The value that JSON escapes or percent-encoding spell, so that equal secrets have equal fingerprints."""
    if b"\\" in raw:
        try:
            text = json.loads(b'"' + raw + b'"', strict=False)
            return str(text).encode("utf-8", "surrogatepass")
        except ValueError:
            return raw
    if b"%" in raw:
        return unquote_to_bytes(raw)
    return raw


class Scanner:
    """Detectors and an exchange's known values together."""

    __slots__ = ("_detectors", "known")

    def __init__(self, detectors: Detectors | None, known: KnownSet) -> None:
        self._detectors = detectors
        self.known = known

    def find(self, buffer: bytes, last: bool) -> Findings:
        found, known_from = self.known.find(buffer, last)
        spans = [Span(f.start, f.end, f.known.name, f.known.value, 0, f.known.redact) for f in found]
        growths: list[Growth] = []
        if self._detectors is not None:
            self._detectors.find(buffer, last, spans, growths)
        return Findings(spans, growths, known_from)

    def whole(self, text: bytes) -> list[Span]:
        """The spans of a text that is complete, disjoint and in order."""
        return disjoint(self.find(text, last=True).spans, 0)

    def token_tail(self, buffer: bytes, start: int) -> int:
        """Where the trailing run begins in which a token's prefix may be incomplete; never before `start`."""
        if self._detectors is None:
            return len(buffer)
        view = buffer[max(start, len(buffer) - TAIL - 1) :]
        return len(buffer) - (len(view) - len(view.rstrip(_TOKEN)))


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


def forced_cut(buffer: bytes, start: int) -> int:
    """Where to cut when nothing is decided within the bound: near the end, not within an escape."""
    cut = max(start, len(buffer) - _KEPT)
    escapes = cut - len(buffer[start:cut].rstrip(b"\\")) - start
    return cut - escapes % 2
