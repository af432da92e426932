"""Detectors and an exchange's known values together, over one buffer."""

from __future__ import annotations

from dataclasses import dataclass

from ext_proc.masking.detectors import TOKEN
from ext_proc.masking.known import KnownSet
from ext_proc.masking.search import Detectors
from ext_proc.masking.spans import TAIL, Growth, Span, disjoint

_KEPT = 128


@dataclass(slots=True)
class Findings:
    spans: list[Span]
    growths: list[Growth]
    known_from: int  # from here on a known value may be incomplete


class Scanner:
    """Detectors and an exchange's known values together."""

    __slots__ = ("_detectors", "known")

    def __init__(self, detectors: Detectors | None, known: KnownSet) -> None:
        self._detectors = detectors
        self.known = known

    def find(self, buffer: bytes, last: bool, begins: bool = True) -> Findings:
        found, known_from = self.known.find(buffer, last)
        spans = [Span(f.start, f.end, f.known.name, f.known.value, 0, f.known.redact) for f in found]
        growths: list[Growth] = []
        if self._detectors is not None:
            more, growths = self._detectors.find(buffer, last, begins)
            spans += more
        return Findings(spans, growths, known_from)

    def whole(self, text: bytes) -> list[Span]:
        """The spans of a text that is complete, disjoint and in order."""
        return disjoint(self.find(text, last=True).spans, 0)

    def token_tail(self, buffer: bytes, start: int) -> int:
        """Where the trailing run begins in which a token's prefix may be incomplete; never before `start`."""
        if self._detectors is None:
            return len(buffer)
        view = buffer[max(start, len(buffer) - TAIL - 1) :]
        return len(buffer) - (len(view) - len(view.rstrip(TOKEN)))


def forced_cut(buffer: bytes, start: int) -> int:
    """Where to cut when nothing is decided within the bound: near the end, not within an escape."""
    cut = max(start, len(buffer) - _KEPT)
    escapes = cut - len(buffer[start:cut].rstrip(b"\\")) - start
    return cut - escapes % 2
