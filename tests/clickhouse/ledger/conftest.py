"""A store of its own for these tests, or the server that DOUANE_CLICKHOUSE_URL names; hubs without gRPC."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from ext_proc.config.models import Config, Hub, Store
from ext_proc.errors import StoreError
from ext_proc.hub.clickhouse import ClickHouse
from ext_proc.hub.ledger import Ledger
from ext_proc.hub.registry import Key
from ext_proc.hub.replica import Replica, Replicas
from ext_proc.pb import journal_pb2 as pb
from tests.journals import framed

_SERVE = """
import sys
from pathlib import Path
from ext_proc.config.models import Store
from ext_proc.hub.store import serve
serve(Store(listen=sys.argv[2]), Path(sys.argv[1]))
"""
_SERVER = os.environ.get("DOUANE_CLICKHOUSE_URL", "")
"""`clickhouse+http(s)://USER@HOST:PORT/DATABASE`, a database that these tests may fill."""
_PASSWORD = os.environ.get("DOUANE_CLICKHOUSE_PASSWORD", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.clickhouse)


class EmbeddedStore:
    """`douane store` as a process that a test may kill and start again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.listen = f"127.0.0.1:{probe.getsockname()[1]}"
        self.config = Store(url=f"embedded:{folder}", listen=self.listen)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(self.folder), self.listen], env={"PATH": os.environ["PATH"]}
        )
        clickhouse = ClickHouse(self.config)
        deadline = time.monotonic() + 30
        while True:
            try:
                clickhouse.ping()
            except StoreError:
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                clickhouse.close()
                return

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def store_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    if _SERVER:
        yield Store(url=_SERVER)
        return
    store = EmbeddedStore(tmp_path_factory.mktemp("store"))
    store.start()
    yield store.config
    store.kill()


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """Not started yet."""
    store = EmbeddedStore(tmp_path / "store")
    yield store
    if store.process is not None:
        store.kill()


@pytest.fixture
def clickhouse(store_config: Store) -> Iterator[ClickHouse]:
    client = ClickHouse(store_config, password=_PASSWORD)
    yield client
    client.close()


@dataclass
class HubFolder:
    """A hub's replicas and ledger over one folder, without the network before it."""

    replicas: Replicas
    ledger: Ledger
    gate: str

    async def journal(self, slot: int = 0, slots: int = 1, name: str = "") -> Replica:
        replica = await self.replicas.open(Key("local:0", self.gate, slot, name or str(uuid4())), slots)
        assert isinstance(replica, Replica)
        return replica

    async def ship(self, replica: Replica, events: Sequence[pb.Event], watermark_us: int = 0) -> None:
        """What ingest does with a message."""
        replica.append(replica.end, framed(events))
        await replica.persist()
        self.replicas.heard(replica.clock, watermark_us)
        self.replicas.on_data()


OpenHub = Callable[..., AbstractAsyncContextManager[HubFolder]]


@pytest.fixture
def open_hub(tmp_path: Path, store_config: Store) -> OpenHub:
    """Opens the hub of this test, again and again over the same folder; `config` overrides the store."""
    gate = f"gate-{uuid4().hex[:8]}"

    @asynccontextmanager
    async def opened(store: Store = store_config, drain_s: float = 20.0) -> AsyncIterator[HubFolder]:
        config = Config(version=1, store=store, hub=Hub(path=str(tmp_path / "hub")))
        replicas = Replicas(tmp_path / "hub")
        ledger = Ledger(replicas, config, password=_PASSWORD)
        running = asyncio.create_task(ledger.run())
        try:
            yield HubFolder(replicas, ledger, gate)
            await ledger.drain(drain_s)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            replicas.close()

    return opened
