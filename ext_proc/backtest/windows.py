"""A range of time cut into pieces that one query can bring, sorted, within its limits of time and memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MOST_ROWS = 10_000
MOST_BYTES = 48 << 20
_OF_A_ROW = 2_000
"""Bytes of a row beside its bodies: mostly headers and claims."""


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` to before `end`, seconds since the epoch; `count` exchanges when it was cut."""

    start: int
    end: int
    count: int


def cut(buckets: Iterable[tuple[int, int, int]], step: int) -> list[Window]:
    """`buckets` are (start, exchanges, bytes of bodies) of `step` seconds each, in order of time. A bucket alone may be
    above the limits: then it is a window all the same."""
    found: list[Window] = []
    start: int | None = None
    rows = size = end = 0
    for at, count, body_bytes in buckets:
        more = body_bytes + count * _OF_A_ROW
        if start is not None and (rows + count > MOST_ROWS or size + more > MOST_BYTES):
            found.append(Window(start, end, rows))
            start, rows, size = None, 0, 0
        start = at if start is None else start
        rows, size, end = rows + count, size + more, at + step
    if start is not None:
        found.append(Window(start, end, rows))
    return found
