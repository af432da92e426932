"""The clients that people use, unchanged: clickhouse-connect, pandas, curl."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import clickhouse_connect
import pandas as pd
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from ext_proc.hub.store import access
from tests.clickhouse.store.conftest import StoreProcess


def _client(store: StoreProcess, user: access.User, **options: object) -> Client:
    return clickhouse_connect.get_client(
        host="127.0.0.1",
        port=store.port,
        username=user,
        password=access.password(store.folder, user),
        database="douane",
        **options,
    )


@pytest.fixture(scope="module")
def writer(store: StoreProcess) -> Iterator[Client]:
    client = _client(store, "writer")
    client.command(
        "CREATE TABLE douane.clients (id UUID, ts DateTime64(6,'UTC'), n UInt64, body String, "
        "headers Array(Tuple(name String, value String)), price Decimal(18, 4), maybe Nullable(String)) "
        "ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 1000"
    )
    yield client
    client.close()


@pytest.fixture(scope="module")
def auditor(store: StoreProcess) -> Iterator[Client]:
    client = _client(store, "auditor")
    yield client
    client.close()


COLUMNS = ["id", "ts", "n", "body", "headers", "price", "maybe"]


def _row(n: int) -> list[object]:
    return [
        UUID(int=n),
        datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC).replace(tzinfo=None),
        n,
        'line\tone\nline "two" \\ é \x00' * (n % 3),
        [("x-a", "1"), ("x-a", "2")],
        Decimal("1.2345"),
        None if n % 2 else "some",
    ]


def test_rows_come_back_as_inserted(writer: Client, auditor: Client) -> None:
    rows = [_row(n) for n in range(1000)]
    summary = writer.insert("clients", rows, column_names=COLUMNS, settings={"insert_deduplication_token": "rows"})
    assert summary.written_rows == 1000
    result = auditor.query("SELECT * FROM clients WHERE n < 1000 ORDER BY n")
    assert result.column_names == tuple(COLUMNS)
    got = [list(row) for row in result.result_rows]
    assert [
        [*row[:4], [tuple(h.values()) if isinstance(h, dict) else h for h in row[4]], *row[5:]] for row in got
    ] == rows


def test_token_makes_a_resend_harmless(writer: Client, auditor: Client) -> None:
    rows = [_row(n) for n in range(10_000, 10_500)]
    for _ in range(3):
        writer.insert("clients", rows, column_names=COLUMNS, settings={"insert_deduplication_token": "again"})
    writer.insert("clients", rows[:1], column_names=COLUMNS, settings={"insert_deduplication_token": "other"})
    assert auditor.command("SELECT count() FROM clients WHERE n BETWEEN 10000 AND 10499") == 501


@pytest.mark.parametrize("compress", [False, "gzip", "zstd", "lz4", "br"])
def test_codings_of_requests_and_answers(store: StoreProcess, compress: object, auditor: Client) -> None:
    client = _client(store, "writer", compress=compress)
    first = 20_000 + 100 * ["zstd", "gzip", "lz4", "br", False].index(compress)
    client.insert("clients", [_row(n) for n in range(first, first + 50)], column_names=COLUMNS)
    where = f"WHERE n BETWEEN {first} AND {first + 99} ORDER BY n"
    assert [r[0] for r in client.query(f"SELECT n FROM clients {where}").result_rows] == list(range(first, first + 50))
    client.close()


def test_pandas(writer: Client, auditor: Client) -> None:
    frame = pd.DataFrame({"n": range(30_000, 30_100), "body": [f"body {i}" for i in range(100)]})
    writer.insert_df("clients", frame)
    back = auditor.query_df("SELECT n, body FROM clients WHERE n >= 30000 AND n < 30100 ORDER BY n")
    assert back["n"].tolist() == frame["n"].tolist()
    assert back["body"].tolist() == frame["body"].tolist()


def test_streams_many_blocks(auditor: Client) -> None:
    seen = 0
    with auditor.query_row_block_stream("SELECT number, toString(number) FROM numbers(1000000)") as stream:
        for block in stream:
            assert block[0][0] == seen
            seen += len(block)
    assert seen == 1_000_000
    assert len(auditor.query("SELECT number FROM numbers(300000)").result_columns[0]) == 300_000


def test_error_in_the_middle_of_a_stream_is_raised(auditor: Client) -> None:
    sql = "SELECT number, repeat('x', 100), throwIf(number = 900000, 'half way') FROM numbers(1000000)"
    with pytest.raises(DatabaseError, match="half way"), auditor.query_row_block_stream(sql) as stream:
        for _ in stream:
            pass


def test_parameters(auditor: Client) -> None:
    nasty = "it's \\ a\ttab\nand {curly}"
    assert auditor.query("SELECT {v:String} AS v", parameters={"v": nasty}).result_rows == [(nasty,)]
    assert auditor.query("SELECT %(v)s", parameters={"v": nasty}).result_rows == [(nasty,)]
    sql = "SELECT count() FROM {t:Identifier} WHERE n IN {ns:Array(UInt64)}"
    assert auditor.query(sql, parameters={"t": "clients", "ns": [1, 2, 10_000]}).result_rows[0][0] >= 0


def test_form_encoding(store: StoreProcess) -> None:
    client = _client(store, "auditor", form_encode_query_params=True)
    long = "x" * 200_000
    assert client.query("SELECT length({v:String})", parameters={"v": long}).result_rows == [(200_000,)]
    client.close()


def test_raw_insert_and_raw_query(writer: Client, auditor: Client) -> None:
    lines = b'{"n": 40000, "body": "FORMAT Native; -- x"}\n{"n": 40001, "body": "VALUES"}\n'
    writer.raw_insert("clients", insert_block=lines, fmt="JSONEachRow")
    writer.raw_insert("clients", ["n", "body"], b"40002\tb\n", fmt="TabSeparated", compression=None)
    sql = "SELECT body FROM clients WHERE n BETWEEN 40000 AND 40002 ORDER BY n"
    assert auditor.raw_query(sql, fmt="TabSeparated") == b"FORMAT Native; -- x\nVALUES\nb\n"


def test_describe_and_empty_results(auditor: Client) -> None:
    assert [row[0] for row in auditor.query("DESCRIBE TABLE clients").result_rows] == COLUMNS
    assert auditor.query("SELECT n, body FROM clients WHERE n = 999999").result_rows == []
    assert auditor.query("SELECT n FROM clients LIMIT 0").column_names == ("n",)
    assert auditor.ping()


def test_auditor_cannot_insert(auditor: Client) -> None:
    with pytest.raises(DatabaseError, match="READONLY"):
        auditor.insert("clients", [_row(1)], column_names=COLUMNS)


def test_wrong_password(store: StoreProcess) -> None:
    with pytest.raises(DatabaseError, match="AUTHENTICATION_FAILED"):
        clickhouse_connect.get_client(host="127.0.0.1", port=store.port, username="writer", password="wrong")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(store: StoreProcess) -> None:
    def curl(*arguments: str, data: bytes = b"") -> str:
        return subprocess.run(["curl", "-sS", *arguments], input=data, capture_output=True, check=True).stdout.decode()

    login = ["-u", f"auditor:{access.password(store.folder, 'auditor')}"]
    writing = ["-u", f"writer:{access.password(store.folder, 'writer')}"]
    assert curl(store.url + "ping") == "Ok.\n"
    assert curl(*login, store.url, "-d", "SELECT 1 + 1") == "2\n"
    assert curl(*login, store.url + "?query=SELECT%207&default_format=JSONEachRow") == '{"7":7}\n'
    assert curl(*login, "-G", store.url, "--data-urlencode", "query=SELECT 'a b'") == "a b\n"
    assert curl(*login, store.url, "--data-urlencode", "query=SELECT 8") == "8\n"
    assert curl(*login, store.url + "?query=SELECT", "--data-binary", " 9") == "9\n"
    assert curl(*login, "--compressed", store.url + "?enable_http_compression=1", "-d", "SELECT 5") == "5\n"
    header = ["-H", f"X-ClickHouse-Key: {login[1].partition(':')[2]}", "-H", "X-ClickHouse-User: auditor"]
    assert curl(*header, store.url, "-d", "SELECT 3") == "3\n"
    insert = store.url + "?query=INSERT%20INTO%20clients%20(n,body)%20FORMAT%20CSV"
    assert curl(*writing, "-H", "Transfer-Encoding: chunked", "--data-binary", "@-", insert, data=b'50000,"a"\n') == ""
    assert curl(*login, store.url, "-d", "SELECT body FROM clients WHERE n = 50000") == "a\n"
