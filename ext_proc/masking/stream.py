"""Text that arrives in pieces: what of it is decided, and what in it is masked.

However the text is cut, the result is the same: a possible secret that reaches the end of what has arrived is held
back, at most `TAIL` bytes; what was already given out stays in view for `CONTEXT` bytes, because keywords and anchors
stand before a secret.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ext_proc.masking.json_paths import JsonValues, Value
from ext_proc.masking.scanner import Scanner, forced_cut
from ext_proc.masking.spans import CONTEXT, TAIL, Growth, Span, disjoint


@dataclass(frozen=True, slots=True)
class Decided:
    """Text that needs nothing more, with the spans in it (disjoint, in order, offsets within `text`)."""

    text: bytes
    spans: Sequence[Span]


@dataclass(frozen=True, slots=True)
class _Open:
    """A secret longer than the tail: what continues it is masked too."""

    detector: str
    run: re.Pattern[bytes]


class TextStream:
    """Feeds text through a scanner. `pending` is what is held back, `context` what went before it."""

    __slots__ = ("_base", "_json", "_open", "_places", "_scanner", "context", "pending")

    def __init__(self, scanner: Scanner, json_values: JsonValues | None = None) -> None:
        self._scanner = scanner
        self._json = json_values
        self._places: list[Value] = []  # values at configured places that are not yet given out
        self._base = 0  # the offset in the whole text at which `pending` begins
        self._open: _Open | None = None
        self.context = b""
        self.pending = b""

    def feed(self, data: bytes, last: bool) -> Decided:
        """Adds `data` and gives out what is decided now; all of it when `last`."""
        start = len(self.context)
        buffer = self.context + self.pending + data
        begins = self._base == start
        found = self._scanner.find(buffer, last, begins)
        spans = [s for s in found.spans if s.start >= start or s.rank == 0]
        growths = [g for g in found.growths if g.start >= start]
        self._carry(buffer, start, last, spans, growths)
        if self._json is not None:
            self._places += self._json.feed(data, last)
        cut = forced = len(buffer)
        opened: _Open | None = None
        if not last:
            cut = min((self._scanner.token_tail(buffer, start), *(g.start for g in growths)))
            if self._json is not None and self._json.value_from is not None:
                cut = min(cut, max(start, self._json.value_from - self._base + start))
            if len(buffer) - cut > TAIL:
                firm = [g.start for g in growths if len(buffer) - g.start <= TAIL]
                cut = forced = max(start, min((forced_cut(buffer, start), *firm)))
                opened = self._force(buffer, start, cut, spans, growths)
            cut = min(cut, found.known_from)
        spans += [
            Span(v.start - self._base + start, v.end - self._base + start, "json", v.secret, 1, quoted=v.quoted)
            for v in self._places
        ]
        if not last:
            cut = _not_within(spans, cut)
        if cut > start or last:
            self._open = opened if cut == forced else None
        return self._give(buffer, start, cut, spans)

    def _carry(self, buffer: bytes, start: int, last: bool, spans: list[Span], growths: list[Growth]) -> None:
        """Continues a secret of which a part was given out."""
        if self._open is None:
            return
        more = self._open.run.match(buffer, start)
        end = more.end() if more else start
        if end == len(buffer) and not last:
            growths.append(Growth(start, self._open.detector, self._open.run))
        elif end > start:
            spans.append(Span(start, end, self._open.detector, buffer[start:end]))

    def _force(self, buffer: bytes, start: int, cut: int, spans: list[Span], growths: list[Growth]) -> _Open | None:
        """Cuts secrets that outgrew the tail: masks them up to `cut`, and says what then goes on."""
        opened: _Open | None = None
        early = [
            s
            for s in self._scanner.find(buffer[:cut], last=True, begins=self._base == start).spans
            if s.rank == 2 and s.start >= start
        ]
        spans += [s for s in early if s.end < cut]
        for growth in growths:
            if growth.start >= cut:
                continue
            carried = self._open is not None and growth.start == start
            if carried:
                spans.append(Span(start, cut, growth.detector, buffer[start:cut]))
            else:
                spans += [s for s in early if s.start == growth.start]
            if carried or any(s.start == growth.start and s.end == cut for s in early):
                opened = _Open(growth.detector, growth.run)
        if self._json is not None:
            piece = self._json.force(self._base + cut - start)
            if piece is not None:
                self._places.append(piece)
        return opened

    def _give(self, buffer: bytes, start: int, cut: int, spans: list[Span]) -> Decided:
        given = disjoint([s for s in spans if s.end <= cut], start) if spans else []
        text = buffer[start:cut]
        self._base += cut - start
        self._places = [p for p in self._places if p.end > self._base]
        self.context = buffer[max(0, cut - CONTEXT) : cut]
        self.pending = buffer[cut:]
        if start and given:
            given = [
                Span(s.start - start, s.end - start, s.detector, s.secret, s.rank, s.redact, s.quoted) for s in given
            ]
        return Decided(text, given)


def _not_within(spans: list[Span], cut: int) -> int:
    """The cut, moved before any span that it would divide."""
    for span in sorted(spans, key=lambda s: s.start, reverse=True):
        if span.start < cut < span.end:
            cut = span.start
    return cut
