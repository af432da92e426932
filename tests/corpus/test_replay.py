"""8,706 recorded exchanges with Datadog's API go through `douane up`, and are in the ledger as they passed.

The corpus brings its own upstream, which refuses a request that differs from the recorded one or that does not carry
the real keys alone, and its own clients, which compare every answer to the byte. What is added here is the ledger.
Each run is a caller of its own, so that its rows are found by their subject.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from examples.demo.leaks import find
from tests.corpus import ledger
from tests.dataplane import leaks
from tests.dataplane.stack import API_KEY, APP_KEY, PLACEHOLDER, Stack, douane_up, free_ports
from tests.issuer import LoopbackIssuer

pytestmark = [pytest.mark.corpus, pytest.mark.dataplane, pytest.mark.clickhouse, pytest.mark.slow]

DATA = {
    "client": "datadog-client.jsonl.gz",
    "terraform": "datadog-terraform.jsonl.gz",
    "official": "datadog-client.jsonl.gz",
    "flagged": "datadog-client.jsonl.gz",
}
"""`flagged` is `client` with a policy that looks at each response, so that none passes before it was seen."""
PAIRS = {"client": 2486, "flagged": 2486, "terraform": 6220}
RUNS: dict[str, tuple[str, int, dict[str, bool]]] = {
    "client": ("client", 1, {}),
    "client, gzip": ("client", 1, {"accept_gzip": True}),
    "client, chunked": ("client", 1, {"chunked_request": True}),
    "client, zstd1": ("client", 1, {"zstd1": True}),
    "client, 8 workers": ("client", 8, {}),
    "flagged": ("flagged", 8, {}),
    "flagged, gzip": ("flagged", 8, {"accept_gzip": True}),
    "terraform": ("terraform", 1, {}),
    "terraform, 8 workers": ("terraform", 8, {}),
    "terraform, all at once": ("terraform", 8, {"accept_gzip": True, "chunked_request": True, "zstd1": True}),
}
"""Connection, workers of drive.py, and how it sends."""
OPTIONS = {"accept_gzip": ["--accept-gzip"], "chunked_request": ["--chunked-request"], "zstd1": ["--compress", "zstd1"]}
OFFICIAL = {"official": [], "official, async": ["--async"]}
WITHOUT_KEY = {
    "v1/test_list_ip_ranges_returns_ok_response#0": "/",
    "v2/test_get_oauth2_wellknown_sites_returns_ok_response#0": "/api/v2/oauth2/.well-known/sites",
}
"""What the official client asks without any key, as these are public: a caller's token cannot be in its place."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The corpus's replay server."""

    port: int
    control: int

    def call(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.control}{path}", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@contextlib.contextmanager
def replay_server(corpus: Path, connection: str, forbidden: list[str]) -> Iterator[Upstream]:
    upstream = Upstream(*free_ports(2))
    command: list[str | Path] = [sys.executable, corpus / "tools" / "replay_server.py", "--gzip"]
    command += ["--data", corpus / DATA[connection], "--api-key", API_KEY, "--app-key", APP_KEY]
    command += ["--port", str(upstream.port), "--control-port", str(upstream.control)]
    command += [part for each in forbidden for part in ("--forbid", each)]
    if connection != "official":  # which writes JSON in its own way
        command.append("--strict")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError):
                    upstream.call("/health")
                    break
                assert process.poll() is None, "the replay server ended"
                assert time.monotonic() < deadline, "the replay server does not answer"
                time.sleep(0.1)
            yield upstream
        finally:
            process.kill()


@dataclass(slots=True)
class Border:
    """One `douane up` with a connection to each replay server. `tokens` are by run."""

    stack: Stack
    upstreams: dict[str, Upstream]
    tokens: dict[str, str]
    corpus: Path
    auditor: Client
    passed: Counter[str] = field(default_factory=Counter)
    """Rows that each run has left."""

    def gate(self, connection: str) -> str:
        listen: str = self.stack.config["connections"][connection]["listen"]
        return listen

    def tool(self, name: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, self.corpus / "tools" / name, *arguments, "--json"],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, **environment},
        )


@pytest.fixture(scope="module")
def border(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Border]:
    with contextlib.ExitStack() as stack:
        issuer = stack.enter_context(LoopbackIssuer())
        tokens = {run: issuer.token(sub=run, expires_in=3600) for run in (*RUNS, *OFFICIAL, "pod")}
        folder = tmp_path_factory.mktemp("up")
        (folder / "pod-token").write_text(tokens["pod"])
        forbidden = [PLACEHOLDER, *tokens.values()]
        upstreams = {name: stack.enter_context(replay_server(corpus, name, forbidden)) for name in DATA}
        upstreams["pod"] = upstreams["official"]
        connections = {
            name: {
                "listen": f"127.0.0.1:{port}",
                "upstream": f"http://127.0.0.1:{upstreams[name].port}",
                "identity": {"headers": ["dd-api-key"], "require": "workload" if name == "pod" else "caller"},
                "credentials": [
                    {"header": "dd-api-key", "from": {"env": "DOUANE_TEST_API_KEY"}},
                    {"header": "dd-application-key", "from": {"file": "./app-key"}},
                ],
                "scopes": {"everything": ["* /**"]},
            }
            for name, port in zip(upstreams, free_ports(len(upstreams)), strict=True)
        }
        look = "response.status < 300 && response.json != null && response.size > 0"
        flag = {"name": "look", "match": {"connection": "flagged"}, "effect": "flag", "when": look}
        grant = {"issuer": "github", "if": "claims.repository_id == '74'"}
        douane = stack.enter_context(
            douane_up(
                folder,
                issuer.url,
                "http://127.0.0.1:9",
                gate={"workload_token_file": "./pod-token"},
                connections=connections,
                policies=[flag],
                grants=[grant | {"name": "all", "allow": {name: ["everything"] for name in connections}}],
            )
        )
        auditor = stack.enter_context(ledger.auditor(douane))
        yield Border(douane, upstreams, tokens, corpus, auditor)


@pytest.mark.parametrize("run", RUNS)
def test_every_pair_passes_unchanged_and_is_one_row(
    border: Border, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    connection, workers, options = RUNS[run]
    added = [("DD-API-KEY", border.tokens[run]), ("DD-APPLICATION-KEY", PLACEHOLDER)]
    arguments = [part for name in options for part in OPTIONS[name]]
    arguments += [part for name, value in added for part in ("--header", f"{name}: {value}")]
    began = time.monotonic()
    done = border.tool(
        "drive.py",
        *("--data", border.corpus / DATA[connection], "--base", f"http://{border.gate(connection)}"),
        *("--workers", str(workers), "--id-header", *arguments),
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}\n{border.stack.log_tail(2000)}"
    driven = json.loads(done.stdout)
    pairs = {pair.id: pair for pair in ledger.load(border.corpus / DATA[connection])}
    assert driven["equal"] == len(pairs) == PAIRS[connection]

    assert ledger.wait_for(border.auditor, run, len(pairs)) == len(pairs)
    border.passed[run] = len(pairs)
    way = ledger.Way(
        upstream=f"127.0.0.1:{border.upstreams[connection].port}",
        gate=border.gate(connection),
        added=tuple(added),
        **options,
    )
    held = ledger.Held(way)
    times_seen: Counter[str] = Counter()
    for row in ledger.rows(border.auditor, run):
        replayed = next(f["value"].decode() for f in row["req_headers"] if f["name"] == "x-replay-id")
        times_seen[replayed] += 1
        held.row(row, pairs[replayed])
    assert times_seen == dict.fromkeys(pairs, 1)
    assert held.differences == []
    query = "SELECT response_decision, count(), countIf(has(rules.policy, 'look')) FROM exchanges"
    looked = border.auditor.query(
        f"{query} WHERE subject = {{run:String}} GROUP BY 1", parameters={"run": run}
    ).result_rows
    if connection == "flagged":
        ((decision, _, flagged),) = looked
        assert decision == "pass"
        assert flagged > 1500
    else:
        assert looked == [("", len(pairs), 0)]
    with capsys.disabled():
        print(f"\n{run}: {driven['rps']} requests/s, {time.monotonic() - began:.0f} s; {held.share}")


def official(border: Border, run: str, connection: str, skip: Path, *options: str) -> dict[str, Any]:
    """Run drive_official.py through `connection`; every request that reached the upstream is one row of `run`."""
    upstream = border.upstreams["official"]
    before = upstream.call("/stats")["counts"].get("requests", 0)
    done = border.tool(
        "drive_official.py",
        *("--data", border.corpus / DATA["official"], "--base", f"http://{border.gate(connection)}"),
        *("--control", f"http://127.0.0.1:{upstream.control}", "--skip", skip, *options),
        DD_API_KEY=PLACEHOLDER if connection == "pod" else border.tokens[run],
        DD_APP_KEY=PLACEHOLDER,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}\n{border.stack.log_tail(2000)}"
    stats = upstream.call("/stats")
    assert stats["errors"] == []
    reached: int = stats["counts"]["requests"] - before
    assert ledger.wait_for(border.auditor, run, reached) == reached
    border.passed[run] += reached
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("run", OFFICIAL)
def test_the_official_client_does_its_work(
    border: Border, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip = tmp_path / "skip.txt"
    skip.write_text("\n".join([(border.corpus / "tools" / "official_skip.txt").read_text().strip(), *WITHOUT_KEY]))
    done = official(border, run, "official", skip, *OFFICIAL[run])
    assert done["equal"] == done["called"] > 2400
    assert done["compressed_ok"] == 14
    with capsys.disabled():
        print(f"\n{run}: {done}")


def test_what_the_official_client_asks_without_a_key_needs_the_identity_of_the_pod(border: Border) -> None:
    only = "|".join(name.partition("#")[0] for name in WITHOUT_KEY)
    skip = border.corpus / "tools" / "official_skip.txt"
    done = official(border, "pod", "pod", skip, "--only", only)
    assert done["equal"] == len(WITHOUT_KEY)
    for path in WITHOUT_KEY.values():
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{border.gate('official')}{path}", timeout=10)
        assert (refused.value.code, json.load(refused.value)["reason"]) == (401, "identity.missing")
    border.passed[""] = ledger.wait_for(border.auditor, "", len(WITHOUT_KEY))
    assert border.passed[""] == len(WITHOUT_KEY)


def test_no_key_token_or_placeholder_was_left(border: Border) -> None:
    secrets = {"API key": API_KEY, "application key": APP_KEY, "placeholder": PLACEHOLDER}
    secrets |= leaks.fragments(border.tokens["terraform, all at once"])
    assert leaks.rows(border.auditor, secrets) == []
    given = [border.stack.folder / "app-key", border.stack.folder / "pod-token"]
    assert find(leaks.contents(border.stack.folder, given), secrets) == []


TAMPERED: dict[str, Callable[[dict[str, Any]], None]] = {
    "path": lambda row: row.update(path=row["path"] + "x"),
    "method": lambda row: row.update(method="TRACE"),
    "status": lambda row: row.update(status=299),
    "header value": lambda row: row["req_headers"][1].update(value=b"text/plain"),
    "header missing": lambda row: row["resp_headers"].pop(0),
    "header added": lambda row: row["req_headers"].append({"name": "x-more", "value": b""}),
    "body": lambda row: row.update(req_body=row["req_body"] + b" "),
    "form": lambda row: row.update(req_form="decoded"),
    "mask unlisted": lambda row: row["masked"].pop(),
    "mask too long": lambda row: row["masked"][0].update(original_length=row["masked"][0]["original_length"] + 1),
    "mask elsewhere": lambda row: row["masked"].append({**row["masked"][0], "place": "resp_trailers"}),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_row_that_differs_is_noticed(corpus: Path, what: str) -> None:
    pair = next(p for p in ledger.load(corpus / DATA["client"]) if p.request and p.response)
    way = ledger.Way("127.0.0.1:1", "127.0.0.1:2", (("DD-API-KEY", "a-token"),))
    row: dict[str, Any] = {
        "method": pair.method,
        "host": way.upstream,
        "path": pair.path,
        "query": pair.query,
        "status": pair.status,
        "decision": "allow",
        "outcome": "complete",
        "req_form": "as_sent",
        "resp_form": "as_sent",
        "req_body": pair.request,
        "resp_body": pair.response,
        "req_headers": fields(way.request(pair)[0]),
        "resp_headers": fields(way.response(pair)[0]),
    }
    key = next(i for i, each in enumerate(row["req_headers"]) if each["name"] == "dd-api-key")
    row["req_headers"][key]["value"] = mark = b"[MASKED:token:]"
    mask = {"place": "req_headers", "index": key, "start": 0, "length": len(mark), "original_length": len("a-token")}
    row["masked"] = [{**mask, "detector": "token", "fingerprint": ""}]
    assert differences(way, row, pair) == []
    TAMPERED[what](row)
    assert len(differences(way, row, pair)) == 1


def fields(sent: ledger.Fields) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in sent]


def differences(way: ledger.Way, row: dict[str, Any], pair: ledger.Pair) -> list[str]:
    held = ledger.Held(way)
    held.row(row, pair)
    return held.differences


def test_no_row_came_twice_or_late(border: Border) -> None:
    """Runs last: whatever a run left is still what it left then, and nothing else is in the ledger."""
    found = border.auditor.query("SELECT subject, count(), uniqExact(exchange_id) FROM exchanges GROUP BY subject")
    assert sorted(found.result_rows) == sorted((run, n, n) for run, n in border.passed.items())
