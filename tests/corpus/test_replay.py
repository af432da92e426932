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
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from tests.corpus import ledger
from tests.dataplane.stack import API_KEY, APP_KEY, PLACEHOLDER, Stack, douane_up, free_ports
from tests.issuer import LoopbackIssuer

pytestmark = [pytest.mark.corpus, pytest.mark.dataplane, pytest.mark.clickhouse, pytest.mark.slow]

DATA = {
    "client": "datadog-client.jsonl.gz",
    "terraform": "datadog-terraform.jsonl.gz",
    "official": "datadog-client.jsonl.gz",
}
PAIRS = {"client": 2486, "terraform": 6220}
RUNS: dict[str, tuple[str, int, dict[str, bool]]] = {
    "client": ("client", 1, {}),
    "client, gzip": ("client", 1, {"accept_gzip": True}),
    "client, chunked": ("client", 1, {"chunked_request": True}),
    "client, zstd1": ("client", 1, {"zstd1": True}),
    "client, 8 workers": ("client", 8, {}),
    "terraform": ("terraform", 1, {}),
    "terraform, 8 workers": ("terraform", 8, {}),
    "terraform, all at once": ("terraform", 8, {"accept_gzip": True, "chunked_request": True, "zstd1": True}),
}
"""Connection, workers of drive.py, and how it sends."""
OPTIONS = {"accept_gzip": ["--accept-gzip"], "chunked_request": ["--chunked-request"], "zstd1": ["--compress", "zstd1"]}
OFFICIAL = {"official": [], "official, async": ["--async"]}


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
        tokens = {run: issuer.token(sub=run, expires_in=3600) for run in (*RUNS, *OFFICIAL)}
        forbidden = [PLACEHOLDER, *tokens.values()]
        upstreams = {name: stack.enter_context(replay_server(corpus, name, forbidden)) for name in DATA}
        connections = {
            name: {
                "listen": f"127.0.0.1:{port}",
                "upstream": f"http://127.0.0.1:{upstreams[name].port}",
                "identity": {"headers": ["dd-api-key"]},
                "credentials": [
                    {"header": "dd-api-key", "from": {"env": "DOUANE_TEST_API_KEY"}},
                    {"header": "dd-application-key", "from": {"file": "./app-key"}},
                ],
                "scopes": {"everything": ["* /**"]},
            }
            for name, port in zip(DATA, free_ports(len(DATA)), strict=True)
        }
        grant = {"issuer": "github", "if": "claims.repository_id == '74'"}
        douane = stack.enter_context(
            douane_up(
                tmp_path_factory.mktemp("up"),
                issuer.url,
                "http://127.0.0.1:9",
                connections=connections,
                grants=[grant | {"name": "all", "allow": {name: ["everything"] for name in DATA}}],
            )
        )
        auditor = stack.enter_context(ledger.auditor(douane))
        yield Border(douane, upstreams, tokens, corpus, auditor)


@pytest.mark.parametrize("run", RUNS)
def test_every_pair_passes_unchanged_and_is_one_row(border: Border, run: str, capsys: pytest.CaptureFixture[str]) -> None:
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
    with capsys.disabled():
        print(f"\n{run}: {driven['rps']} requests/s, {time.monotonic() - began:.0f} s; {held.share}")


@pytest.mark.parametrize("run", OFFICIAL)
def test_the_official_client_does_its_work(border: Border, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    upstream = border.upstreams["official"]
    before = upstream.call("/stats")["counts"].get("requests", 0)
    done = border.tool(
        "drive_official.py",
        *("--data", border.corpus / DATA["official"], "--base", f"http://{border.gate('official')}"),
        *("--control", f"http://127.0.0.1:{upstream.control}"),
        *("--skip", border.corpus / "tools" / "official_skip.txt", *OFFICIAL[run]),
        DD_API_KEY=border.tokens[run],
        DD_APP_KEY=PLACEHOLDER,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}\n{border.stack.log_tail(2000)}"
    reached = upstream.call("/stats")["counts"]["requests"] - before
    assert ledger.wait_for(border.auditor, run, reached) == reached
    border.passed[run] = reached
    with capsys.disabled():
        print(f"\n{run}: {done.stdout.strip()}")


def test_no_row_came_twice_or_late(border: Border) -> None:
    """Runs last: whatever a run left is still what it left then, and nothing else is in the ledger."""
    found = border.auditor.query("SELECT subject, count(), uniqExact(exchange_id) FROM exchanges GROUP BY subject")
    assert sorted(found.result_rows) == sorted((run, n, n) for run, n in border.passed.items())
