"""`douane up`, `gate` and `hub`: from a configuration to running processes and back to none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING

from ext_proc import telemetry
from ext_proc.config import Loaded, load
from ext_proc.errors import DouaneError
from ext_proc.supervisor import health, plan
from ext_proc.supervisor.environment import Environments, handed_over, named_secrets, take_over
from ext_proc.supervisor.folder import Lock, check_socket_paths, private_folder, remove_stale_sockets
from ext_proc.supervisor.group import Group
from ext_proc.supervisor.ports import check_ports
from ext_proc.supervisor.privacy import protect_memory
from ext_proc.supervisor.reload import Reloader, watch

if TYPE_CHECKING:
    from ext_proc.supervisor.child import Child
    from ext_proc.supervisor.envoy import EnvoySupervision

log = logging.getLogger("douane.supervisor")


def run(
    path: Path,
    role: plan.Role,
    *,
    check: Callable[[Loaded], None] = lambda _: None,
    on_ready: Callable[[Loaded], None] = lambda _: None,
) -> int:
    """Start everything, say so through `on_ready`, and return when stopped by a signal: 0, or 1 when something had to
    be killed. DouaneError when it cannot start. The first call of a process may start the process again (same id),
    with its environment out of sight, see `environment`; `check` runs before that, so what it imports is gone."""
    loaded = load(path.absolute())
    if not handed_over():
        check(loaded)
    environments = take_over(loaded.config)
    protect_memory()
    telemetry.hide(environments.everything.get(name, "") for name in named_secrets(loaded.config))
    where = plan.place(loaded.config, role)
    locks = [Lock(folder) for folder in _folders(loaded, role)]
    remove_stale_sockets(where.folder)
    check_ports(loaded, role)
    telemetry.configure(telemetry.to_terminal(), telemetry.to_file(where.log("supervisor")))
    try:
        return asyncio.run(_Supervision(loaded, role, environments).run(on_ready))
    finally:
        for lock in locks:
            lock.release()


def _folders(loaded: Loaded, role: plan.Role) -> list[Path]:
    config = loaded.config
    folders = []
    if role in ("up", "gate"):
        check_socket_paths(config)
        folders.append(private_folder(Path(config.gate.run_dir), "gate.run_dir"))
        private_folder(Path(config.recording.spool.path), "recording.spool.path")
    if role in ("up", "hub"):
        folders.append(private_folder(Path(config.hub.path), "hub.path"))
        if config.hub.listen.startswith("unix:"):
            private_folder(Path(config.hub.listen.removeprefix("unix:")).parent, "the folder of hub.listen")
    return list(dict.fromkeys(folders))


class _Supervision:
    def __init__(self, loaded: Loaded, role: plan.Role, environments: Environments) -> None:
        self._loaded = loaded
        self._role = role
        self._config = loaded.config
        self._where = plan.place(loaded.config, role)
        self._envoy: EnvoySupervision | None = None
        workers: list[Path] = []
        if role in ("up", "gate"):
            from ext_proc.supervisor.envoy import EnvoySupervision

            self._envoy = EnvoySupervision(loaded)
            workers = plan.worker_sockets(loaded.config)
        self._reloader = Reloader(loaded, self._where.snapshot, workers, self._envoy)
        self._group = Group(plan.stages(loaded, role, environments, self._envoy, self._reloader.bring_up_to_date))
        self._group.confirmed = self._envoy is None
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(self, on_ready: Callable[[Loaded], None]) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reloader.reload(force=True)))
        async with contextlib.AsyncExitStack() as stack:
            if self._role == "gate" and self._config.gate.health_listen is not None:
                server = await health.serve(self._group, self._config.gate.health_listen)
                stack.callback(server.close)
            self._spawn(health.publish(self._group, self._where.folder))
            try:
                if self._envoy is not None:
                    await self._envoy.prepare()
                starting = asyncio.ensure_future(self._group.start())
                stopping = asyncio.ensure_future(self._stop.wait())
                await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not starting.done():
                    starting.cancel()
                    await asyncio.gather(starting, return_exceptions=True)
                    return 0
                stopping.cancel()
                starting.result()
                if self._envoy is not None:
                    await self._confirm_envoy(self._envoy)
                on_ready(self._loaded)
                self._spawn(watch(self._loaded.path, self._reloader.reload))
                await self._stop.wait()
                return 0 if await self._group.stop(self._stop_within, self._drain) else 1
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _confirm_envoy(self, envoy: EnvoySupervision) -> None:
        try:
            await envoy.confirm()
            self._group.confirmed = True
        except DouaneError:
            await self._group.stop(lambda _: 2.0)
            raise

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            log.warning("asked again to stop: not waiting any longer")
            self._group.hurry()
            return
        log.info("stopping; open exchanges get %g s", self._config.gate.drain.total_seconds())
        self._stop.set()

    def _stop_within(self, child: Child) -> float:
        return plan.stop_within(self._config, child)

    async def _drain(self) -> None:
        if self._envoy is not None:
            await self._envoy.drain(self._config.gate.drain.total_seconds())

    def _spawn(self, work: Coroutine[object, object, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the supervisor failed", exc_info=error)
