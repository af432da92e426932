"""Envoy's admin interface, over its unix socket.

Source: Envoy's documentation, "Administration interface" (/ready, /stats?format=json, /config_dump, /drain_listeners).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ext_proc.errors import DouaneError

_TIMEOUT_S = 5.0
_MAX_ANSWER = 64 << 20


class AdminError(DouaneError):
    """Envoy's admin interface is away or answered with an error. `envoy.away`."""

    default_status = 503


@dataclass(frozen=True, slots=True)
class Admin:
    """A client for the socket at `path`; each call is a connection of its own."""

    path: Path

    async def ready(self) -> bool:
        """Whether Envoy serves: its first configuration is in, and its listeners' workers run."""
        try:
            status, _ = await self._request("GET", "/ready")
        except AdminError:
            return False
        return status == 200

    async def stats(self, prefix: str = "") -> dict[str, int | str]:
        """Counters, gauges and text readouts whose name begins with `prefix`, those never touched included."""
        expression = "^" + prefix.replace(".", "\\.")
        body = await self._ok("GET", f"/stats?format=json&filter={quote(expression)}")
        return {stat["name"]: stat["value"] for stat in json.loads(body)["stats"] if "value" in stat}

    async def text_readouts(self, prefix: str = "") -> dict[str, str]:
        expression = "^" + prefix.replace(".", "\\.")
        body = await self._ok("GET", f"/stats?format=json&type=TextReadouts&filter={quote(expression)}")
        return {stat["name"]: stat["value"] for stat in json.loads(body)["stats"] if "value" in stat}

    async def config_dump(self) -> Any:
        return json.loads(await self._ok("GET", "/config_dump"))

    async def drain(self) -> None:
        """Ask clients to go: `connection: close` or GOAWAY from now on; open exchanges go on. Ports stay open."""
        await self._ok("POST", "/drain_listeners?graceful&skip_exit")

    async def _ok(self, method: str, target: str) -> bytes:
        status, body = await self._request(method, target)
        if status != 200:
            raise AdminError("envoy.away", f"Envoy's admin interface answered {status} to {target}")
        return body

    async def _request(self, method: str, target: str) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self.path, limit=_MAX_ANSWER)
                try:
                    return await _exchange(reader, writer, method, target)
                finally:
                    writer.close()
        except (OSError, ValueError, EOFError, TimeoutError) as error:
            raise AdminError(
                "envoy.away", "Envoy's admin interface does not answer", detail=f"{self.path}: {error!r}"
            ) from error


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, target: str
) -> tuple[int, bytes]:
    """One HTTP/1.1 exchange. `Connection: close` makes the body end with the stream; Envoy still sends it chunked."""
    head = f"{method} {target} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    writer.write(head.encode())
    await writer.drain()
    answer = await reader.readuntil(b"\r\n\r\n")
    status = int(answer.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" not in answer.lower():
        return status, await reader.read(-1)
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    return status, bytes(body)
