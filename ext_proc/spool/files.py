"""A journal's bytes on disk: one folder of segment files, each named by the journal offset at which it begins.

The gate's spool and the hub's replica of it keep their journals alike. Offsets count bytes over all segments, so a
segment that is no longer needed is simply deleted, and the names of the others still say where they belong.
"""

from __future__ import annotations

import contextlib
import os
import threading
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from ext_proc.spool import frames

SEGMENT_SIZE = 16 << 20
SUFFIX = ".journal"


@dataclass(slots=True)
class Segment:
    path: Path
    start: int
    size: int


class JournalFiles:
    """One journal's segments. `start` is the oldest offset still here, `end` the offset after the last byte.

    `append` is for one thread; `sync` may run in another, one call at a time; `read` and `drop` in any.
    Every method raises OSError as the disk does.
    """

    def __init__(self, folder: Path, *, segment_size: int = SEGMENT_SIZE, start: int = 0) -> None:
        self.folder = folder
        self._segment_size = segment_size
        self._fd = -1
        self._rolled: list[int] = []
        self._unsynced_names = False
        self._keep_rolled = False
        self._lock = threading.Lock()
        self._segments, self._misplaced = _load(folder)
        self._end = self._segments[-1].start + self._segments[-1].size if self._segments else start

    @property
    def start(self) -> int:
        return self._segments[0].start if self._segments else self._end

    @property
    def end(self) -> int:
        return self._end

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(s.size for s in self._segments)

    def modified(self) -> float:
        """When the last byte was written, in seconds since the epoch; 0 where there is none."""
        return self._segments[-1].path.stat().st_mtime if self._segments else 0.0

    def keep_for_sync(self) -> None:
        """Keep rolled segments open until `sync` made them durable; call before the first append."""
        self._keep_rolled = True

    def append(self, data: bytes) -> int:
        """Write whole frames in one write(2) and return the end after them. A failed write leaves nothing behind."""
        if self._fd < 0 or self._segments[-1].size >= self._segment_size:
            self._roll()
        segment, total = self._segments[-1], len(data)
        try:
            written = os.write(self._fd, data)
            while written < total:  # interrupted, or the disk is nearly full: the next write says which
                written += os.write(self._fd, memoryview(data)[written:])
        except OSError:
            self._cut(segment)
            raise
        segment.size += total
        self._end += total
        return self._end

    def roll(self) -> None:
        """Begin a new segment with the next append."""
        if self._fd >= 0 and self._segments[-1].size:
            self._put_away()

    def read(self, offset: int, max_bytes: int, end: int | None = None) -> bytes:
        """Whole frames from `offset`, at most `max_bytes` of them but always one; empty at the end.

        `end` may be nearer than the journal's. Never more than the rest of one segment. ValueError for an offset
        that was dropped or lies beyond the end; CorruptFrameError where the disk returned what never was written.
        """
        end = self._end if end is None else end
        if offset == end:
            return b""
        segments = self._segments
        at = bisect_right(segments, offset, key=lambda s: s.start) - 1
        if at < 0 or offset > end:
            raise ValueError(f"journal {self.folder.name} holds offsets {self.start} to {end}, not {offset}")
        segment = segments[at]
        position, left = offset - segment.start, min(segment.size, end - segment.start) - (offset - segment.start)
        with segment.path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), min(max_bytes, left), position)
            if len(data) >= frames.HEADER_SIZE and (needed := frames.frame_size(data)) > len(data):
                data = os.pread(file.fileno(), min(needed, left), position)
        return data[: frames.whole(data)]

    def sync(self) -> int:
        """fdatasync; the offset up to which every byte is durable now."""
        with self._lock:
            target, rolled, current, names = self._end, self._rolled[:], self._fd, self._unsynced_names
            self._unsynced_names = False
        try:
            for fd in rolled:
                os.fdatasync(fd)
            if current >= 0:
                os.fdatasync(current)
            if names:
                sync_folder(self.folder)
        except OSError:
            self._unsynced_names = self._unsynced_names or names
            raise
        with self._lock:
            del self._rolled[: len(rolled)]
        for fd in rolled:
            os.close(fd)
        return target

    def drop(self, before: int, *, last_too: bool = False) -> int:
        """Delete segments that lie wholly before the offset, and return the bytes freed. The last one stays unless
        asked for: its name and size say where the journal ends."""
        freed = 0
        with self._lock:
            while len(self._segments) > (0 if last_too else 1):
                first = self._segments[0]
                if first.start + first.size > before:
                    break
                first.path.unlink(missing_ok=True)
                self._segments = self._segments[1:]
                freed += first.size
        return freed

    def recover(self, *, synced: bool) -> list[Path]:
        """Cut what a dead writer left unfinished: a torn last frame, or what a power cut left behind a bad one.

        `synced`: the writer synced each segment before it began the next, so that only the last can be unfinished.
        Segments that cannot follow any more are set aside as `*.corrupt`, and returned: they hold records.
        """
        aside = self._misplaced
        self._misplaced = []
        for at in range(max(len(self._segments) - 1, 0) if synced else 0, len(self._segments)):
            segment = self._segments[at]
            good = _good_prefix(segment)
            if good < segment.size:
                os.truncate(segment.path, good)
                segment.size = good
                aside = [s.path for s in self._segments[at + 1 :]] + aside
                self._segments = self._segments[: at + 1]
                self._end = segment.start + good
                break
        return [path.rename(path.with_suffix(".corrupt")) for path in aside]

    def close(self) -> None:
        for fd in [*self._rolled, self._fd]:
            if fd >= 0:
                os.close(fd)
        self._rolled, self._fd = [], -1

    def remove(self) -> None:
        """Delete the journal. The folder stays where something was set aside in it."""
        self.close()
        self.drop(self._end, last_too=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _roll(self) -> None:
        self._put_away()
        path = self.folder / f"{self._end:020d}{SUFFIX}"
        if not self._segments:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with self._lock:
            self._fd = fd
            self._unsynced_names = True
            if not self._segments or self._segments[-1].path != path:
                self._segments = [*self._segments, Segment(path, self._end, 0)]

    def _put_away(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0 and self._keep_rolled:
                self._rolled.append(fd)
        if fd >= 0 and not self._keep_rolled:
            os.close(fd)

    def _cut(self, segment: Segment) -> None:
        try:
            os.ftruncate(self._fd, segment.size)
        except OSError:
            # What was written of it stays, and the next segment's name says that it does not count (see _load).
            self._put_away()
            if not segment.size:
                segment.path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _load(folder: Path) -> tuple[list[Segment], list[Path]]:
    """The segments that follow one another, and the files that do not because bytes before them are missing."""
    found: list[Segment] = []
    paths = sorted(p for p in folder.glob(f"*{SUFFIX}") if p.stem.isdecimal())
    for at, path in enumerate(paths):
        start = int(path.stem)
        if found:
            last = found[-1]
            if start > last.start + last.size:
                return found, paths[at:]
            last.size = start - last.start  # a failed append may have left bytes that never counted
        found.append(Segment(path, start, path.stat().st_size))
    return found, []


def _good_prefix(segment: Segment) -> int:
    good = 0
    with contextlib.suppress(frames.CorruptFrameError):
        for after, _ in frames.scan(segment.path.read_bytes()[: segment.size]):
            good = after
    return good
