"""`douane up` through its life on real Envoy: changes while it runs, a job's session keys, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.dataplane.background import Background
from tests.dataplane.stack import API_KEY, Stack, descendants, douane_up, free_ports, merge
from tests.dataplane.upstreams import web
from tests.issuer import LoopbackIssuer

pytestmark = pytest.mark.dataplane


@pytest.fixture(scope="module")
def upstream(servers: Background) -> Any:
    return servers.enter(web())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, issuer: LoopbackIssuer, upstream: Any) -> Iterator[Stack]:
    with douane_up(tmp_path_factory.mktemp("life"), issuer.url, upstream.url, gate={"drain": "6s"}) as running:
        yield running


def call(url: str, token: str, timeout: float = 20) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def log(stack: Stack) -> str:
    return (stack.folder / "var/run/logs/supervisor.log").read_text()


def logged(stack: Stack, text: str) -> bool:
    return text in log(stack)


def test_a_saved_change_is_served_and_a_refused_one_changes_nothing(stack: Stack, issuer: LoopbackIssuer) -> None:
    token = issuer.token()
    port = free_ports(1)[0]
    good = stack.config
    second = {**good["connections"]["datadog"], "listen": f"127.0.0.1:{port}", "hosts": []}
    changed = merge(good, {"connections": {"second": second}})
    changed["grants"] = [merge(good["grants"][0], {"allow": {"second": ["everything"]}})]
    stack.config_file.write_text(json.dumps(changed))  # no signal: the file is watched
    until(lambda: log(stack).count('"configuration applied"') == 1)
    assert call(f"http://127.0.0.1:{port}/echo", token)[0] == 200

    broken = json.loads(json.dumps(changed))
    broken["grants"][0]["if"] = "claimz.x"
    for text, reason in (
        ("version: 1\nnonsense: 1\n", "config.unknown_key"),
        (json.dumps(merge(changed, {"gate": {"workers": 3}})), "config.needs_restart"),
        (json.dumps(broken), "config.condition"),
    ):
        stack.config_file.write_text(text)
        until(partial(logged, stack, f'"reason": "{reason}"'))
    for pid in stack.pids()["worker"]:  # who starts again reads the last good text, not the file
        os.kill(pid, signal.SIGKILL)
    until(lambda: log(stack).count("worker-0 is ready") == 2 and log(stack).count("worker-1 is ready") == 2)
    # Envoy takes a moment to see that both are back; until then some answers are a clean 503.
    for url in (f"http://127.0.0.1:{port}", stack.url):
        until(lambda url=url: all(call(f"{url}/echo", token)[0] == 200 for _ in range(6)))

    stack.reload(good)
    until(lambda: log(stack).count('"configuration applied"') == 2)
    with pytest.raises(urllib.error.URLError):
        call(f"http://127.0.0.1:{port}/echo", token)


def test_run_gives_a_job_keys_that_end_with_it(stack: Stack, issuer: LoopbackIssuer) -> None:
    script = (
        "import os, urllib.request as u\n"
        "assert 'DOUANE_TOKEN' not in os.environ\n"
        "assert os.environ['KEY'] == os.environ['DOUANE_SESSION_DATADOG']\n"
        "r = u.Request(os.environ['DOUANE_URL_DATADOG'] + '/echo/job', headers={'dd-api-key': os.environ['KEY']})\n"
        "print(os.environ['KEY'], u.urlopen(r).status)\n"
        "raise SystemExit(7)\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ext_proc.cli", "run", "-c", str(stack.config_file), "--set", "KEY=datadog"),
            *("--", sys.executable, "-c", script),
        ],
        env={**os.environ, "DOUANE_TOKEN": issuer.token()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 7, done.stderr
    key, status = done.stdout.split()
    assert status == "200"
    # Revoked; a worker may use what it knew of the key for five seconds more.
    time.sleep(6)
    for _ in stack.pids()["worker"]:
        code, body = call(f"{stack.url}/echo/after", key)
        assert (code, json.loads(body)["reason"]) == (401, "identity.session_unknown")
    row = stack.rows("path = '/echo/job'", expect=1)[0]
    assert row["session_label"]
    assert not stack.sql(f"SELECT 1 AS n FROM exchanges WHERE positionCaseInsensitive(resp_body, '{key}') > 0")


def test_only_workers_have_the_upstreams_key_in_their_environment(stack: Stack) -> None:
    workers = set(stack.pids()["worker"])
    everyone = {stack.process.pid, *descendants(stack.process.pid)}
    holders = {pid for pid in everyone if API_KEY.encode() in Path(f"/proc/{pid}/environ").read_bytes()}
    assert len(workers) == 2
    assert holders == workers


def test_sigterm_lets_open_requests_end_and_takes_no_new_ones(stack: Stack, issuer: LoopbackIssuer) -> None:
    token = issuer.token()
    answers: list[tuple[int, bytes]] = []
    slow = threading.Thread(
        target=lambda: answers.append(call(f"{stack.url}/sse?events=6&pause=0.5", token)), daemon=True
    )
    slow.start()
    time.sleep(0.7)
    left = descendants(stack.process.pid)
    stack.process.terminate()
    until(lambda: '"stopping' in log(stack), 5)
    time.sleep(0.5)
    with pytest.raises(urllib.error.URLError):
        call(f"{stack.url}/echo/late", token, timeout=3)
    slow.join(10)
    assert stack.process.wait(30) == 0
    assert answers
    assert answers[0][0] == 200
    assert answers[0][1].count(b"data:") == 6
    assert not [pid for pid in left if Path(f"/proc/{pid}/cmdline").exists() and is_alive(pid)]
    segments = list((stack.folder / "var/spool").rglob("*.journal"))
    assert segments == [], "the spool was shipped"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
