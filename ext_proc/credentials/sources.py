"""Where a credential's value comes from: the environment, a file, or a command.

No message, log line or repr here holds a value, nor what a command printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ext_proc.config import CredentialSource, SourceEnv, SourceExec, SourceFile
from ext_proc.errors import CredentialError

MAX_VALUE = 64 * 1024

_RETRYABLE = "Try again shortly; the operator of the gate can correct it."


class Source(Protocol):
    place: str
    """For messages: `env DD_KEY`."""

    async def read(self) -> bytes:
        """The value as it is now. CredentialError `credential.unavailable` or `credential.timeout`."""
        ...


def open_source(source: CredentialSource) -> Source:
    match source:
        case SourceEnv():
            return EnvSource(source.env)
        case SourceFile():
            return FileSource(source.file)
        case SourceExec():
            return ExecSource(source)


class EnvSource:
    """An environment variable of this process, looked up each time."""

    def __init__(self, name: str) -> None:
        self.place = f"env {name}"
        self._name = os.fsencode(name)

    async def read(self) -> bytes:
        value = os.environb.get(self._name)
        if value is None:
            raise _unavailable(self.place, "is not set")
        return value


class FileSource:
    """A regular file, read again when it, or what its symbolic link points to, changes (Kubernetes swaps the link)."""

    def __init__(self, path: str) -> None:
        self.place = f"file {path}"
        self._path = Path(path)
        self._stamp: tuple[int, ...] = ()
        self._value = b""

    async def read(self) -> bytes:
        try:
            stamp = _stamp(self._path.stat())
            if stamp != self._stamp:
                self._value, self._stamp = self._load()
        except OSError as error:
            self._stamp = ()
            raise _unavailable(self.place, f"cannot be read ({error.strerror or type(error).__name__})") from None
        return self._value

    def _load(self) -> tuple[bytes, tuple[int, ...]]:
        # Non-blocking, so that a FIFO in the file's place cannot stop the worker.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _unavailable(self.place, "is not a regular file")
            value = file.read(MAX_VALUE + 1)
        if len(value) > MAX_VALUE:
            raise _unavailable(self.place, f"is larger than {MAX_VALUE >> 10} KiB")
        return _without_line_break(value), _stamp(status)


class ExecSource:
    """A command that prints the value. One run at a time serves all who wait; a printed value lasts `lifetime`.

    A run that fails is not remembered: the next request tries again. Its standard error goes nowhere, as commands
    tend to print there what they were given.
    """

    def __init__(self, source: SourceExec, clock: Callable[[], float] = time.monotonic) -> None:
        self.place = f"exec {source.exec[0]}"
        self._command = source.exec
        self._timeout = source.timeout.total_seconds()
        self._lifetime = source.lifetime.total_seconds()
        self._clock = clock
        self._value = b""
        self._until = float("-inf")
        self._running: asyncio.Task[bytes] | None = None

    async def read(self) -> bytes:
        if self._clock() < self._until:
            return self._value
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._refresh())
            self._running.add_done_callback(_retrieved)
        # A request that leaves does not end the run for the others.
        return await asyncio.shield(self._running)

    async def _refresh(self) -> bytes:
        try:
            began = self._clock()
            self._value = _without_line_break(await self._run())
            self._until = began + self._lifetime
            return self._value
        finally:
            self._running = None

    async def _run(self) -> bytes:
        # A pipe of our own: asyncio's would stay open as long as anything the command started holds its other end.
        reading, writing = os.pipe2(os.O_CLOEXEC)
        with os.fdopen(reading, "rb", buffering=0) as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=writing,
                    stderr=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                raise _unavailable(self.place, f"cannot be started ({error.strerror})") from None
            finally:
                os.close(writing)
            try:
                async with asyncio.timeout(self._timeout):
                    value = await _read_at_most(output, MAX_VALUE + 1)
                    if len(value) > MAX_VALUE:
                        raise _unavailable(self.place, f"prints more than {MAX_VALUE >> 10} KiB")
                    status = await process.wait()
            except BaseException as error:
                await _end(process)
                if not isinstance(error, TimeoutError):
                    raise
                raise self._timed_out() from None
        if status != 0:
            raise _unavailable(self.place, f"ended with status {status}", http_status=502)
        return value

    def _timed_out(self) -> CredentialError:
        return CredentialError(
            "credential.timeout",
            f"{self.place} took more than {self._timeout:g} s",
            remedy=_RETRYABLE,
            retryable=True,
        )


async def _read_at_most(output: io.FileIO, limit: int) -> bytes:
    """What a pipe yields until its end, or `limit` bytes of it."""
    stream = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(stream)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, output)
    try:
        value = b""
        while len(value) < limit and (chunk := await stream.read(limit - len(value))):
            value += chunk
        return value
    finally:
        transport.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the command with all that it started; it has not ended by itself."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _retrieved(task: asyncio.Task[bytes]) -> None:
    """Where every waiter left, nobody else would look at the failure."""
    if not task.cancelled():
        task.exception()


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _without_line_break(value: bytes) -> bytes:
    return value.removesuffix(b"\n").removesuffix(b"\r")


def _unavailable(place: str, why: str, http_status: int = 503) -> CredentialError:
    return CredentialError(
        "credential.unavailable", f"{place} {why}", remedy=_RETRYABLE, http_status=http_status, retryable=True
    )
