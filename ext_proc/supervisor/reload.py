"""A changed douane.yaml, taken everywhere or nowhere.

1. The text is read and checked. 2. What only a restart can change must be unchanged. 3. Envoy validates what it would
get. 4. Every worker takes it. 5. Envoy takes it. When 4 or 5 is refused, those that had taken it get the former text
back. Whatever happens is logged and nothing is raised: what runs keeps running.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ext_proc.config import ConfigErrors, Loaded, load
from ext_proc.errors import ConfigError, DouaneError
from ext_proc.supervisor import control

if TYPE_CHECKING:
    from pydantic import BaseModel

log = logging.getLogger("douane.reload")

POLL_S = 1.0

# What is fixed when a process starts. Everything else is taken while traffic flows.
_FIXED = (
    ("store", "*"),
    ("console", "*"),
    ("hub", "*"),
    ("approvals", "*"),
    ("gate", "name workers run_dir health_listen drain"),
    ("recording", "durability retention spool seal_key"),
    ("masking", "fingerprint_key"),
)


class EnvoySide(Protocol):
    """What a reload needs of Envoy. Both raise ConfigError; `apply` then has restored what was before."""

    async def validate(self, loaded: Loaded) -> None: ...
    async def apply(self, loaded: Loaded) -> None: ...


class Reloader:
    """`current` is the configuration that everything runs with, kept in `snapshot` for children that start again."""

    def __init__(self, current: Loaded, snapshot: Path, workers: Sequence[Path], envoy: EnvoySide | None) -> None:
        self.current = current
        self.applied = 0  # how many reloads were taken
        self._snapshot = snapshot
        self._workers = workers
        self._envoy = envoy
        self._busy = asyncio.Lock()
        write_snapshot(snapshot, current)

    async def reload(self, *, force: bool = False) -> bool:
        """True when the file's text is now current. `force` applies it again even if the text is the same."""
        async with self._busy:
            try:
                changed = await asyncio.to_thread(load, self.current.path)
                if changed.digest == self.current.digest and not force:
                    return True
                refuse_fixed(self.current, changed)
                if self._envoy is not None:
                    await self._envoy.validate(changed)
                await self._take(changed)
            except DouaneError as error:
                for one in error.errors if isinstance(error, ConfigErrors) else (error,):
                    log.error("configuration refused, the former one stays: %s", one, extra={"reason": one.reason})
                return False
            except Exception:
                log.exception("configuration refused, the former one stays")
                return False
            self.current = changed
            self.applied += 1
            write_snapshot(self._snapshot, changed)
            log.info("configuration applied", extra={"digest": changed.digest})
            return True

    async def bring_up_to_date(self, worker: Path) -> bool:
        """For a worker that just started: it read the snapshot, and a reload may have overtaken it."""
        async with self._busy:
            try:
                return self.applied == 0 or await control.apply(worker, self.current)
            except ConfigError as error:
                log.error("a worker refused the current configuration: %s", error)
                return False

    async def _take(self, changed: Loaded) -> None:
        taken: list[Path] = []
        try:
            for worker in self._workers:
                taken.append(worker)  # also one that fails half way gets the former text back
                if not await control.apply(worker, changed):
                    log.warning("%s is away; it takes the configuration when it starts", worker.name)
            if self._envoy is not None:
                await self._envoy.apply(changed)
        except BaseException:
            for worker in taken:
                try:
                    await control.apply(worker, self.current)
                except DouaneError as error:
                    log.error("%s did not take the former configuration back: %s", worker.name, error)
            raise


def refuse_fixed(current: Loaded, changed: Loaded) -> None:
    """ConfigErrors config.needs_restart for each changed field that a running installation cannot change."""
    errors = []
    for section, names in _FIXED:
        was: BaseModel = getattr(current.config, section)
        now: BaseModel = getattr(changed.config, section)
        fields = type(was).model_fields if names == "*" else names.split()
        for field in fields:
            if getattr(was, field) != getattr(now, field):
                key = type(was).model_fields[field].alias or field
                errors.append(
                    ConfigError(
                        "config.needs_restart",
                        f"{section}.{key}: cannot change while douane runs",
                        where=changed.where(section, key),
                        remedy="Take the change back, or stop douane and start it again.",
                    )
                )
    if errors:
        raise ConfigErrors(errors)


def write_snapshot(path: Path, loaded: Loaded) -> None:
    """Replace the snapshot at once; readers see the former or the new text."""
    made = path.with_suffix(".new")
    made.write_text(loaded.text, encoding="utf-8", newline="\n")
    made.replace(path)


async def watch(path: Path, changed: Callable[[], Awaitable[object]], poll_s: float = POLL_S) -> None:
    """Call `changed` at once, for what was written since the file was read, and then whenever its time, size or inode
    changed and then stood still for one poll. Runs until cancelled. Polling, because it also sees what no inotify
    does: mounted config maps and network folders."""
    known = seen = _signature(path)
    await changed()
    while True:
        await asyncio.sleep(poll_s)
        now = _signature(path)
        if now != known and now == seen and now is not None:
            known = now
            await changed()
        seen = now


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
