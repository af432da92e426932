"""A ledger in a process of its own, to be killed."""

from __future__ import annotations

import asyncio
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from ext_proc.config.models import Config, Hub, Store
from ext_proc.hub.ledger import Ledger
from ext_proc.hub.replica import Replicas


def run(folder: Path, store: Store, up: Connection) -> None:
    """Enter and insert all that is in `folder`; the exit code is how many batches are left."""
    sys.exit(asyncio.run(_run(folder, store, up)))


async def _run(folder: Path, store: Store, up: Connection) -> int:
    replicas = Replicas(folder)
    config = Config(version=1, store=store, hub=Hub(path=str(folder)))
    ledger = Ledger(replicas, config, password=os.environ.get("DOUANE_CLICKHOUSE_PASSWORD", ""))
    running = asyncio.create_task(ledger.run())
    up.send("up")
    left = await ledger.drain(60)
    running.cancel()
    return left
