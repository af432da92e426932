"""Envoy as the supervisor runs it: files before it starts, reloads while it runs, a drain before it stops."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ext_proc.supervisor import probes
from ext_proc.xds.admin import Admin, AdminError
from ext_proc.xds.ca import CertificateAuthority
from ext_proc.xds.envoy import Envoy
from ext_proc.xds.files import Files
from ext_proc.xds.resources import build
from ext_proc.xds.rollout import apply, confirm

if TYPE_CHECKING:
    from ext_proc.config import Loaded

log = logging.getLogger("douane.supervisor")

DRAIN_POLL_S = 0.1
SOCKET = "admin.sock"


class EnvoySupervision:
    """One Envoy of one run folder. The CA's key lives in this object, and so as long as the supervisor."""

    def __init__(self, loaded: Loaded) -> None:
        """ConfigError envoy.missing or envoy.version when there is none that can be used."""
        self._loaded = loaded
        run_dir = Path(loaded.config.gate.run_dir)
        self._admin = Admin(run_dir / SOCKET)
        self._address = f"unix:{run_dir / SOCKET}"
        self._files = Files(run_dir, CertificateAuthority())
        self._envoy = Envoy.find()
        self.command = tuple(self._envoy.command(concurrency=max(1, loaded.config.gate.workers)))

    async def prepare(self) -> None:
        """Validate, and write what Envoy reads when it starts."""
        await self.validate(self._loaded)
        await asyncio.to_thread(self._files.install, build(self._loaded.config))

    async def ready(self) -> bool:
        return await self._admin.ready()

    async def confirm(self) -> None:
        """After the start: ConfigError when Envoy does not serve what `prepare` wrote."""
        await confirm(build(self._loaded.config), self._files, self._admin)

    async def validate(self, loaded: Loaded) -> None:
        await asyncio.to_thread(self._envoy.validate, loaded.config)

    async def apply(self, loaded: Loaded) -> None:
        await apply(build(loaded.config), self._files, self._admin)

    async def drain(self, seconds: float) -> None:
        """Take no new connections, ask clients to close theirs, and wait until no request is open or time is up."""
        deadline = time.monotonic() + seconds
        try:
            await self._admin.drain()
            # The drain above leaves the ports open; this closes them. What is connected goes on.
            await probes.http_answers(self._address, "POST", "/drain_listeners")
            while (active := await self._active()) and time.monotonic() < deadline:  # noqa: ASYNC110 (Envoy's state)
                await asyncio.sleep(DRAIN_POLL_S)
        except AdminError as error:
            log.warning("Envoy is away and cannot be drained: %s", error.message)
            return
        if active:
            log.warning("%d requests were still open after %g s and are cut", active, seconds)

    async def _active(self) -> int:
        # One per listener's connection manager; the admin's own request is counted under http.admin.
        found = await self._admin.stats(r"^http\..*\.downstream_rq_active$")
        return sum(value for name, value in found.items() if not name.startswith("http.admin."))
