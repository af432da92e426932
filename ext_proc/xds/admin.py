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

    async def stats(self, pattern: str = "") -> dict[str, int]:
        """Counters and gauges whose name has a match of this regular expression (RE2)."""
        return {name: value for name, value in (await self._stats(pattern)).items() if isinstance(value, int)}

    async def versions(self) -> dict[str, str]:
        """The `version_text` of every resource file that Envoy took, by the statistic's name."""
        found = await self._stats(r"\.version_text$", "&type=TextReadouts")
        return {name: value for name, value in found.items() if isinstance(value, str)}

    async def rejections(self) -> dict[str, int]:
        """How often Envoy refused each watched file, or could not open a listener's port: counters that only grow."""
        return await self.stats(r"((cds|lds|\.rds\..*)\.update_(rejected|failure)|\.listener_create_failure)$")

    async def warming(self) -> bool:
        """Whether a cluster waits for its first address, or a listener for its routes."""
        gauges = await self.stats(r"^(cluster_manager\.warming_clusters|listener_manager\.total_listeners_warming)$")
        return any(gauges.values())

    async def _stats(self, pattern: str, more: str = "") -> dict[str, int | str]:
        body = await self._ok("GET", f"/stats?format=json{more}&filter={quote(pattern, safe='')}")
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
