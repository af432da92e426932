"""One Envoy a test, with a scripted worker, on ports of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.dataplane.envoy_process import EnvoyProcess, ScriptedWorker, envoy, free_port, worker


@dataclass
class Gate:
    """Envoy in front of `connections` (YAML by name, without `listen`), one worker behind."""

    run_dir: Path
    connections: dict[str, str]
    ports: dict[str, int] = field(default_factory=dict)
    tls_port: int = field(default_factory=free_port)
    proxy: EnvoyProcess = field(init=False)
    worker: ScriptedWorker = field(init=False)

    @property
    def text(self) -> str:
        lines = ["version: 1", f'gate: {{tls_listen: "127.0.0.1:{self.tls_port}"}}', "connections:"]
        for name, fields in self.connections.items():
            port = self.ports.setdefault(name, free_port())
            lines.append(f'  {name}: {{listen: "127.0.0.1:{port}", {fields}}}')
        return "\n".join(lines)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    async def raw(self, name: str, request: bytes, *, silence: float = 0.4) -> bytes:
        """What comes back for these bytes, until the end or until it is silent this long."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[name])
        writer.write(request)
        got = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while part := await asyncio.wait_for(reader.read(1 << 16), silence):
                got += part
        writer.close()
        return got


@contextlib.asynccontextmanager
async def running(run_dir: Path, **connections: str) -> AsyncIterator[Gate]:
    gate = Gate(run_dir, connections)
    async with worker(run_dir) as gate.worker, envoy(gate.text, run_dir) as gate.proxy:
        yield gate
