"""`douane policy test` and `douane policy suggest` on the real store."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from bench import recorded
from ext_proc.backtest import run
from ext_proc.cli import app
from ext_proc.config import load
from ext_proc.errors import StoreError
from ext_proc.hub.clickhouse import ClickHouse
from ext_proc.hub.schema import Layout, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.testing import Result

pytestmark = pytest.mark.clickhouse

START_US = 1_778_320_800_000_000  # 2026-05-09 10:00 UTC
RANGE = ("--since", "2026-05-09T10:00", "--until", "2026-05-09T11:00")
IFRAME = b'{"title": "Blue Whale", "widgets": [{"definition": {"type": "iframe"}}]}'
NOTE = b'{"title": "Narwhal", "widgets": [{"definition": {"type": "note"}}]}'
LARGE = b'{"title": "%s", "widgets": [{"definition": {"type": "iframe"}}]}' % (b"x" * (3 << 20))
MASK = b"[MASKED:aws-key:0123456789ab]"

CONFIG = """\
version: 1
store: {url: "embedded:./store", listen: "127.0.0.1:%d"}
issuers: {github: {issuer: "https://token.actions.githubusercontent.com", audience: douane}}
connections:
  datadog:
    listen: 127.0.0.1:1
    upstream: https://api.datadoghq.com
    max_inspect: 8MiB
    scopes: {"dashboards:write": ["* /api/v1/dashboard/**", "* /api/v1/dashboard"], all: ["* /**"], slos: ["* /slos"]}
grants:
  - {name: infra-main, issuer: github, if: "claims.repository_id == '74'", allow: {datadog: [all, "dashboards:write"]}}
  - {name: old-repo, issuer: github, if: "claims.repository_id == '73'", allow: {datadog: [slos]}}
"""
POLICIES = """\
policies:
  - {name: no-iframes, effect: deny, when: "widgets(request.json).exists(w, w.definition.type == 'iframe')"}
  - {name: deletes, effect: hold, when: "request.method == 'DELETE'", approvers: [local]}
  - {name: watch-posts, effect: deny, mode: observe, when: "request.method == 'POST'"}
  - {name: no-keys, effect: deny, when: "find(request.json, 'key').exists(k, k.startsWith('AKIA'))"}
"""


def laid() -> list[dict[str, Any]]:
    """One of each kind, a second apart."""
    session = UUID("00000000-0000-5000-8000-00000000abcd")

    def one(method: str, path: str, body: bytes = b"", **more: Any) -> dict[str, Any]:
        headers = [("host", b"api.datadoghq.com"), ("dd-api-key", recorded.PLACEHOLDER), *more.pop("headers", ())]
        return {
            "connection": "datadog",
            "session_id": session,
            "session_label": "octo-org/octo-repo run 7 #1",
            "method": method,
            "host": "api.datadoghq.com",
            "path": path,
            "query": "",
            "status": 200,
            "req_headers": headers,
            "req_body": body,
            "resp_headers": [],
            "resp_body": b"{}",
            **more,
        }

    key_masked = b'{"key": "%s"}' % MASK
    masks = [("req_headers", 1, 0, 27, 40, "token", ""), ("req_body", 0, 9, len(MASK), 20, "aws-key", "0123456789ab")]
    return [
        one("POST", "/api/v1/dashboard", IFRAME),
        one("POST", "/api/v1/dashboard", NOTE),
        one("POST", "/api/v1/dashboard", gzip.compress(IFRAME), headers=[("content-encoding", b"gzip")]),
        one("POST", "/api/v1/dashboard", LARGE),
        one("DELETE", "/api/v1/dashboard/29d-cad-9rf"),
        one("DELETE", "/api/v1/dashboard/2r3-a4g-ubz", decision="hold", policy="deletes", outcome="denied"),
        one("GET", "/api/v1/dashboard/2r3-a4g-ubz", decision="deny", policy="no-reads", outcome="denied"),
        one("POST", "/api/v2/keys", key_masked, masked=masks),
        one("POST", "/api/v1/dashboard", b"\xff\xfe{}"),
        one(
            "GET",
            "/api/v1/dashboard",
            decision="deny",
            reason="identity.missing",
            policy="",
            outcome="denied",
            issuer="",
            subject="",
            claims="",
        ),
        one("POST", "/.douane/session", policy="session"),
    ]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("policy")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    path = folder / "douane.yaml"
    path.write_text(CONFIG % port)
    (folder / "new.yaml").write_text(POLICIES)
    command = [sys.executable, "-m", "ext_proc.cli", "store", "-c", str(path)]
    process = subprocess.Popen(command, env={"PATH": os.environ["PATH"]})
    try:
        clickhouse = ClickHouse(load(path).config.store)
        deadline = time.monotonic() + 30
        while True:
            try:
                clickhouse.ping()
                break
            except StoreError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        migrate(clickhouse, Layout("douane", load(path).config.recording.retention))
        rows = (recorded.row(START_US + n * 1_000_000, n, of) for n, of in enumerate(laid()))
        assert recorded.insert(clickhouse, rows) == len(laid())
        yield path
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.fixture
def douane(config: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(config.parent)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["policy", *arguments])

    return invoke


def rows(result: Result) -> dict[str, dict[str, Any]]:
    assert result.exit_code in (0, 1), result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return {row.get("rule", "summary"): row.get("summary", row) for row in found}


def test_the_table(douane: Any) -> None:
    result = douane("test", "new.yaml", *RANGE)
    assert result.exit_code == 1, result.stderr
    assert result.stdout == Path(__file__).with_name("policy_test.txt").read_text()


def test_the_objects(douane: Any) -> None:
    result = douane("test", "new.yaml", *RANGE, "--json", "--examples", "1")
    assert result.stdout == Path(__file__).with_name("policy_test.jsonl").read_text()


def test_exit_codes_say_what_ci_asks_for(douane: Any, config: Path) -> None:
    assert douane("test", "new.yaml", *RANGE, "--fail-on", "never").exit_code == 0
    assert douane("test", "new.yaml", *RANGE, "--fail-on", "deny").exit_code == 1
    hold = config.parent / "hold.yaml"
    hold.write_text(
        POLICIES.replace("effect: deny", "effect: deny, mode: observe").replace(", mode: observe, mode", ", mode")
    )
    assert douane("test", "hold.yaml", *RANGE, "--fail-on", "deny").exit_code == 0
    assert douane("test", "hold.yaml", *RANGE, "--fail-on", "hold").exit_code == 1
    nothing = douane("test", "new.yaml", "--since", "2026-05-08", "--until", "2026-05-09")
    assert (nothing.exit_code, "No exchange was recorded there." in nothing.stdout) == (0, True)


def test_a_whole_configuration_and_its_scopes(douane: Any, config: Path) -> None:
    whole = config.parent / "whole.yaml"
    whole.write_text(config.read_text().replace("allow: {datadog: [all,", "allow: {datadog: ["))
    found = rows(douane("test", "whole.yaml", *RANGE, "--json"))
    assert found["(grants)"]["newly_denied"] == 1  # /api/v2/keys
    assert "a whole configuration" in found["summary"]["tried"]


def test_one_session_one_connection_and_the_newest(douane: Any) -> None:
    def seen(*arguments: str) -> int:
        count: int = rows(douane("test", "new.yaml", *RANGE, *arguments, "--json"))["summary"]["exchanges"]
        return count

    assert seen("--session", "run 7") == seen("--session", "00000000-0000-5000-8000-00000000abcd") == 9
    assert seen("--session", "run 8") == seen("--connection", "github") == 0
    assert seen("--limit", "2") == 1  # the newest two are one that was refused early, and one that is judged
    assert douane("test", "new.yaml", "--since", "1d", "--until", "2d").exit_code == 2


def test_counters_are_replayed_and_that_is_said(douane: Any, config: Path) -> None:
    counting = config.parent / "counting.yaml"
    counting.write_text("policies: [{name: few, effect: deny, when: 'session.writes > 2'}]\n")
    found = rows(douane("test", "counting.yaml", *RANGE, "--json"))
    assert found["few"]["newly_denied"] == 6  # of eight writes
    assert "begin at zero where the range begins" in str(found["summary"]["notes"])


@pytest.mark.parametrize("policy", ["new.yaml", "counting.yaml"])
def test_several_processes_find_the_same(
    douane: Any, config: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    (config.parent / "counting.yaml").write_text("policies: [{name: few, effect: deny, when: 'session.writes > 2'}]\n")
    alone = douane("test", policy, *RANGE, "--json", "--processes", "1").stdout
    monkeypatch.setattr(run, "WORTH_SHARING", 0)
    assert douane("test", policy, *RANGE, "--json", "--processes", "3").stdout == alone


def test_a_fault_in_another_process_is_told(douane: Any, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "WORTH_SHARING", 0)
    monkeypatch.setattr("ext_proc.backtest.ledger.Reader._columns", lambda _: iter(["nothing"]))
    result = douane("test", "new.yaml", *RANGE, "--processes", "1")
    assert result.exit_code == 1
    assert "error: store.refused" in result.stderr


def test_a_har_file(douane: Any, config: Path) -> None:
    def entry(method: str, url: str, body: str = "") -> dict[str, Any]:
        request = {"method": method, "url": url, "headers": [], "postData": {"text": body}}
        return {
            "startedDateTime": "2026-05-09T10:00:00Z",
            "request": request,
            "response": {"status": 200, "headers": [], "content": {}},
        }

    entries = [
        entry("POST", "https://api.datadoghq.com/api/v1/dashboard", IFRAME.decode()),
        entry("DELETE", "http://127.0.0.1:1/api/v1/dashboard/1"),
        entry("GET", "https://elsewhere.example/"),
    ]
    (config.parent / "s.har").write_text(json.dumps({"log": {"entries": entries}}))
    found = rows(douane("test", "new.yaml", "--har", "s.har", "--connection", "datadog", "--json"))
    assert (found["no-iframes"]["newly_denied"], found["deletes"]["newly_held"]) == (1, 1)
    assert "elsewhere.example (1)" in str(found["summary"]["notes"])
    assert "grants are not asked" in str(found["summary"]["notes"])
    claims = config.parent / "claims.json"
    claims.write_text(json.dumps({**recorded.CLAIMS, "repository_id": "1"}))
    with_claims = ("--har", "s.har", "--connection", "datadog", "--claims", "claims.json")
    assert rows(douane("test", "new.yaml", *with_claims, "--json"))["(grants)"]["newly_denied"] == 2
    claims.write_text(json.dumps({"iss": "https://other.example", "sub": "x"}))
    assert "error: har.claims" in douane("test", "new.yaml", *with_claims).stderr
    assert douane("test", "new.yaml", "--har", "s.har").exit_code == 2
    assert douane("test", "new.yaml", "--claims", "claims.json").exit_code == 2


def test_suggest(douane: Any) -> None:
    result = douane("suggest", *RANGE, "--grant")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == Path(__file__).with_name("policy_suggest.yaml").read_text()
    lines = [json.loads(line) for line in douane("suggest", *RANGE, "--grant", "--json").stdout.splitlines()]
    assert {"connection": "datadog", "unused_scope": "slos"} in lines
    assert {"unused_grant": "old-repo"} in lines
    nothing = douane("suggest", "--since", "2026-05-08", "--until", "2026-05-09")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "nothing to suggest" in nothing.stderr


def test_a_suggestion_pasted_denies_nothing_of_what_it_is_from(douane: Any, config: Path) -> None:
    from ext_proc.config.positions import read

    data, _ = read(douane("suggest", *RANGE, "--grant").stdout, "suggestion")
    whole, _ = read(config.read_text(), "douane.yaml")
    whole["connections"]["datadog"]["scopes"] = data["connections"]["datadog"]["scopes"]
    whole["grants"] = data["grants"]
    (config.parent / "pasted.yaml").write_text(json.dumps(whole))
    summary = rows(douane("test", "pasted.yaml", *RANGE, "--json"))["summary"]
    assert (summary["newly_denied"], summary["newly_held"], summary["uncertain"]) == (0, 0, 0)


def test_the_documentation_shows_this_output() -> None:
    page = (Path(__file__).parents[3] / "docs" / "backtest.md").read_text()
    here = Path(__file__).parent
    assert (here / "policy_suggest.yaml").read_text() in page
    shown = page.split("--since 7d\n", 1)[1].split("...\n", 1)[0]
    assert (here / "policy_test.txt").read_text().startswith(shown)
