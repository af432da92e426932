"""A worker's process as a whole, without Envoy and without a hub."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ext_proc import config
from ext_proc.app import run_worker
from ext_proc.shipper import Shipper
from ext_proc.supervisor import probes
from ext_proc.xds.naming import worker_socket
from tests.dataplane.stack import configuration


@pytest.fixture
async def loaded() -> AsyncIterator[config.Loaded]:
    with tempfile.TemporaryDirectory(prefix="douane-") as folder:  # short: a socket's path has at most 107 bytes
        ports = [15001, 15000, 15123, 15443]
        gate = {"workers": 1, "drain": "1s"}
        text = configuration("http://127.0.0.1:9", "http://127.0.0.1:9", ports, gate=gate)
        (Path(folder) / "var/run").mkdir(parents=True)
        (Path(folder) / "app-key").write_text("k")
        umask = os.umask(0o022)
        yield config.parse(json.dumps(text), "douane.yaml", Path(folder))
        os.umask(umask)
        gc.unfreeze()


async def test_a_worker_that_cannot_ship_any_more_ends(loaded: config.Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it records would never arrive, and nobody would know: the supervisor must start another."""

    async def broken(self: Shipper) -> None:
        raise MemoryError

    monkeypatch.setattr(Shipper, "run", broken)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(run_worker(loaded, 0, b"k" * 32, None), 10)
    assert caught.group_contains(MemoryError)


async def test_a_worker_stops_within_its_deadline_when_the_hub_is_away(loaded: config.Loaded) -> None:
    settings = loaded.config
    socket = Path(settings.gate.run_dir) / worker_socket(0)
    running = asyncio.create_task(run_worker(loaded, 0, b"k" * 32, None))
    async with asyncio.timeout(10):
        while not await probes.accepts(f"unix:{socket}"):  # noqa: ASYNC110 (another server's state has no event)
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        await running
    kept = await asyncio.to_thread(lambda: list(Path(settings.recording.spool.path).rglob("*.journal")))
    assert kept, "for the next worker"
