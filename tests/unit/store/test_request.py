from __future__ import annotations

import base64

import pytest

from ext_proc.hub.store import request as requests
from ext_proc.hub.store.faults import QueryError


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        (b"SELECT 1", b"", ("SELECT 1", None, "")),
        (b"", b"SELECT 1", ("SELECT 1", None, "")),
        (b"SELECT", b"1", ("SELECT\n1", None, "")),
        (b"INSERT INTO t FORMAT CSV", b"1,2\n", ("INSERT INTO t FORMAT CSV", b"1,2\n", "CSV")),
        (b"", b"INSERT INTO t FORMAT CSV\n1,2\n", ("INSERT INTO t FORMAT CSV", b"1,2\n", "CSV")),
        (b"", b"INSERT INTO t FORMAT CSV 1,2\n", ("INSERT INTO t FORMAT CSV", b"1,2\n", "CSV")),
        (b"", b"insert into t format CSV \r\n1,2\n", ("insert into t format CSV", b"1,2\n", "CSV")),
        (b"INSERT INTO t FORMAT CSV\n1,2\n", b"", ("INSERT INTO t FORMAT CSV", b"1,2\n", "CSV")),
        (b"INSERT INTO t FORMAT CSV\n1,2", b"3,4", ("INSERT INTO t FORMAT CSV", b"1,2\n3,4", "CSV")),
        (b"INSERT INTO t", b"FORMAT CSV\n1", ("INSERT INTO t\nFORMAT CSV", b"1", "CSV")),
        (b"INSERT INTO t FORMAT RowBinary", b"\n\n\x00", ("INSERT INTO t FORMAT RowBinary", b"\n\n\x00", "RowBinary")),
        (b"INSERT INTO t FORMAT RowBinary", b" \x00", ("INSERT INTO t FORMAT RowBinary", b" \x00", "RowBinary")),
        (b"", b"INSERT INTO t VALUES (1),(2)", ("INSERT INTO t FORMAT Values", b" (1),(2)", "Values")),
        (b"INSERT INTO t (a) VALUES", b"(1)", ("INSERT INTO t (a) FORMAT Values", b"\n(1)", "Values")),
        (b"", b"INSERT INTO t SELECT 1 FORMAT CSV", ("INSERT INTO t SELECT 1 FORMAT CSV", None, "")),
        (b"", b"INSERT INTO format FORMAT TSV\n1", ("INSERT INTO format FORMAT TSV", b"1", "TSV")),
        (b"", b"INSERT INTO a.values VALUES (1)", ("INSERT INTO a.values FORMAT Values", b" (1)", "Values")),
        (b"", b"INSERT INTO t (`FORMAT CSV`) FORMAT TSV\n1", ("INSERT INTO t (`FORMAT CSV`) FORMAT TSV", b"1", "TSV")),
        (b"", b"/* FORMAT CSV */ INSERT INTO t -- x\n FORMAT TSV\n1",
         ("/* FORMAT CSV */ INSERT INTO t -- x\n FORMAT TSV", b"1", "TSV")),
        (b"", b"INSERT INTO t FORMAT TSV", ("INSERT INTO t FORMAT TSV", b"", "TSV")),
        (b"", b"WITH 1 AS x INSERT INTO t SELECT x", ("WITH 1 AS x INSERT INTO t SELECT x", None, "")),
    ],
)  # fmt: skip
def test_split(head: bytes, body: bytes, expected: tuple[str, bytes | None, str]) -> None:
    assert requests.split(head, body) == expected


def test_large_bodies_are_not_scanned() -> None:
    rows = b"x" * 10_000_000
    assert requests.split(b"INSERT INTO t FORMAT CSV", rows) == ("INSERT INTO t FORMAT CSV", rows, "CSV")


def _basic(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def test_login() -> None:
    assert requests.login({}, {}) is None
    assert requests.login(_basic("writer:a:b"), {}) == requests.Login("writer", "a:b")
    assert requests.login({"x-clickhouse-user": "u", "x-clickhouse-key": "k"}, {}) == requests.Login("u", "k")
    assert requests.login({}, {"user": "u", "password": "p"}) == requests.Login("u", "p")
    for headers, query in (
        (_basic("writer:x"), {"user": "writer"}),
        ({"authorization": "Bearer x"}, {}),
        ({"authorization": "Basic"}, {}),
        ({"authorization": "Basic !"}, {}),
        ({"authorization": "Basic " + base64.b64encode(b"nocolon").decode()}, {}),
    ):
        with pytest.raises(QueryError) as raised:
            requests.login(headers, query)
        assert raised.value.code == 516


def test_login_is_not_shown() -> None:
    assert "secret" not in repr(requests.Login("u", "secret"))


def test_read() -> None:
    query = [("query", "SELECT {a:String}"), ("param_a", "x"), ("database", "default"), ("max_threads", "1")]
    request = requests.read(query, {}, b"")
    assert request.params == {"a": "x"}
    assert request.database == "douane"
    assert request.settings == {"max_threads": "1"}
    assert request.default_format == "TabSeparated"
    assert len(request.query_id) == 36


def test_forms() -> None:
    urlencoded = {"content-type": "application/x-www-form-urlencoded"}
    assert requests.read([], urlencoded, b"query=SELECT+1&param_a=b").params == {"a": "b"}
    assert requests.read([], urlencoded, b"SELECT '&query=x'").text == "SELECT '&query=x'"
    body = b'--b\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT 1\r\n--b--\r\n'
    assert requests.read([], {"content-type": "multipart/form-data; boundary=b"}, body).text == "SELECT 1"
    body = b'--b\r\nContent-Disposition: form-data; name="t"; filename="t"\r\n\r\n1\r\n--b--\r\n'
    with pytest.raises(QueryError) as raised:
        requests.read([], {"content-type": "multipart/form-data; boundary=b"}, body)
    assert raised.value.code == 48
