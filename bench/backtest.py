"""How many recorded exchanges a minute `douane policy test` judges. `make bench-backtest`, with DOUANE_CORPUS set.

The corpus is laid into an embedded store of its own as often as it takes, as sessions of the last six days; then the
command runs over all of it with the ten policies of `bench.policies`, and once more with one that counts sessions.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid5

from bench import recorded
from bench.policies import TYPICAL
from bench.processes import free_port
from ext_proc.config import load
from ext_proc.errors import StoreError
from ext_proc.hub.clickhouse import ClickHouse
from ext_proc.hub.schema import Layout, migrate

_DAYS_US = 6 * 86_400_000_000
_OF_DASHBOARDS = ("titled", "no-links-out")
_COUNTING = {"name": "few-writes", "effect": "deny", "when": "session.window.writes > 500"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.backtest", description=__doc__)
    parser.add_argument("--exchanges", type=int, default=100_000, help="how many are laid into the store")
    parser.add_argument("--processes", type=int, default=0, help="as the command's --processes")
    options = parser.parse_args()
    corpus = os.environ.get("DOUANE_CORPUS")
    if not corpus:
        parser.error("DOUANE_CORPUS names no folder of recorded traffic")
    with tempfile.TemporaryDirectory(prefix="douane-bench-") as name:
        folder = Path(name)
        config = folder / "douane.yaml"
        config.write_text(json.dumps(_config(free_port())))
        store = subprocess.Popen([sys.executable, "-m", "ext_proc.cli", "store", "-c", str(config)])
        try:
            _fill(config, store, Path(corpus), options.exchanges)
            policies = _policies()
            _measure(config, folder / "ten.yaml", policies, options.processes)
            _measure(config, folder / "counting.yaml", [*policies[1:], _COUNTING], options.processes)
        finally:
            store.terminate()
            store.wait(30)
    return 0


def _config(port: int) -> dict[str, Any]:
    return {
        "version": 1,
        "store": {"url": "embedded:./store", "listen": f"127.0.0.1:{port}"},
        "issuers": {"github": {"issuer": recorded.CLAIMS["iss"], "audience": "douane"}},
        "connections": {
            "datadog": {
                "listen": "127.0.0.1:1",
                "upstream": "https://api.datadoghq.com",
                "scopes": {"everything": ["* /**"]},
            }
        },
        "grants": [
            {
                "name": "infra-main",
                "issuer": "github",
                "if": "claims.repository_id == '74'",
                "allow": {"datadog": ["everything"]},
            }
        ],
    }


def _policies() -> list[dict[str, Any]]:
    """Those of `bench.policies`, each looking at every request but for what only a dashboard has."""
    of_dashboards = {"connection": "datadog", "requests": ["POST /api/v1/dashboard", "PUT /api/v1/dashboard/{id}"]}
    return [
        {"name": name, "effect": "deny", "when": when, "match": of_dashboards if name in _OF_DASHBOARDS else {}}
        for name, when in TYPICAL.items()
    ]


def _fill(config: Path, store: subprocess.Popen[bytes], corpus: Path, count: int) -> None:
    settings = load(config).config
    clickhouse = ClickHouse(settings.store)
    deadline = time.monotonic() + 60
    while True:
        try:
            clickhouse.ping()
            break
        except StoreError:
            if store.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    migrate(clickhouse, Layout("douane", settings.recording.retention))
    began = time.monotonic()
    recorded.insert(clickhouse, _rows(corpus, count))
    print(f"{count:,} exchanges laid into the store in {time.monotonic() - began:.0f} s", flush=True)


def _rows(corpus: Path, count: int) -> Iterator[dict[str, Any]]:
    pairs = [row for name in recorded.DATA for row in recorded.corpus(corpus, name)]
    start = time.time_ns() // 1000 - _DAYS_US
    for n in range(count):
        turn, of = divmod(n, len(pairs))
        pair = dict(pairs[of])
        pair["session_id"] = uuid5(pair["session_id"], str(turn))
        yield recorded.row(start + n * _DAYS_US // count, n, pair)


def _measure(config: Path, file: Path, policies: list[dict[str, Any]], processes: int) -> None:
    file.write_text(json.dumps({"policies": policies}))
    command = [sys.executable, "-m", "ext_proc.cli", "policy", "test", str(file), "-c", str(config), "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--processes", str(processes), "--fail-on", "never"], stdout=subprocess.PIPE, text=True, check=True
    )
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = json.loads(done.stdout.splitlines()[-1])["summary"]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    of_each = cpu / summary["exchanges"] * 1e6
    print(
        f"{file.stem}: {summary['exchanges']:,} exchanges, {len(policies)} policies, {seconds:.1f} s: "
        f"{summary['exchanges'] / seconds * 60:,.0f} a minute, start included;\n"
        f"  {of_each:.0f} us of CPU an exchange beside the store's; the largest process had "
        f"{after.ru_maxrss >> 10} MB; {summary['changed']:,} would change, {summary['uncertain']:,} uncertain",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
