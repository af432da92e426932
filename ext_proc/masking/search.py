"""Finds what detectors and names find in a buffer, and says from where on a match might still grow.

One hyperscan scan finds how all detectors and the names of secrets begin; Python's `re` then decides at these places
only. That order is what makes a body without secrets cheap (bench/masking_engines.py). What base64 in the text decodes
to is searched in the same way.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

import hyperscan

from ext_proc.masking import encoded, places
from ext_proc.masking.detectors import Detector, Trigger
from ext_proc.masking.spans import CONTEXT, TAIL, Growth, Span
from ext_proc.masking.values import plausible

MOST_TRIES = 64
"""How often one run of characters is looked at by one detector; without a bound `sk-sk-sk-` would cost its square."""
WHOLE = TAIL - CONTEXT
"""Base64 up to this length is masked entirely when a secret is in it; of a longer run, what encodes the secret."""
_DEEPEST = 2
"""Base64 in base64 is looked into so often."""
_SETTLED = 64
"""What begins so far within a masked span has nothing to add."""
_NAMED = "named"
_BASE64 = "base64"
_PERCENT = "percent"


class Detectors:
    """The compiled triggers of `detectors` and names. Not for use by two threads at a time (hyperscan's scratch)."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        found: list[tuple[Detector | str, Trigger]] = [(d, t) for d in detectors for t in d.triggers]
        found += [(_NAMED, trigger) for trigger in places.TRIGGERS]
        found.append((_BASE64, Trigger(encoded.TRIGGER, encoded.LEAST)))
        found += [(_PERCENT, Trigger(expression, 1)) for expression in encoded.PERCENT_TRIGGERS]
        self.owners = [owner for owner, _ in found]
        self.widths = [trigger.width for _, trigger in found]
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        self._database.compile(
            [trigger.expression for _, trigger in found],
            ids=list(range(len(found))),
            flags=[
                (0 if trigger.width else hyperscan.HS_FLAG_SOM_LEFTMOST)
                | (hyperscan.HS_FLAG_CASELESS if trigger.caseless else 0)
                for _, trigger in found
            ],
        )
        _return_memory()

    def find(self, buffer: bytes, last: bool, begins: bool = True, depth: int = 0) -> tuple[list[Span], list[Growth]]:
        """The spans in `buffer` (they may overlap), and what at its end may still grow unless it is the `last`.
        `begins` says that nothing went before it."""
        hits: list[tuple[int, int, int]] = []
        self._database.scan(buffer, match_event_handler=lambda i, start, end, _f, _c: hits.append((i, start, end)))
        if not hits:
            return [], []
        search = _Search(self, buffer, last, begins, depth)
        search.look_at(hits)
        return search.spans, search.growths


def _return_memory() -> None:
    """Compiling takes 6 MB for a moment, which glibc would keep in every worker for good."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


class _Search:
    """One buffer's search. `_runs` says of each detector where its latest run ends, and how often it was looked at."""

    __slots__ = ("_begins", "_buffer", "_depth", "_detectors", "_last", "_runs", "_settled", "growths", "spans")

    def __init__(self, detectors: Detectors, buffer: bytes, last: bool, begins: bool, depth: int) -> None:
        self._detectors = detectors
        self._buffer = buffer
        self._last = last
        self._begins = begins
        self._depth = depth
        self._runs: dict[str | bytes, tuple[int, int]] = {}
        self._settled = 0  # what is found up to here has nothing to add
        self.spans: list[Span] = []
        self.growths: list[Growth] = []

    def look_at(self, hits: Sequence[tuple[int, int, int]]) -> None:
        owners, widths = self._detectors.owners, self._detectors.widths
        for number, start, end in hits:
            if end <= self._settled:
                continue
            owner = owners[number]
            width = widths[number]
            if width:
                start = end - width if end > width else 0
            if owner == _NAMED:
                self._named(start)
            elif owner in (_BASE64, _PERCENT):
                self._within(owner, start)
            elif isinstance(owner, Detector):
                self._form(owner, start)

    def _found(self, span: Span) -> None:
        self.spans.append(span)
        self._settled = max(self._settled, span.end - _SETTLED)

    def _grows(self, growth: Growth) -> None:
        """Nothing after it is given out, but where it has to be cut: that is within the tail."""
        self.growths.append(growth)
        self._settled = max(self._settled, len(self._buffer) - TAIL)

    def _form(self, detector: Detector, start: int) -> None:
        run_end, tries = self._runs.get(detector.name, (-1, 0))
        if start >= run_end:
            run = detector.run.match(self._buffer, start)
            if run is None:
                return
            run_end, tries = run.end(), 0
            if run_end == len(self._buffer) and not self._last:
                self._runs[detector.name] = (run_end, 0)
                group = "secret" if "secret" in detector.run.groupindex else 0
                self._grows(Growth(run.start(group), detector.name, detector.more))
                return
        elif tries >= MOST_TRIES or (run_end == len(self._buffer) and not self._last):
            return
        self._runs[detector.name] = (run_end, tries + 1)
        match = detector.pattern.match(self._buffer, start)
        if match is None:
            return
        groups = detector.pattern.groupindex
        group = "secret" if "secret" in groups else 0
        if detector.check is None or detector.check(match["judged" if "judged" in groups else group]):
            self._found(Span(match.start(group), match.end(group), detector.name, match[group]))
            if match.end() >= run_end:
                self._runs[detector.name] = (run_end, MOST_TRIES)  # masked to its end: nothing in it needs a look

    def _named(self, start: int) -> None:
        place = places.locate(self._buffer, start)
        if place is None:
            return
        run_end, tries = self._runs.get(place.kind, (-1, 0))
        if place.start >= run_end:
            value = place.run.match(self._buffer, place.start)
            run_end, tries = value.end() if value else place.start, 0
            if run_end == len(self._buffer) and not self._last:
                self._grows(Growth(place.start, _NAMED, place.run))
        else:
            tries += 1
        self._runs[place.kind] = (run_end, tries)
        if tries > MOST_TRIES:
            self._settled = max(self._settled, run_end - TAIL)  # enough of it was none
            return
        if run_end == place.start or (run_end == len(self._buffer) and not self._last):
            return
        begin, end = place.value(self._buffer, run_end)
        secret = unescaped(self._buffer[begin:end])
        if plausible(secret, place.level, guess=place.guess):
            self._found(Span(begin, end, _NAMED, secret, quoted=place.bare))
            self._runs[place.kind] = (run_end, MOST_TRIES)

    def _within(self, kind: str, start: int) -> None:
        """What is found in the text that base64 or percent-encoding spells there."""
        if self._depth >= _DEEPEST or start < self._runs.get(kind, (0, 0))[0]:
            return
        base64 = kind == _BASE64
        view = (encoded.view if base64 else encoded.percent_view)(self._buffer, start, self._last)
        if view is None:
            return
        self._runs[kind] = (view.end, 0)
        inner, growing = self._detectors.find(view.text, not view.open_end, depth=self._depth + 1)
        if view.open_end:
            more = encoded.MORE if base64 else encoded.PERCENT_MORE
            self.growths.append(Growth(view.start, kind, more))
            self.growths += [Growth(view.begin(g.start), g.detector, more) for g in growing]
        in_view = self._begins or view.start > encoded.LONGEST_SHIFT
        if inner and base64 and in_view and not view.open_end and view.end - view.start <= WHOLE:
            first = min(inner, key=lambda s: s.start)
            self._found(Span(view.start, view.end, first.detector, first.secret))
        else:
            self.spans += [Span(view.begin(s.start), view.finish(s.end), s.detector, s.secret) for s in inner]


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
