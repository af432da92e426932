"""Which processes a role consists of, in the order in which they start."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from ext_proc.supervisor import probes
from ext_proc.supervisor.child import Child, Spec

if TYPE_CHECKING:
    from ext_proc.config import Config, Loaded
    from ext_proc.supervisor.environment import Environments

Role = Literal["up", "gate", "hub"]
WORKER_MARGIN_S = 8.0
HUB_MIN_S = 10.0
STORE_S = 15.0
ENVOY_S = 5.0


class EnvoyProgram(Protocol):
    """What the plan needs of Envoy's side."""

    command: tuple[str, ...]

    async def ready(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a role's supervisor keeps its things: `snapshot` and `logs/` are in `folder`."""

    folder: Path

    @property
    def snapshot(self) -> Path:
        return self.folder / "current.yaml"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"


def place(config: Config, role: Role) -> Place:
    return Place(Path(config.hub.path if role == "hub" else config.gate.run_dir))


def worker_sockets(config: Config) -> list[Path]:
    from ext_proc.xds.naming import worker_socket

    return [Path(config.gate.run_dir) / worker_socket(slot) for slot in range(config.gate.workers)]


def stages(
    loaded: Loaded,
    role: Role,
    environments: Environments,
    envoy: EnvoyProgram | None,
    worker_ready: Callable[[Path], Awaitable[bool]],
) -> list[list[Child]]:
    """Store (only if embedded), hub, workers, Envoy: as far as the role has them."""
    config, where = loaded.config, place(loaded.config, role)

    def child(
        name: str, command: tuple[str, ...], env: Mapping[str, str], cwd: Path, ready: Callable[[], Awaitable[bool]]
    ) -> Child:
        return Child(Spec(name, command, env, cwd, where.log(name), ready))

    def ours(*arguments: str) -> tuple[str, ...]:
        # -P: a file beside douane.yaml must not stand in for a module
        program = (sys.executable, "-P", "-m", "ext_proc.app")
        return (*program, *arguments, "-c", str(loaded.path), "--snapshot", str(where.snapshot))

    folder = loaded.path.parent
    out: list[list[Child]] = []
    if role in ("up", "hub"):
        if config.store.url.startswith("embedded:"):
            listen = config.store.listen
            out.append(
                [
                    child(
                        "store",
                        ours("store"),
                        environments.for_others(),
                        folder,
                        lambda: probes.http_ok(listen, "/ping"),
                    )
                ]
            )
        out.append(
            [child("hub", ours("hub"), environments.for_hub(config), folder, lambda: probes.accepts(config.hub.listen))]
        )
    if role in ("up", "gate"):
        environment = environments.for_worker(config)
        out.append(
            [
                child(
                    f"worker-{slot}",
                    ours("worker", "--slot", str(slot)),
                    environment,
                    folder,
                    _worker_probe(socket, worker_ready),
                )
                for slot, socket in enumerate(worker_sockets(config))
            ]
        )
        if envoy is not None:
            out.append(
                [child("envoy", envoy.command, environments.for_others(), Path(config.gate.run_dir), envoy.ready)]
            )
    return out


def stop_within(config: Config, child: Child) -> float:
    """Seconds that a child gets between SIGTERM and SIGKILL. Workers ship the spool, the hub hands over to
    ClickHouse, the store writes out: each needs its time, or the next start has to do it."""
    name = child.spec.name
    drain = config.gate.drain.total_seconds()
    if name.startswith("worker-"):
        return drain + WORKER_MARGIN_S
    if name == "hub":
        return max(drain, HUB_MIN_S)
    return STORE_S if name == "store" else ENVOY_S


def _worker_probe(socket: Path, up_to_date: Callable[[Path], Awaitable[bool]]) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return await probes.accepts(f"unix:{socket}") and await up_to_date(socket)

    return ready
