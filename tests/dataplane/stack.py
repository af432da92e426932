"""`douane up` as a user runs it: a configuration file, the command, `/readyz`; and the ledger read back by SQL."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

API_KEY = "real-api-key-0123456789abcdef0123"
APP_KEY = "real-app-key-fedcba9876543210fedcba9876543210"
PLACEHOLDER = "placeholder-application-key"


def free_ports(count: int) -> list[int]:
    """Ports that are free now; all are held open together, so they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass
class Stack:
    """A running `douane up`. `url` is the base URL of the connection `datadog`."""

    folder: Path
    port: int
    console_port: int
    tls_port: int
    process: subprocess.Popen[bytes]
    config: dict[str, Any]
    environment: Mapping[str, str] = field(repr=False, default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def config_file(self) -> Path:
        return self.folder / "douane.yaml"

    def ready(self, timeout: float = 60) -> None:
        """Wait for `/readyz`; fails with the log's tail."""
        deadline = time.monotonic() + timeout
        last = ""
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.console_port}/readyz", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except urllib.error.HTTPError as error:
                last = error.read().decode(errors="replace")
            except OSError as error:
                last = str(error)
            time.sleep(0.1)
        raise AssertionError(f"douane up is not ready ({last}):\n{self.log_tail()}")

    def log_tail(self, size: int = 6000) -> str:
        # os.walk, because the store's temporary folders go away while we look
        logs = [Path(at, name) for at, _, names in os.walk(self.folder) for name in names if name.endswith(".log")]
        return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-size:]}" for p in sorted(logs))

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Another `douane` command on the same configuration."""
        done = subprocess.run(
            [sys.executable, "-m", "ext_proc.cli", *arguments, "-c", str(self.config_file)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done

    def sql(self, query: str) -> list[dict[str, Any]]:
        out = self.command("sql", query, "--json").stdout
        return [json.loads(line) for line in out.splitlines() if line.strip()]

    def rows(self, where: str = "1", *, expect: int | None = None, timeout: float = 20) -> list[dict[str, Any]]:
        """Rows of `exchanges`, waiting until there are `expect` of them."""
        deadline = time.monotonic() + timeout
        while True:
            count = int(self.sql(f"SELECT count() AS n FROM exchanges WHERE {where}")[0]["n"])
            if expect is None or count >= expect or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        rows = self.sql(f"SELECT * FROM exchanges WHERE {where} ORDER BY ts")
        if expect is not None:
            assert len(rows) == expect, f"{len(rows)} rows, {expect} expected:\n{self.log_tail(2000)}"
        return rows

    def pids(self) -> dict[str, list[int]]:
        """Children by role: worker, hub, store, envoy."""
        found: dict[str, list[int]] = {"worker": [], "hub": [], "store": [], "envoy": []}
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"ext_proc.app" in command:
                    found[command[command.index(b"ext_proc.app") + 1].decode()].append(pid)
                elif b"envoy" in Path(os.fsdecode(command[0])).name.encode():
                    found["envoy"].append(pid)
        return found

    def reload(self, config: dict[str, Any]) -> None:
        self.config = config
        self.config_file.write_text(json.dumps(config))
        self.process.send_signal(signal.SIGHUP)

    def start_again(self) -> None:
        """After the supervisor's end, on the same folder and ports."""
        assert self.process.poll() is not None
        self.process = launch(self.folder, self.environment)

    def stop(self, timeout: float = 40) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def configuration(issuer_url: str, upstream: str, ports: list[int], **overrides: Any) -> dict[str, Any]:
    """A configuration with one connection, `datadog`, that lets a GitHub-like job on main do everything."""
    base: dict[str, Any] = {
        "version": 1,
        "store": {"url": "embedded:./var/store", "listen": f"127.0.0.1:{ports[2]}"},
        "console": {"listen": f"127.0.0.1:{ports[1]}"},
        "gate": {"workers": 2, "tls_listen": f"127.0.0.1:{ports[3]}"},
        "issuers": {"github": {"issuer": issuer_url, "audience": "douane"}},
        "connections": {
            "datadog": {
                "listen": f"127.0.0.1:{ports[0]}",
                "hosts": ["api.datadog.test"],
                "upstream": upstream,
                "identity": {"headers": ["dd-api-key", "authorization"]},
                "credentials": [
                    {"header": "dd-api-key", "from": {"env": "DOUANE_TEST_API_KEY"}},
                    {"header": "dd-application-key", "from": {"file": "./app-key"}},
                ],
                "scopes": {"everything": ["* /**"]},
            }
        },
        "grants": [
            {
                "name": "main",
                "issuer": "github",
                "if": "claims.repository_id == '74'",
                "allow": {"datadog": ["everything"]},
            }
        ],
    }
    return merge(base, overrides)


def merge(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def launch(folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """`douane up` on the configuration in `folder`; what it prints is added to `up.log`."""
    with (folder / "up.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ext_proc.cli", "up", "-c", str(folder / "douane.yaml")],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
        )


@contextlib.contextmanager
def douane_up(
    folder: Path,
    issuer_url: str,
    upstream: str,
    *,
    wait: bool = True,
    api_key: str = API_KEY,
    **overrides: Any,
) -> Iterator[Stack]:
    """Start `douane up` in `folder`, wait until it is ready, stop it at the end. `api_key` is in its environment."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = free_ports(4)
    config = configuration(issuer_url, upstream, ports, **overrides)
    (folder / "douane.yaml").write_text(json.dumps(config))
    (folder / "app-key").write_text(APP_KEY + "\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DOUANE_")}
    environment["DOUANE_TEST_API_KEY"] = api_key
    process = launch(folder, environment)
    stack = Stack(folder, ports[0], ports[1], ports[3], process, config, environment)
    try:
        if wait:
            stack.ready()
        yield stack
    finally:
        left = descendants(stack.process.pid)
        try:
            stack.stop()
        finally:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
