"""The store's process: lock, engine, HTTP, until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from ext_proc.errors import StoreError
from ext_proc.hub.store.access import Passwords, User, ensure_passwords
from ext_proc.hub.store.engine import Engine
from ext_proc.hub.store.execution import Executor
from ext_proc.hub.store.facade import Facade
from ext_proc.hub.store.layout import Layout
from ext_proc.hub.store.settings import Limits

log = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 5
_LARGEST_MEMORY = 4 << 30


class _Server(uvicorn.Server):
    """uvicorn's, but signals only ask it to end: what was open is answered and the engine closed before the exit."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def run(listen: str, path: Path) -> None:
    """See `ext_proc.hub.store.serve`."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    path = path.absolute()
    if set("?&%") & set(str(path)):
        raise StoreError(
            "store.path",
            f"the store's folder {path} has one of ? & % in its name, which the engine cannot open",
            remedy="Choose another folder in store.url.",
        )
    ensure_passwords(path)
    layout = Layout(path)
    lock = layout.lock()
    try:
        listener = _listen(listen)
        memory = _server_memory()
        layout.prepare(memory)
        engine = Engine.open(layout)
        try:
            facade = Facade(
                engine, Executor(engine, engine.guard(), _limits(memory)), Passwords.read(path), _warn(engine)
            )
            config = uvicorn.Config(
                facade.app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                http="h11",
                ws="none",
                timeout_keep_alive=75,
                timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            )
            log.info("store serves %s on http://%s, ClickHouse %s", path, listen, engine.version)
            _Server(config).run(sockets=[listener])
            facade.close()
        finally:
            engine.close()
    finally:
        os.close(lock)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
    except OSError as error:
        raise StoreError(
            "store.listen",
            f"cannot listen on {address}: {error.strerror or error}",
            remedy="Change store.listen, or stop what uses the port.",
        ) from None
    return listener


def _server_memory() -> int:
    """Bytes the engine may use: half of the machine's, at most 4 GiB."""
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2, _LARGEST_MEMORY)


def _limits(memory: int) -> dict[User, Limits]:
    threads = max(1, min(4, os.cpu_count() or 1))
    return {
        "writer": Limits(memory // 2, result_bytes=0, seconds=0, threads=threads),
        "auditor": Limits(memory // 4, result_bytes=1 << 30, seconds=60, threads=threads),
    }


def _warn(engine: Engine) -> str:
    """Broken parts are set aside in silence when the engine opens; say so."""
    detached = engine.detached_parts()
    for table, count, reason in detached:
        log.warning(
            "store.detached_parts: %d part(s) of %s were set aside (%s): their rows are missing from every query. "
            "Restore the folder from a backup.",
            count, table, reason or "detached",
        )  # fmt: skip
    return f"store.detached_parts={sum(count for _, count, _ in detached)}" if detached else ""
