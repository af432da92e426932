"""Journals whose worker is dead. They stay until the hub has all of them."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path
from uuid import UUID

from ext_proc.spool.files import JournalFiles
from ext_proc.spool.space import refusal

log = logging.getLogger(__name__)

_OWNER_LEAVES_WITHIN_S = 3.0


class SlotLock:
    """Owning a slot: a worker that is gone gave it up, however it died."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, folder: Path, *, wait_s: float | None = None) -> SlotLock:
        """RecordError when another process keeps the slot for longer than `wait_s` (3 s: it may be on its way out)."""
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_up = time.monotonic() + (_OWNER_LEAVES_WITHIN_S if wait_s is None else wait_s)
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    os.close(fd)
                    raise refusal(
                        f"another process owns {folder.name} of the spool",
                        "Stop it, or give this gate a recording.spool.path of its own.",
                        detail=str(folder),
                    ) from None
                time.sleep(0.02)
            else:
                return cls(fd)

    def release(self) -> None:
        os.close(self._fd)


class Leftover:
    """A dead worker's journal. Its end is unknown until `recover` was called."""

    sealed = True

    def __init__(self, folder: Path, slot: int) -> None:
        self.slot = slot
        self.journal = folder.name
        self._files = JournalFiles(folder)
        self._recovered = False

    @property
    def start(self) -> int:
        return self._files.start

    @property
    def end(self) -> int:
        return self._files.end

    @property
    def size(self) -> int:
        return self._files.size

    def modified(self) -> float:
        return self._files.modified()

    def recover(self) -> None:
        """Cut the torn tail, once. Blocking; reads the whole journal."""
        if self._recovered:
            return
        for path in self._files.recover(synced=False):
            log.error("records after a damaged place of a journal cannot be shipped; kept in %s", path)
        self._recovered = True

    def read(self, offset: int, max_bytes: int) -> bytes:
        return self._files.read(offset, max_bytes)

    def drop(self, before: int) -> int:
        """Delete segments that the hub has; the bytes freed."""
        return self._files.drop(before)

    def remove(self) -> None:
        self._files.remove()


def leftovers(slot_folder: Path, slot: int) -> list[Leftover]:
    """The journals below a slot's folder, oldest first."""
    found = [Leftover(p, slot) for p in slot_folder.iterdir() if p.is_dir() and _is_uuid(p.name)]
    return sorted(found, key=Leftover.modified)


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
