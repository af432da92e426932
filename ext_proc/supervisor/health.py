"""Whether traffic can flow: told to the hub's console in a file, and to probes of a gate alone over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ext_proc.config.addresses import split_listen

if TYPE_CHECKING:
    from ext_proc.supervisor.group import Group

STATE_FILE = "state.json"
POLL_S = 0.2


def state(group: Group) -> dict[str, object]:
    """`{"ready", "supervisor", "children": {name: {"state", "pid", "restarts"}}}`."""
    return {
        "ready": group.ready,
        "supervisor": os.getpid(),
        "children": {c.spec.name: {"state": c.state, "pid": c.pid, "restarts": c.restarts} for c in group.children},
    }


def read_state(run_dir: Path) -> dict[str, object] | None:
    """What the supervisor of this run folder last wrote, or None when none did. It dies with its children, so what a
    child of it reads is at most a moment old."""
    with suppress(OSError, ValueError):
        found: dict[str, object] = json.loads((run_dir / STATE_FILE).read_text())
        return found
    return None


async def publish(group: Group, run_dir: Path) -> None:
    """Keep the state file up to date. Runs until cancelled, and then removes it."""
    path, written = run_dir / STATE_FILE, None
    try:
        while True:
            now = state(group)
            if now != written:
                made = path.with_suffix(".new")
                made.write_text(json.dumps(now))
                made.replace(path)
                written = now
            await asyncio.sleep(POLL_S)
    finally:
        path.unlink(missing_ok=True)


async def serve(group: Group, listen: str) -> asyncio.Server:
    """`/readyz` (200 once traffic can flow, 503 before) and `/healthz` on HOST:PORT."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(5):
                words = (await reader.readline()).split()
                while (await reader.readline()).strip():
                    pass
                path = words[1].partition(b"?")[0] if len(words) == 3 else b""
                found = {b"/readyz": 200 if group.ready else 503, b"/healthz": 200}.get(path, 404)
                body = json.dumps(state(group) if found != 404 else {"reason": "not_found"}).encode()
                writer.write(
                    b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                    b"connection: close\r\n\r\n" % (found, b"OK" if found == 200 else b"No", len(body))
                )
                writer.write(body)
                await writer.drain()
        writer.close()

    host, port = split_listen(listen)
    return await asyncio.start_server(answer, host, port, limit=8192)
