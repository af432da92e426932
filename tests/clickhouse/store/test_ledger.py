"""The ledger's own schema behind the guard, and the queries that docs/sql.md promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from ext_proc.config.models import Store
from ext_proc.hub.clickhouse import ClickHouse
from ext_proc.hub.schema import Layout, migrate
from tests.clickhouse.store.conftest import StoreProcess, make_store

DOCUMENT = Path(__file__).parents[3] / "docs" / "sql.md"
QUERIES = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    made = make_store(tmp_path_factory.mktemp("ledger"))
    made.start()
    client = ClickHouse(_config(made))
    for days in (400, 400, 30):
        migrate(client, Layout("douane", timedelta(days=days)))
    client.close()
    made.do(
        "INSERT INTO exchanges (exchange_id, ts, session_id, method, path, decision, outcome, req_headers, req_body, "
        "req_body_sha256, seq) SELECT generateUUIDv4(), now(), generateUUIDv4(), 'POST', '/api/v1/dashboard', 'allow', "
        "'complete', [('user-agent', 'x')], '{\"title\":\"iframe\"}' AS body, SHA256(body), 1"
    )
    yield made
    assert made.stop() == 0


def _config(store: StoreProcess) -> Store:
    return Store(url=f"embedded:{store.folder}", listen=f"127.0.0.1:{store.port}")


def test_retention_was_changed(ledger: StoreProcess) -> None:
    engine = ledger.rows("SELECT engine_full FROM system.tables WHERE database = 'douane' AND name = 'exchanges'")
    assert "toIntervalDay(30)" in engine[0][0]


def test_document_has_ten_queries() -> None:
    assert len(QUERIES) == 10


@pytest.mark.parametrize("sql", QUERIES)
def test_documented_query_runs_as_auditor(ledger: StoreProcess, sql: str) -> None:
    answer = ledger.ask(sql, default_format="JSONEachRow")
    assert answer.status == 200, answer.data.decode()
    if "decision = 'deny'" not in sql and "masked" not in sql:
        assert answer.data.count(b"\n") == 1, answer.data


def test_hub_s_client_reads_as_auditor(ledger: StoreProcess) -> None:
    client = ClickHouse(_config(ledger), user="auditor")
    sql = "SELECT path, req_headers FROM exchanges WHERE method = {m:String}"
    assert list(client.query(sql, {"m": "POST"})) == [
        {"path": "/api/v1/dashboard", "req_headers": [{"name": "user-agent", "value": "x"}]}
    ]
    client.close()
