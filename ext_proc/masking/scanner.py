"""Finds the spans to mask in a buffer, and says from where on a match might still grow.

One hyperscan scan finds the literal anchors of all detectors and the keywords; Python's `re` then decides at each
anchor only. That order is what makes a body without secrets cheap (bench/masking_engines.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

import hyperscan

from ext_proc.masking.detectors import Detector
from ext_proc.masking.known import KnownSet
from ext_proc.masking.names import KEYWORDS, named, plausible

TAIL = 4096
"""The most that a stream holds back undecided, in bytes (a known value's own longest form aside)."""
CONTEXT = 256
"""How much of the text before stays in view: anchors and names are shorter than this."""
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
        seen = -1
        for number, end in hits:
            detector = self._owners[number]
            start = end - len(self._literals[number])
            if detector is not None:
                _apply(detector, buffer, start, last, spans, growths)
                continue
            value = named(buffer, start, end)
            if value is None or value.start == seen:
                continue
            seen = value.start
            if value.growing and not last:
                growths.append(Growth(value.start, "named", value.run))
                continue
            raw = buffer[value.start : value.end]
            secret = unescaped(raw)
            if raw and plausible(secret, value.strong):
                spans.append(Span(value.start, value.end, "named", secret, quoted=value.quoted))


def _apply(detector: Detector, buffer: bytes, start: int, last: bool, spans: list[Span], growths: list[Growth]) -> None:
    if not last:
        run = detector.run.match(buffer, start)
        if run is not None and run.end() == len(buffer):
            group = "secret" if "secret" in detector.run.groupindex else 0
            growths.append(Growth(run.start(group), detector.name, detector.more))
            return
    match = detector.pattern.match(buffer, start)
    if match is None:
        return
    group = "secret" if "secret" in detector.pattern.groupindex else 0
    raw = match[group]
    if detector.check is None or detector.check(raw):
        spans.append(Span(match.start(group), match.end(group), detector.name, raw))


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
    spans = [s for s in spans if s.end > start]
    if len(spans) == 1 and spans[0].start >= start:
        return spans
    taken: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.rank, s.start, -s.end)):
        pieces = [(max(span.start, start), span.end)]
        for other in taken:
            pieces = [
                piece
                for a, b in pieces
                for piece in ((a, min(b, other.start)), (max(a, other.end), b))
                if piece[0] < piece[1]
            ]
        for a, b in pieces:
            if (a, b) == (span.start, span.end):
                taken.append(span)
            else:
                secret = span.secret if span.rank == 0 else span.secret[-(b - a) :]
                taken.append(Span(a, b, span.detector, secret, span.rank, span.redact))
    taken.sort(key=lambda s: s.start)
    return taken


def forced_cut(buffer: bytes, start: int) -> int:
    """Where to cut when nothing is decided within the bound: near the end, not within an escape."""
    cut = max(start, len(buffer) - _KEPT)
    escapes = cut - len(buffer[start:cut].rstrip(b"\\")) - start
    return cut - escapes % 2
