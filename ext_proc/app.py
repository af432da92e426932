"""The composition root: the only place that chooses adapters. `python -m ext_proc.app worker|hub|store -c FILE`.

Each role imports only what it needs: a worker must not carry the hub, nor the hub chDB.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import gc
import logging
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ext_proc.config import Loaded
    from ext_proc.pb import journal_pb2

log = logging.getLogger("douane.app")

_AFTER_THE_TRAFFIC = 10
"""Niceness of hub and store: what is recorded may reach ClickHouse a little later, requests should not wait for it."""


def main() -> int:
    """Run a role; 1 and one line in the log where it cannot, since only what is unforeseen deserves a traceback."""
    from ext_proc.errors import DouaneError

    try:
        _run()
    except DouaneError as error:
        log.error("%s", error)
        return 1
    return 0


def _run() -> None:
    parser = argparse.ArgumentParser(prog="python -m ext_proc.app", description=__doc__)
    parser.add_argument("role", choices=("worker", "hub", "store"))
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--slot", type=int, default=0, help="the worker's number in its gate")
    parser.add_argument("--snapshot", type=Path, help="the text to run with, where the file may have changed since")
    options = parser.parse_args()
    from ext_proc import telemetry
    from ext_proc.config import load, parse
    from ext_proc.supervisor.privacy import protect_memory

    telemetry.configure(telemetry.to_terminal())
    protect_memory()
    if options.snapshot is None:
        loaded = load(options.config)
    else:
        loaded = parse(options.snapshot.read_text(), str(options.config), options.config.parent)
    if options.role == "worker":
        asyncio.run(run_worker(loaded, options.slot, _fingerprint_key(loaded), _seal_key(loaded)))
        return
    os.nice(_AFTER_THE_TRAFFIC)
    if options.role == "hub":
        from ext_proc.hub.server import serve

        asyncio.run(serve(loaded.config))
    else:
        from ext_proc.hub.store import serve as serve_store

        serve_store(loaded.config.store, Path(loaded.config.store.url.removeprefix("embedded:")))


async def run_worker(loaded: Loaded, slot: int, fingerprint_key: bytes, seal_key: bytes | None) -> None:
    """One ext_proc worker: Envoy's requests, the journal of its slot, and the shipping of it."""
    from ext_proc.config import parse
    from ext_proc.hubclient import Authority, HubClient
    from ext_proc.runtime import Runtime
    from ext_proc.server import Servicer, make_server
    from ext_proc.shipper import Shipper
    from ext_proc.spool import Spool
    from ext_proc.xds.naming import worker_socket

    settings = loaded.config
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    client = HubClient(settings.hub)
    runtime = Runtime(Authority(client), fingerprint_key, seal_key)
    spool = Spool.open(
        Path(settings.recording.spool.path),
        slot,
        slots=settings.gate.workers,
        max_size=settings.recording.spool.max_size // settings.gate.workers,
        max_lag=settings.recording.spool.max_lag,
        durability=settings.recording.durability,
    )
    shipper = Shipper(spool, client, gate=settings.gate.name)

    warming: set[asyncio.Future[None]] = set()

    def apply(text: str, origin: str) -> str:
        changed = parse(text, origin, loaded.path.parent)
        snapshot = runtime.apply(changed)
        spool.append(_config_event(snapshot.digest, text, origin))
        warming.add(asyncio.ensure_future(runtime.warm()))
        return snapshot.digest

    apply(loaded.text, str(loaded.path))
    servicer = Servicer(runtime, spool, apply)
    socket = Path(settings.gate.run_dir) / worker_socket(slot)
    with contextlib.suppress(FileNotFoundError):
        socket.unlink()
    os.umask(0o177)
    server = make_server(servicer, socket)
    await server.start()
    os.umask(0o077)
    # what was loaded so far lives as long as the process; scanning it on each collection would only cost time
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    log.info("worker %d serves %s", slot, socket)
    try:
        async with asyncio.TaskGroup() as group:  # a worker that cannot ship must not serve: it ends, another starts
            shipping = group.create_task(shipper.run())
            await stopping.wait()
            deadline = settings.gate.drain.total_seconds()
            await server.stop(grace=deadline / 2)
            left = await shipper.drain(deadline / 2)
            shipping.cancel()
    finally:
        await server.stop(None)  # what is open is cut, and recorded as such
        spool.close()
        await runtime.close()
        await client.close()
    if left:
        log.error("worker %d stops with %d bytes unshipped; the next start ships them", slot, left)


def _config_event(digest: str, text: str, origin: str) -> journal_pb2.Event:
    from ext_proc.exchange import now_us
    from ext_proc.pb import journal_pb2

    return journal_pb2.Event(at_us=now_us(), config=journal_pb2.Config(digest=digest, text=text, origin=origin))


def _fingerprint_key(loaded: Loaded) -> bytes:
    """The configured key, or one made once and kept beside the spool, so that equal secrets look equal for as long."""
    source = loaded.config.masking.fingerprint_key
    if source is not None:
        from ext_proc.credentials import read_once

        return read_once(source)
    path = Path(loaded.config.recording.spool.path) / "fingerprint.key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = path.with_suffix(f".{os.getpid()}")
    made.write_bytes(secrets.token_bytes(32))
    made.chmod(0o600)
    with contextlib.suppress(FileExistsError):
        os.link(made, path)  # the first worker's key stands
    made.unlink()
    return path.read_bytes()


def _seal_key(loaded: Loaded) -> bytes | None:
    source = loaded.config.recording.seal_key
    if source is None:
        return None
    from ext_proc.credentials import read_once

    return base64.b64decode(read_once(source), validate=True)


if __name__ == "__main__":
    sys.exit(main())
