"""Is it there yet? Each probe answers within half a second and never raises."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ext_proc.config.addresses import split_listen

PROBE_S = 0.5


async def accepts(address: str) -> bool:
    """Whether `unix:PATH` or `HOST:PORT` takes connections."""
    return await _ask(address, b"") is not None


async def http_ok(listen: str, path: str) -> bool:
    """Whether `GET path` on `HOST:PORT` answers 200."""
    answer = await _ask(listen, f"GET {path} HTTP/1.0\r\nHost: {listen}\r\n\r\n".encode())
    return answer is not None and answer.split(b" ", 2)[1:2] == [b"200"]


async def http_answers(address: str, method: str, path: str) -> bool:
    """Whether a request without a body gets an answer that is no error."""
    answer = await _ask(address, f"{method} {path} HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\n\r\n".encode())
    return answer is not None and answer.split(b" ", 2)[1:2] == [b"200"]


async def _ask(address: str, request: bytes) -> bytes | None:
    try:
        async with asyncio.timeout(PROBE_S):
            if address.startswith("unix:"):
                reader, writer = await asyncio.open_unix_connection(Path(address.removeprefix("unix:")))
            else:
                host, port = split_listen(address)
                everything = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (bound by others, reached here)
                reader, writer = await asyncio.open_connection(everything.get(host, host), port)
            try:
                if not request:
                    return b""
                writer.write(request)
                await writer.drain()
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
