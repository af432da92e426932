"""The hub's HTTP listeners: the console for people and probes, and the operator's own socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ext_proc.hub.approvals import Approvals, Origins, api, local, page
from ext_proc.hub.approvals.sign_in import SignedIn
from ext_proc.hub.console import Condition, Console, address, application, bind

if TYPE_CHECKING:
    from ext_proc.config import Config


class Faces:
    """`run` them until cancelled. HubError `console.listen`, `hub.listen` when made."""

    def __init__(self, config: Config, approvals: Approvals, conditions: Mapping[str, Condition]) -> None:
        self._signed_in = SignedIn(config.approvals.sign_in)
        origins = Origins(config.console.listen, config.console.url)
        for_people = [*api.routes(approvals, self._signed_in, origins), self._signed_in.route(origins)]
        self._consoles = [
            Console(application(conditions, [*for_people, page.route(origins, address(config.console))])),
            Console(
                application(conditions, api.routes(approvals, local.local_operator, Origins(None, None))),
                http=local.PeerProtocol,
            ),
        ]
        self._sockets: list[socket.socket] = [bind(config.console.listen)]
        try:
            self._sockets.append(local.bind(Path(config.gate.run_dir)))
        except BaseException:
            self._sockets[0].close()
            raise

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for console, listener in zip(self._consoles, self._sockets, strict=True):
                group.create_task(console.serve([listener]))

    def stop(self) -> None:
        """Let what is being answered be answered."""
        for console in self._consoles:
            console.stop()

    async def close(self) -> None:
        await self._signed_in.close()
