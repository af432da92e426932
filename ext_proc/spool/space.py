"""Whether the spool has room for another request."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path

from ext_proc.errors import RecordError

MIN_FREE = 64 << 20
"""Bytes of the disk that only requests already admitted may use."""

_MARK_EVERY_S = 1.0
_LOOK_EVERY_S = 1.0


class Space:
    """What the spool holds, in counters that `append` and acknowledgements keep; `check` costs no walk of the disk."""

    def __init__(self, path: Path, *, max_size: int, min_free: int) -> None:
        self.used = 0
        self._path = path
        self._max_size = max_size
        self._min_free = min_free
        self._free = 0
        self._next_look = 0.0

    def add(self, size: int) -> None:
        """Bytes were written, or (negative) deleted. What was deleted counts as free at the next look."""
        self.used += size
        if size > 0:
            self._free -= size

    def check(self, size: int, now: float) -> None:
        """RecordError when `size` more bytes have no room. `now` is the monotonic time in seconds."""
        if self.used + size > self._max_size:
            raise refusal(
                f"the spool holds {self.used} bytes and may hold {self._max_size} (recording.spool.max_size)",
                "Bring the hub back so that it is shipped, or raise recording.spool.max_size.",
            )
        if now >= self._next_look:
            self._next_look = now + _LOOK_EVERY_S
            self._free = self._look()
        if self._free - size < self._min_free:
            raise refusal(
                f"the spool's disk has {max(self._free, 0)} bytes free and {self._min_free} are kept for open requests",
                "Free space on the disk of recording.spool.path.",
            )

    def _look(self) -> int:
        try:
            disk = os.statvfs(self._path)
        except OSError as error:
            raise refusal(
                f"the spool's disk cannot be looked at ({error.strerror})",
                "Check the disk and the permissions of recording.spool.path.",
                detail=str(error),
            ) from error
        return disk.f_bavail * disk.f_frsize


class Lag:
    """How old the oldest record is that the hub has not acknowledged, within a second."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque()

    def appended(self, start: int, now: float) -> None:
        """A record was written at offset `start`."""
        if not self._marks or now - self._marks[-1][1] >= _MARK_EVERY_S:
            self._marks.append((start, now))

    def acknowledged(self, offset: int, end: int) -> None:
        if offset >= end:
            self._marks.clear()
        while len(self._marks) > 1 and self._marks[1][0] <= offset:
            self._marks.popleft()

    def seconds(self, now: float) -> float:
        return now - self._marks[0][1] if self._marks else 0.0


def refusal(message: str, remedy: str, *, detail: str = "") -> RecordError:
    """The one error of a spool that cannot take a record now."""
    return RecordError(
        "recording.unavailable",
        f"The request cannot be recorded, so it is not sent: {message}.",
        remedy=remedy,
        http_status=503,
        retryable=True,
        detail=detail,
    )


def monotonic_of(wall_s: float) -> float:
    """A time of the wall clock (seconds since the epoch) on the monotonic clock; never in the future."""
    return time.monotonic() - max(time.time() - wall_s, 0.0)
