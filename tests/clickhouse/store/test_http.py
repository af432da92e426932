"""The HTTP interface byte by byte: status, headers, codings, limits."""

from __future__ import annotations

import gzip
import json
import resource
import socket
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import urllib3
import zstandard

from ext_proc.hub.store import access
from tests.clickhouse.store.conftest import StoreProcess


def _get(store: StoreProcess, path: str = "", **headers: str) -> urllib3.BaseHTTPResponse:
    return store.http.request("GET", store.url + path, headers=headers)


def test_ping_and_root_need_no_login(store: StoreProcess) -> None:
    assert _get(store, "ping").data == b"Ok.\n"
    assert _get(store).data == b"Ok.\n"
    assert _get(store, "nothing").status == 404


def test_no_login_is_401(store: StoreProcess) -> None:
    answer = _get(store, "?query=SELECT+1")
    assert answer.status == 401
    assert answer.headers["X-ClickHouse-Exception-Code"] == "516"
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert answer.data.startswith(b"Code: 516. DB::Exception: default: Authentication failed")
    assert b"(AUTHENTICATION_FAILED) (version " in answer.data


@pytest.mark.parametrize(
    "headers",
    [
        urllib3.make_headers(basic_auth="auditor:wrong"),
        urllib3.make_headers(basic_auth="nobody:wrong"),
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic ???"},
        {"X-ClickHouse-User": "auditor", "X-ClickHouse-Key": "wrong"},
        {"X-ClickHouse-User": "auditor"},
    ],
)
def test_wrong_login_is_refused(store: StoreProcess, headers: dict[str, str]) -> None:
    answer = store.http.request("GET", store.url + "?query=SELECT+1", headers=headers)
    assert answer.status in {401, 403}
    assert answer.headers["X-ClickHouse-Exception-Code"] == "516"


def test_each_way_of_login(store: StoreProcess) -> None:
    secret = access.password(store.folder, "auditor")
    assert _get(store, "?query=SELECT+1", **{"X-ClickHouse-User": "auditor", "X-ClickHouse-Key": secret}).status == 200
    assert _get(store, f"?query=SELECT+1&user=auditor&password={secret}").status == 200
    both = urllib3.make_headers(basic_auth=f"auditor:{secret}")
    assert _get(store, f"?query=SELECT+1&user=auditor&password={secret}", **both).status == 403
    other = access.password(store.folder, "writer")
    assert _get(store, f"?query=SELECT+1&user=auditor&password={other}").status == 401


def test_failed_logins_are_slowed_and_good_ones_are_not(fresh_store: StoreProcess) -> None:
    fresh_store.start()
    took = []
    for _ in range(4):
        began = time.monotonic()
        _get(fresh_store, "?query=SELECT+1&user=auditor&password=wrong")
        took.append(time.monotonic() - began)
    assert took[3] > 0.7
    began = time.monotonic()
    assert fresh_store.rows("SELECT 1") == [["1"]]
    assert time.monotonic() - began < 0.7


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [
        ("SELEC 1", 400, "62"),
        ("", 400, "62"),
        ("SELECT * FROM nothing", 404, "60"),
        ("SELECT nothing FROM exchanges", 404, "47"),
        ("SELECT 1 FORMAT Nothing", 403, "497"),
        ("SELECT toUInt8('x')", 400, "6"),
        ("SELECT throwIf(1)", 500, "395"),
        ("SELECT 1; SELECT 2", 400, "62"),
        ("DROP TABLE exchanges", 500, "164"),
        ("SELECT \xff", 400, "62"),
    ],
)
def test_errors_have_clickhouse_s_status_and_code(store: StoreProcess, sql: str, status: int, code: str) -> None:
    answer = store.ask(sql.encode())
    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (status, code), answer.data
    text = answer.data.decode()
    assert text.startswith(f"Code: {code}. DB::Exception: ")
    assert text.count("DB::Exception") == 1
    assert "formatQuerySingleLine" not in text


def test_not_utf8_is_an_error(store: StoreProcess) -> None:
    assert store.ask(b"SELECT '\xff'").headers["X-ClickHouse-Exception-Code"] == "36"


def test_headers_of_an_answer(store: StoreProcess) -> None:
    answer = store.ask("SELECT 1 AS a", query_id="my-id", default_format="JSON", session_id="s", wait_end_of_query="1")
    assert answer.headers["X-ClickHouse-Query-Id"] == "my-id"
    assert answer.headers["X-ClickHouse-Format"] == "JSON"
    assert answer.headers["X-ClickHouse-Timezone"] == "UTC"
    assert answer.headers["X-ClickHouse-Server-Display-Name"] == "douane"
    assert answer.headers["Content-Type"].startswith("application/json")
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["result_rows"] == "1"
    assert json.loads(answer.data)["data"] == [{"a": 1}]
    assert store.ask("SELECT 1", query_id="bad id").headers["X-ClickHouse-Exception-Code"] == "36"


def test_query_id_cannot_forge_headers(store: StoreProcess) -> None:
    answer = _get(store, "?query=SELECT+1&query_id=a%0d%0aX-Forged:+1")
    assert answer.status == 401
    assert "X-Forged" not in answer.headers


def test_database(store: StoreProcess) -> None:
    for name in ("douane", "default"):
        assert store.rows("SELECT currentDatabase()", database=name) == [["douane"]]
    assert store.rows("SELECT currentDatabase(), count() > 0 FROM tables", database="system") == [["system", "1"]]
    assert store.ask("SELECT 1", database="other").headers["X-ClickHouse-Exception-Code"] == "81"


@pytest.mark.parametrize("coding", ["gzip", "zstd", "deflate"])
def test_coded_requests(store: StoreProcess, coding: str) -> None:
    sql = b"SELECT length('" + b"x" * 1000 + b"')"
    body = {"gzip": gzip.compress, "zstd": zstandard.compress, "deflate": zlib.compress}[coding](sql)
    headers = urllib3.make_headers(basic_auth=f"auditor:{access.password(store.folder, 'auditor')}")
    headers["Content-Encoding"] = coding
    assert store.http.request("POST", store.url, headers=headers, body=body).data == b"1000\n"
    cut = store.http.request("POST", store.url, headers=headers, body=body[: len(body) // 2])
    assert cut.status >= 400


def test_bombs_and_strange_codings_are_refused(store: StoreProcess) -> None:
    headers = urllib3.make_headers(basic_auth=f"auditor:{access.password(store.folder, 'auditor')}")
    bomb = zstandard.compress(b"-" * (64 << 20))
    answer = store.http.request("POST", store.url, headers={**headers, "Content-Encoding": "zstd"}, body=bomb)
    assert answer.headers["X-ClickHouse-Exception-Code"] == "131"
    answer = store.http.request("POST", store.url, headers={**headers, "Content-Encoding": "snappy"}, body=b"x")
    assert answer.status == 501
    assert store.ask("SELECT 1", compress="1").status == 501


@pytest.mark.parametrize(("accepted", "coding"), [("gzip", "gzip"), ("gzip, zstd", "zstd"), ("br", None)])
def test_coded_answers_when_asked_for(store: StoreProcess, accepted: str, coding: str | None) -> None:
    headers = urllib3.make_headers(basic_auth=f"auditor:{access.password(store.folder, 'auditor')}")
    headers["Accept-Encoding"] = accepted
    sql = "SELECT number FROM numbers(500000)"
    plain = store.http.request("POST", store.url, headers=headers, body=sql)
    assert "Content-Encoding" not in plain.headers
    coded = store.http.request("POST", store.url + "?enable_http_compression=1", headers=headers, body=sql)
    assert coded.headers.get("Content-Encoding") == coding
    assert coded.data == plain.data
    assert plain.data.endswith(b"499999\n")


FORMATS = [
    "TSV", "TSVWithNames", "TSVWithNamesAndTypes", "TabSeparatedRaw", "CSV", "CSVWithNames", "CSVWithNamesAndTypes",
    "JSONEachRow", "JSONCompactEachRow", "JSONCompactEachRowWithNames", "JSONCompactEachRowWithNamesAndTypes",
    "JSONCompactStringsEachRowWithNamesAndTypes", "RowBinary", "RowBinaryWithNames", "RowBinaryWithNamesAndTypes",
]  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_streamed_blocks_join_to_one_document(store: StoreProcess, name: str) -> None:
    """Against the engine's own rendering of all rows at once (a total makes the store render it whole)."""
    sql = 'SELECT number AS "a ""b\nc", toString(number) AS d FROM numbers(150000)'.replace("\n", " ")
    streamed = store.ask(sql + f" FORMAT {name}").data
    assert streamed
    rows = store.ask(
        sql.replace("numbers(150000)", "(SELECT number FROM numbers(150000) LIMIT 75000)") + f" FORMAT {name}"
    )
    assert streamed.startswith(rows.data)
    head = store.ask(sql + f" LIMIT 0 FORMAT {name}").data
    assert streamed.startswith(head)
    rest = store.ask(sql.replace("numbers(150000)", "numbers(75000, 75000)") + f" FORMAT {name}").data
    assert streamed == rows.data + rest[len(head) :]


@pytest.mark.parametrize("name", ["JSON", "JSONCompact", "Parquet", "Arrow", "Pretty", "Vertical", "Markdown", "XML"])
def test_whole_documents(store: StoreProcess, name: str) -> None:
    data = store.ask(f"SELECT number FROM numbers(200000) FORMAT {name}").data
    if name == "JSON":
        assert len(json.loads(data)["data"]) == 200_000
    if name == "Parquet":
        assert data.count(b"PAR1") == 2
    assert data


def test_error_after_the_status_carries_the_tag(store: StoreProcess) -> None:
    answer = store.ask("SELECT repeat('x', 100), throwIf(number = 900000) FROM numbers(1000000)")
    tag = answer.headers["X-ClickHouse-Exception-Tag"].encode()
    assert answer.status == 200
    end = answer.data[-1000:]
    assert b"\r\n__exception__\r\n" + tag + b"\r\nCode: 395. " in end
    assert end.endswith(b" " + tag + b"\r\n__exception__\r\n")


def test_small_results_fail_with_a_status(store: StoreProcess) -> None:
    assert store.ask("SELECT throwIf(number = 1000) FROM numbers(10000)").status == 500


def test_limits_of_the_auditor(store: StoreProcess) -> None:
    answer = store.ask("SELECT repeat('x', 1000) FROM numbers(400000) FORMAT JSON")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "396"
    answer = store.ask("SELECT count() FROM numbers(1000000000000)", max_execution_time="1")
    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (408, "159")
    answer = store.ask("SELECT count() FROM numbers(3) GROUP BY number", max_result_rows="1")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "396"


def test_large_insert_and_large_select(store: StoreProcess) -> None:
    store.do("CREATE TABLE large (n UInt64, s String) ENGINE = MergeTree ORDER BY n "
             "SETTINGS non_replicated_deduplication_window = 10")  # fmt: skip
    body = b"INSERT INTO large FORMAT TSV\n" + b"".join(b"%d\t%s\n" % (n, b"y" * 1000) for n in range(20_000))
    for _ in range(2):
        store.do(body, insert_deduplication_token="large")
    assert store.rows("SELECT count(), sum(n), uniq(_part) FROM large") == [["20000", "199990000", "1"]]
    before = _rss(store)
    answer = store.http.request(
        "POST",
        store.url,
        headers=urllib3.make_headers(basic_auth=f"auditor:{access.password(store.folder, 'auditor')}"),
        body=" UNION ALL ".join(["SELECT s FROM large"] * 40),
        preload_content=False,
    )
    size = peak = 0
    for piece in answer.stream(1 << 20):
        size += len(piece)
        if size % 37 == 0 or not peak:
            peak = max(peak, _rss(store))
    assert size == 20_000 * 40 * 1001
    assert max(peak, _rss(store)) - before < 450 << 20


def test_client_that_leaves_cancels_its_query(store: StoreProcess) -> None:
    """Four endless queries take all of the auditor's threads; the fifth gets one only when the four are gone."""
    secret = access.password(store.folder, "auditor")
    authorization = urllib3.make_headers(basic_auth=f"auditor:{secret}")
    sql = b"SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"
    request = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization['authorization']}\r\n".encode()
    with ExitStack() as clients:
        for _ in range(4):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", store.port)))
            client.sendall(request + b"Content-Length: %d\r\n\r\n%s" % (len(sql), sql))
        time.sleep(1)
        with pytest.raises(urllib3.exceptions.TimeoutError):
            store.http.request("POST", store.url, headers=authorization, body="SELECT 1", timeout=1)
        assert store.rows("SELECT 2", user="writer") == [["2"]]
    began = time.monotonic()
    assert store.rows("SELECT 3") == [["3"]]
    assert time.monotonic() - began < 20


def test_many_at_once(store: StoreProcess) -> None:
    store.do("CREATE TABLE many (n UInt64) ENGINE = MergeTree ORDER BY n")

    def work(n: int) -> str:
        if n % 2:
            store.do(f"INSERT INTO many FORMAT TSV\n{n}\n".encode(), insert_deduplication_token=str(n))
            return ""
        return store.rows(f"SELECT sum(number) FROM numbers({n})")[0][0]

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(work, range(100)))
    assert results[98] == str(98 * 97 // 2)
    assert store.rows("SELECT count() FROM many") == [["50"]]


def test_no_credential_and_no_core(store: StoreProcess) -> None:
    assert store.process is not None
    assert resource.prlimit(store.process.pid, resource.RLIMIT_CORE) == (0, 0)
    for name in ("writer.password", "auditor.password"):
        assert (store.folder / name).stat().st_mode & 0o777 == 0o600
    assert store.folder.stat().st_mode & 0o077 == 0


def _rss(store: StoreProcess) -> int:
    assert store.process is not None
    with open(f"/proc/{store.process.pid}/statm") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * 4096


def test_bytes_that_are_no_text_pass_through_a_query(store: StoreProcess) -> None:
    secret = access.password(store.folder, "auditor")
    login = urllib3.make_headers(basic_auth=f"auditor:{secret}")
    answer = store.http.request("POST", store.url, body=rb"SELECT '\xff', hex('\xfe')", headers=login)
    assert (answer.status, answer.data) == (200, b"\xff\tFE\n")
