"""What is measured. Each subject is a context manager that starts it before `upstream` and ends it.

All get the same number of workers: Envoy's threads, ext_proc processes, and Go's scheduler threads. mitmproxy is one
process with one thread of Python and cannot have more.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import envoy, tools
from bench.processes import ROOT, Group, free_port, wait_file, wait_listening, wait_ready
from examples.demo import issuer

REAL_KEY = "bench-real-key-0123456789abcdef0"
CLAIMS = {
    "repository": "acme/infra",
    "repository_id": "74",
    "ref": "refs/heads/main",
    "run_id": "1",
    "run_attempt": "1",
}
SUBJECT = "repo:acme/infra:ref:refs/heads/main"


@dataclass(slots=True)
class Running:
    """A subject that takes requests at `url`. `headers` are what its clients send."""

    url: str
    group: Group
    headers: list[str] = field(default_factory=lambda: ["dd-api-key: the-callers-placeholder"])


@dataclass(frozen=True, slots=True)
class Subject:
    """`start(upstream_port, workers)`."""

    name: str
    title: str
    start: Callable[[int, int], AbstractContextManager[Running]]


@contextmanager
def _group(name: str) -> Iterator[Group]:
    folder = Path(tempfile.mkdtemp(prefix=f"douane-bench-{name}-"))
    try:
        with Group(folder) as group:
            yield group
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def alone(upstream: int, workers: int) -> Iterator[Running]:
    with _group("envoy") as group:
        port = free_port()
        group.start("envoy", envoy.command(envoy.write(group.folder, port, upstream, []), workers))
        wait_listening(port, group)
        yield Running(f"http://127.0.0.1:{port}", group)


@contextmanager
def _with_server(upstream: int, workers: int, name: str, command: list[str | Path]) -> Iterator[Running]:
    with _group(name) as group:
        sockets = [str(group.folder / f"worker-{slot}.sock") for slot in range(workers)]
        for slot, socket in enumerate(sockets):
            group.start(f"worker-{slot}", [*command, socket], env={"GOMAXPROCS": "1"})
        for socket in sockets:
            wait_file(Path(socket), group)
        port = free_port()
        group.start("envoy", envoy.command(envoy.write(group.folder, port, upstream, sockets), workers))
        wait_listening(port, group)
        yield Running(f"http://127.0.0.1:{port}", group)


def noop_python(upstream: int, workers: int) -> AbstractContextManager[Running]:
    return _with_server(upstream, workers, "noop", [sys.executable, "-m", "bench.noop"])


def noop_go(binary: Path) -> Callable[[int, int], AbstractContextManager[Running]]:
    return lambda upstream, workers: _with_server(upstream, workers, "noop-go", [binary])


DOUANE = """\
version: 1
store: {{url: "embedded:{folder}/store", listen: "127.0.0.1:{store}"}}
console: {{listen: "127.0.0.1:{console}"}}
hub: {{path: "{folder}/hub", listen: "unix:{folder}/run/hub.sock"}}
gate: {{workers: {workers}, run_dir: "{folder}/run"}}
issuers:
  bench: {{issuer: "http://127.0.0.1:{issuer}", audience: douane}}
connections:
  datadog:
    listen: "127.0.0.1:{listen}"
    upstream: "http://127.0.0.1:{upstream}"
    identity: {{headers: [dd-api-key]}}
    credentials: [{{header: dd-api-key, from: {{env: BENCH_API_KEY}}}}]
    scopes: {{bytes: ["POST /bytes/{{size}}"]}}
grants:
  - name: bench
    issuer: bench
    if: "claims.repository_id == '74' && claims.ref == 'refs/heads/main'"
    allow: {{datadog: [bytes]}}
{policies}recording: {{durability: {durability}, spool: {{path: "{folder}/spool", max_size: 16GiB}}}}
"""


RULE = """\
policies:
  - name: no-iframes
    match: {connection: datadog}
    effect: deny
    when: "widgets(request.json).exists(w, w.definition.type == 'iframe')"
"""
HOLD = """\
policies:
  - name: held
    match: {connection: datadog}
    effect: hold
    when: "has(request.json.hold)"
    approvers: [local]
    wait: 10m
"""
LOOKED_INTO = (
    RULE
    + """\
  - name: no-keys
    match: {connection: datadog}
    effect: withhold
    when: "has(response.json.api_key)"
masking: {response: client}
"""
)


@contextmanager
def douane(upstream: int, workers: int, durability: str = "process", *, policies: str = RULE) -> Iterator[Running]:
    """Everything on: identity, grant, a rule over the JSON body, credential, masking, journal, hub and ledger."""
    with _group("douane") as group, _group("issuer") as aside:
        ports = {name: free_port() for name in ("store", "console", "issuer", "listen")}
        aside.start("issuer", issuer.command(ports["issuer"], SUBJECT, CLAIMS))
        wait_listening(ports["issuer"], aside)
        token = issuer.id_token(f"http://127.0.0.1:{ports['issuer']}", SUBJECT, "douane")
        config = group.folder / "douane.yaml"
        config.write_text(
            DOUANE.format(
                folder=group.folder,
                upstream=upstream,
                workers=workers,
                durability=durability,
                policies=policies,
                **ports,
            )
        )
        command: list[str | Path] = [sys.executable, "-m", "ext_proc.cli", "up", "-c", config]
        group.start("douane", command, cwd=ROOT, env={"BENCH_API_KEY": REAL_KEY})
        wait_ready(f"http://127.0.0.1:{ports['console']}/readyz", group)
        yield Running(f"http://127.0.0.1:{ports['listen']}", group, [f"dd-api-key: {token}"])


@contextmanager
def mitmproxy(upstream: int, _workers: int) -> Iterator[Running]:
    """Reverse mode; puts the header in and writes every flow to a file."""
    with _group("mitmproxy") as group:
        port = free_port()
        flows = group.folder / "flows"
        command: list[str | Path] = [
            tools.mitmdump(),
            "--quiet",
            *("--mode", f"reverse:http://127.0.0.1:{upstream}"),
            *("--listen-host", "127.0.0.1", "--listen-port", str(port)),
            *("--modify-headers", f"/~q/dd-api-key/{REAL_KEY}"),
            *("--save-stream-file", flows),
            *("--set", f"confdir={group.folder}"),
        ]
        group.start("mitmdump", command, env={"HOME": os.fspath(group.folder)})
        wait_listening(port, group)
        yield Running(f"http://127.0.0.1:{port}", group)


def available() -> list[Subject]:
    """All subjects that this machine can run, in the order of the report."""
    found = [
        Subject("envoy", "Envoy alone", alone),
        Subject("noop-python", "Envoy + Python server that does nothing", noop_python),
    ]
    if binary := tools.noop_go():
        found.append(Subject("noop-go", "Envoy + Go server that does nothing", noop_go(binary)))
    found.append(Subject("douane", "Douane, everything on", douane))
    found.append(Subject("mitmproxy", "mitmproxy, header and flow file", mitmproxy))
    return found
