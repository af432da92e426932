"""The reading commands on the real store."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from ext_proc.cli import app
from ext_proc.config import Store, load
from ext_proc.errors import StoreError
from ext_proc.hub.clickhouse import ClickHouse
from ext_proc.hub.schema import Layout, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.testing import Result

pytestmark = pytest.mark.clickhouse

CREATE = "5f0c2a9e-0000-4000-8000-000000000001"
DENIED = "5f0c2a9e-0000-4000-8000-000000000002"
LARGE = "7a11ce00-0000-4000-8000-000000000003"
RUN = "00000000-0000-5000-8000-00000000abcd"
BODY = '{"title": "Blue Whale", "widgets": [{"type": "iframe"}]}'


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("reading")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    path = folder / "douane.yaml"
    path.write_text(f"version: 1\nstore: {{url: 'embedded:./store', listen: '127.0.0.1:{port}'}}\n")
    command = [sys.executable, "-m", "ext_proc.cli", "store", "-c", str(path)]
    process = subprocess.Popen(command, env={"PATH": os.environ["PATH"]})
    try:
        fill(load(path).config.store, process)
        yield path
    finally:
        process.terminate()
        assert process.wait(20) == 0


def fill(store: Store, process: subprocess.Popen[bytes]) -> None:
    clickhouse = ClickHouse(store)
    deadline = time.monotonic() + 30
    while True:
        try:
            clickhouse.ping()
            break
        except StoreError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    retention = load(Path(store.url.removeprefix("embedded:")).parent / "douane.yaml").config.recording.retention
    migrate(clickhouse, Layout("douane", retention))
    headers = "[('host', 'api.example.com'), ('content-type', 'application/json')]"
    masks = "[('req_headers', 0, 7, 28, 40, 'token', 'abcdef012345')]"
    columns = (
        "exchange_id, ts, connection, session_id, session_label, issuer, subject, claims, method, scheme, host, path, "
        "query, status, outcome, duration_us, decision, reason, message, policy, credential, req_headers, req_body, "
        "req_body_size, req_body_sha256, resp_headers, resp_body, resp_body_size, resp_body_sha256, masked"
    )

    def row(exchange_id: str, minutes: int, decision: str, reason: str, method: str, path: str, answer: str) -> str:
        return (
            f"SELECT toUUID('{exchange_id}'), now64(6) - INTERVAL {minutes} MINUTE, 'datadog', toUUID('{RUN}'), "
            "'octo/infra run 7 #1', 'github', 'repo:octo/infra', '{}', "
            f"'{method}', 'https', 'api.example.com', '{path}', 'page=2', 200, 'complete', 1500, '{decision}', "
            f"'{reason}', 'because', 'infra-main', 'dd-api-key', {headers}, '{BODY}', length('{BODY}'), "
            f"SHA256('{BODY}'), {headers}, {answer}, length({answer}), SHA256({answer}), {masks}"
        )

    binary = "unhex('FFFE1B5B33316D')"
    rows = [
        row(CREATE, 1, "allow", "", "POST", "/api/v1/dashboard", '\'{"id": "abc-def-ghi"}\''),
        row(DENIED, 5, "deny", "policy.denied", "POST", "/api/v1/dashboard", "'{}'"),
        row(LARGE, 3000, "allow", "", "GET", "/api/v2/logs", binary),
    ]
    for one in rows:
        clickhouse.command(f"INSERT INTO douane.exchanges ({columns}) {one}")
    clickhouse.command(
        f"INSERT INTO douane.body_parts (exchange_id, ts, direction, n, data) "
        f"SELECT toUUID('{LARGE}'), now64(6), 'response', 0, 'an enormous narwhal'"
    )


@pytest.fixture
def douane(config: Path) -> Any:
    def run(command: str, *arguments: str) -> Result:
        return CliRunner().invoke(app, [command, *arguments, "-c", str(config)])

    return run


def found(result: Result) -> list[str]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line)["exchange_id"] for line in result.stdout.splitlines()]


def test_sessions(douane: Any) -> None:
    row = json.loads(douane("sessions", "--json").stdout)
    assert (row["label"], row["exchanges"], row["denied"], row["writes"]) == ("octo/infra run 7 #1", 3, 1, 1)
    table = douane("sessions").stdout.splitlines()
    assert table[0].split() == [
        *("first_ts", "label", "issuer", "subject", "exchanges", "writes", "denied", "connections", "session_id")
    ]
    assert "octo/infra run 7 #1" in table[1]
    nothing = douane("sessions", "--issuer", "gitlab")
    assert nothing.stdout.count("\n") == 1  # the header
    assert "No run yet" in nothing.stderr
    assert douane("sessions", "--connection", "datadog", "--since", "1d", "--json").stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["iframe"], [CREATE, DENIED, LARGE]),
        (["IFRAME", "--decision", "deny"], [DENIED]),
        (["blue whale", "--since", "1h"], [CREATE, DENIED]),
        (["whale blue"], []),  # all words, but not as written
        (["abc-def-ghi"], [CREATE]),
        (["bc-def-gh"], [CREATE]),  # parts of words: the substring search
        (["fram", "--limit", "1"], [CREATE]),
        (["logs"], [LARGE]),
        (["page=2", "--decision", "deny"], [DENIED]),  # the query has no index
        (["narwhal"], [LARGE]),  # in body_parts
        (["norm"], [LARGE]),
        (["iframe", "--session", "run 7"], [CREATE, DENIED, LARGE]),
        (["iframe", "--session", RUN, "--limit", "2"], [CREATE, DENIED]),
        (["iframe", "--session", "run 8"], []),
        (["iframe", "--connection", "github"], []),
        (["%"], []),
        (["' OR 1 --"], []),
        (["Ünïcode"], []),
    ],
)
def test_search(douane: Any, arguments: list[str], expected: list[str]) -> None:
    assert found(douane("search", *arguments, "--json")) == expected


def test_search_shows_where_it_was_found(douane: Any) -> None:
    lines = douane("search", "abc-def-ghi").stdout.splitlines()
    assert lines[0].split()[0] == "ts"
    assert 'response: {"id": "abc-def-ghi"}' in lines[1]
    nothing = douane("search", "absent-from-everything")
    assert nothing.exit_code == 0
    assert nothing.stderr == "Nothing found.\n"


def test_show_by_the_first_characters(douane: Any) -> None:
    shown = douane("show", LARGE[:6]).stdout
    assert "GET https://api.example.com/api/v2/logs?page=2" in shown
    result = douane("show", CREATE)
    assert result.exit_code == 0
    for part in (
        *("verdict     allow", "who         repo:octo/infra (github)", "octo/infra run 7 #1", "1.5 ms"),
        *("masked      1: token in req_headers", "credential  dd-api-key", '"title": "Blue Whale",', CREATE),
    ):
        assert part in result.stdout, part
    denied = douane("show", DENIED).stdout
    assert "deny  policy.denied  because" in denied


def test_show_raw_and_json(douane: Any) -> None:
    assert douane("show", CREATE, "--raw", "request").stdout_bytes.decode() == BODY
    row = json.loads(douane("show", CREATE, "--json").stdout)
    assert json.loads(row["req_body"])["title"] == "Blue Whale"
    assert len(row["req_body_sha256"]) == 64


def test_binary_bodies_do_not_reach_a_terminal(douane: Any) -> None:
    shown = douane("show", LARGE)
    assert "\x1b" not in shown.stdout
    assert douane("show", LARGE, "--raw", "response").stdout_bytes == b"\xff\xfe\x1b[31m"
    assert "resp_body_b64" in json.loads(douane("show", LARGE, "--json").stdout)


def test_show_says_what_is_wrong_with_an_id(douane: Any) -> None:
    several = douane("show", "5f0c2a9e")
    assert several.exit_code == 1
    assert "error: show.ambiguous" in several.stderr
    unknown = douane("show", "0" * 8)
    assert unknown.exit_code == 1
    assert "error: show.not_found" in unknown.stderr


def test_sql_reads_and_only_reads(douane: Any) -> None:
    assert douane("sql", "SELECT count() AS n FROM exchanges", "--json").stdout == '{"n": 3}\n'
    assert douane("sql", "SELECT decision, count() AS n FROM exchanges GROUP BY ALL ORDER BY 1").stdout == (
        "decision  n\nallow     2\ndeny      1\n"
    )
    for refused in ("DROP TABLE exchanges", "SELEC 1", "SELECT 1; SELECT 2", "SELECT file('/etc/passwd')"):
        result = douane("sql", refused)
        assert result.exit_code == 1, refused
        assert result.stderr.startswith("error: store.")
    assert douane("sql", "SELECT count() AS n FROM exchanges", "--json").stdout == '{"n": 3}\n'
