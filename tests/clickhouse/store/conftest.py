from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import urllib3

from ext_proc.hub.store import access

_SERVE = """
import logging, sys
from pathlib import Path
from ext_proc.config.models import Store
from ext_proc.errors import StoreError
from ext_proc.hub.store import serve
logging.basicConfig(level=logging.INFO)
try:
    serve(Store(listen=sys.argv[2]), Path(sys.argv[1]))
except StoreError as error:
    sys.exit(str(error))
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.clickhouse)


@dataclass
class StoreProcess:
    """`douane store` as a process of its own."""

    folder: Path
    port: int
    log: Path
    http: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False, maxsize=8))
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def launch(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(self.folder), f"127.0.0.1:{self.port}"],
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"]},
            )

    def start(self) -> float:
        """Start and wait for /ping. Seconds it took."""
        began = time.monotonic()
        self.process = self.launch()
        while time.monotonic() - began < 30:
            if self.process.poll() is not None:
                raise AssertionError(f"the store ended: {self.log.read_text()}")
            try:
                if self.http.request("GET", self.url + "ping", timeout=1).status == 200:
                    return time.monotonic() - began
            except urllib3.exceptions.HTTPError:
                time.sleep(0.02)
        raise AssertionError(f"the store does not answer: {self.log.read_text()}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.http.clear()
        return code

    def ask(
        self, sql: str | bytes, *, user: access.User = "auditor", method: str = "POST", **params: str
    ) -> urllib3.BaseHTTPResponse:
        """One request: the SQL in the body (POST) or in the URL."""
        secret = access.password(self.folder, user)
        headers = urllib3.make_headers(basic_auth=f"{user}:{secret}")
        if method == "GET":
            return self.http.request("GET", self.url, headers=headers, fields={"query": str(sql), **params})
        query = "?" + "&".join(f"{k}={urllib3.util.url._encode_invalid_chars(v, set())}" for k, v in params.items())
        return self.http.request("POST", self.url + (query if params else ""), headers=headers, body=sql)

    def rows(self, sql: str, *, user: access.User = "auditor", **params: str) -> list[list[str]]:
        answer = self.ask(sql, user=user, **params)
        assert answer.status == 200, answer.data.decode()
        return [line.split("\t") for line in answer.data.decode().splitlines()]

    def do(self, sql: str | bytes, **params: str) -> None:
        """As writer, and it must succeed."""
        answer = self.ask(sql, user="writer", **params)
        assert answer.status == 200, answer.data.decode()


def make_store(folder: Path) -> StoreProcess:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return StoreProcess(folder / "store", port, folder / "store.log")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    """One store for the tests that leave it as it was; tables are named by their test."""
    started = make_store(tmp_path_factory.mktemp("store"))
    started.start()
    started.do(
        "CREATE TABLE douane.exchanges (ts DateTime64(6,'UTC'), path String, status UInt16, req_body String) "
        "ENGINE = MergeTree ORDER BY ts SETTINGS non_replicated_deduplication_window = 1000"
    )
    started.do("INSERT INTO exchanges FORMAT JSONEachRow\n" + '{"ts":"2026-01-02 03:04:05","path":"/a","status":200}\n')
    yield started
    assert started.stop() == 0


@pytest.fixture
def fresh_store(tmp_path: Path) -> Iterator[StoreProcess]:
    """A store of one's own, not started."""
    made = make_store(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait(10)
