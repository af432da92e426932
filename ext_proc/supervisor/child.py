"""One process: started, watched, started again when it dies, stopped within a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ext_proc.errors import DouaneError

log = logging.getLogger("douane.supervisor")

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 10.0
STEADY_S = 30.0  # one that lived this long starts again without delay
START_ATTEMPTS = 3
READY_POLL_S = 0.05
LOG_MAX_BYTES = 16 << 20
_SPAWN = str(Path(__file__).with_name("spawn.py"))


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run. `ready` is asked until it says yes. `environment` is all the child sees; `repr` hides it."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    cwd: Path
    log: Path
    ready: Callable[[], Awaitable[bool]]


class Child:
    """A process that is kept alive from `start` until `stop`.

    `state` is one of: new, starting, ready, backoff, stopped.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.state = "new"
        self.restarts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._stopping = False
        self._deaths = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self, deadline_s: float) -> None:
        """Return when it is ready. DouaneError supervisor.child_failed, with the end of its log, when it never is."""
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.spec.name}")
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({ready, self._keeper}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if not self._ready.is_set():
            died = f"died {self._deaths} times" if self._deaths else f"was not ready within {deadline_s:g} s"
            await self.stop(0.0)
            raise DouaneError(
                "supervisor.child_failed",
                f"{self.spec.name} {died} while starting",
                remedy=f"Its log is {self.spec.log}; the end of it: {tail(self.spec.log) or '(empty)'}",
            )

    async def stop(self, deadline_s: float) -> bool:
        """SIGTERM, and SIGKILL after the deadline. True when it went by itself. Waits until it is gone."""
        self._stopping = True
        clean = True
        process = self._process
        if process is not None and process.returncode is None:
            if deadline_s > 0:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), deadline_s)
            if process.returncode is None:
                clean = False
                log.warning("%s did not stop within %.0f s and is killed", self.spec.name, deadline_s)
                _kill_group(process)
                await process.wait()
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        self.state = "stopped"
        return clean

    def kill(self) -> None:
        """SIGKILL at once; `stop` still has to be awaited."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            _kill_group(self._process)

    async def _keep(self) -> None:
        delay = BACKOFF_FIRST_S
        while True:
            began = time.monotonic()
            code = await self._run_once()
            if self._stopping:
                return
            was_ready, self.state = self.state == "ready", "backoff"
            self._deaths += 1
            if not self._ready.is_set() and self._deaths >= START_ATTEMPTS:
                return  # never came up: `start` reports it
            if time.monotonic() - began > STEADY_S:
                delay = BACKOFF_FIRST_S
            log.error(
                "%s %s%s; starting it again in %.1f s",
                self.spec.name,
                describe_exit(code),
                "" if was_ready else " before it was ready",
                delay,
                extra={"log": str(self.spec.log)},
            )
            await asyncio.sleep(delay)
            delay = min(delay * 2, BACKOFF_MAX_S)
            self.restarts += 1

    async def _run_once(self) -> int:
        self.state = "starting"
        with open_log(self.spec.log) as output:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", _SPAWN, str(os.getpid()), *self.spec.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self.spec.environment),
                cwd=self.spec.cwd,
                process_group=0,  # a terminal's Ctrl-C is for the supervisor alone
            )
        if self._stopping:
            _kill_group(process)
        polling = asyncio.create_task(self._poll_ready())
        try:
            return await process.wait()
        finally:
            polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await polling

    async def _poll_ready(self) -> None:
        while not await self.spec.ready():  # noqa: ASYNC110 (another process's state has no event)
            await asyncio.sleep(READY_POLL_S)
        self.state = "ready"
        self._ready.set()
        log.info("%s is ready", self.spec.name, extra={"child": self.pid})


def open_log(path: Path) -> IO[bytes]:
    """For appending, private; one former log is kept when it has grown large."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and path.stat().st_size > LOG_MAX_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log, for an error message."""
    with contextlib.suppress(OSError):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            text = file.read().decode(errors="replace")
        return "\n" + "\n".join(text.splitlines()[-lines:]) if text.strip() else ""
    return ""


def describe_exit(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _kill_group(process: asyncio.subprocess.Process) -> None:
    """The child and whatever it started. Only before it is reaped: afterwards its id may be another's."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
