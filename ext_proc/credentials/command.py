"""A command that prints the value."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal

from ext_proc.config import SourceExec
from ext_proc.credentials.leases import Lease
from ext_proc.credentials.source import MAX_VALUE, unavailable, without_line_break


class Command:
    """Runs the command for each value, which lasts `lifetime`. Its standard error goes nowhere, as commands tend to
    print there what they were given."""

    def __init__(self, source: SourceExec) -> None:
        self.place = f"exec {source.exec[0]}"
        self.timeout = source.timeout.total_seconds()
        self._command = source.exec
        self._lifetime = source.lifetime.total_seconds()

    async def mint(self, held: Lease | None) -> Lease:  # noqa: ARG002
        return Lease(without_line_break(await self._run()), self._lifetime)

    async def revoke(self, lease: Lease) -> None:
        """A command takes nothing back."""

    def known(self) -> tuple[bytes, ...]:
        return ()

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
                raise unavailable(self.place, f"cannot be started ({error.strerror})") from None
            finally:
                os.close(writing)
            try:
                value = await _read_at_most(output, MAX_VALUE + 1)
                if len(value) > MAX_VALUE:
                    raise unavailable(self.place, f"prints more than {MAX_VALUE >> 10} KiB")
                status = await process.wait()
            except BaseException:  # the end of its time is a cancellation here
                await _end(process)
                raise
        if status != 0:
            raise unavailable(self.place, f"ended with status {status}", http_status=502)
        return value


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
