"""`make demo`: a CI job changes dashboards through Douane; then the ledger tells who did what.

Everything runs on this machine, with secrets made for this run: an OIDC issuer, a small Datadog, Douane, and the job.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax

from examples.demo import issuer, leaks

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

CONFIG = """\
version: 1
store: {{url: "embedded:./store", listen: "127.0.0.1:{store}"}}
console: {{listen: "127.0.0.1:{console}"}}
hub: {{path: ./hub, listen: "unix:./run/hub.sock"}}
gate: {{run_dir: ./run}}

issuers:                      # whose tokens count
  github: {{issuer: "http://127.0.0.1:{issuer}", audience: douane}}

connections:                  # where requests may go, and with which real keys
  datadog:
    listen: 127.0.0.1:{listen}
    upstream: http://127.0.0.1:{upstream}
    identity: {{headers: [dd-api-key]}}
    hold: {{status: 429, reset_header: x-ratelimit-reset, retry_after: 2s}}   # which the official client retries
    credentials:
      - {{header: dd-api-key, from: {{env: DEMO_DD_API_KEY}}}}
      - {{header: dd-application-key, from: {{env: DEMO_DD_APP_KEY}}}}
    scopes:
      dashboards:read: ["GET /api/v1/dashboard", "GET /api/v1/dashboard/{{id}}"]
      dashboards:write: ["POST /api/v1/dashboard", "PUT /api/v1/dashboard/{{id}}", "DELETE /api/v1/dashboard/{{id}}"]

grants:                       # who may do what; nothing else is allowed
  - name: infra-main
    issuer: github
    if: "claims.repository_id == '74' && claims.ref == 'refs/heads/main'"
    allow: {{datadog: ["dashboards:read", "dashboards:write"]}}

policies:
  - name: no-iframes
    match: {{connection: datadog, requests: ["POST /api/v1/dashboard", "PUT /api/v1/dashboard/{{id}}"]}}
    effect: deny
    when: "widgets(request.json).exists(w, w.definition.type == 'iframe')"
    message: iframe widgets are not allowed
  - name: deletes-need-a-person
    match: {{connection: datadog}}
    effect: hold
    when: "request.method == 'DELETE'"
    message: deletes need a person
    approvers: [local]        # here: whoever operates this machine; elsewhere group:sre, signed in by OIDC
    wait: 30s                 # then the client is told to send it again

recording: {{spool: {{path: ./spool}}}}
"""
SUBJECT = "repo:acme/infra:ref:refs/heads/main"
CLAIMS = {
    "repository": "acme/infra",
    "repository_id": "74",
    "ref": "refs/heads/main",
    "actor": "octocat",
    "workflow": "dashboards",
    "run_id": "8231",
    "run_attempt": "1",
}
EXCHANGES = 6
"""What the job does at least: create, a refused create, update, list, a refused list, a held delete."""
SQL = (
    "SELECT formatDateTime(ts, '%T') AS at, JSONExtractString(claims, 'actor') AS actor, "
    "method, path, decision, reason, arrayStringConcat(approved_by, ', ') AS approved_by FROM exchanges ORDER BY ts"
)

console = Console(highlight=False)


class DemoError(Exception):
    """The demo cannot go on; the message says what to look at."""


@dataclass(slots=True)
class Demo:
    folder: Path
    ports: Mapping[str, int]
    keys: Mapping[str, str] = field(repr=False)
    processes: list[tuple[str, subprocess.Popen[bytes], IO[bytes]]] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.folder / "douane.yaml"

    @property
    def gate(self) -> str:
        return f"http://127.0.0.1:{self.ports['listen']}"

    def start(self, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        log = (self.folder / f"{name}.log").open("wb")
        process = subprocess.Popen(
            [os.fspath(part) for part in command],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self.processes.append((name, process, log))

    def stop(self) -> None:
        """End everything, Douane first; it ships what it recorded before it goes."""
        for _name, process, log in reversed(self.processes):
            process.terminate()
            try:
                process.wait(25)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()
        self.processes.clear()

    def wait(self, what: str, ready: Callable[[], bool], limit: float = 60) -> None:
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            for name, process, _log in self.processes:
                if process.poll() is not None:
                    raise DemoError(f"{name} ended with {process.returncode}:\n{self.tail(name)}")
            with suppress(OSError, urllib.error.URLError):
                if ready():
                    return
            time.sleep(0.1)
        raise DemoError(f"{what}: not after {limit:.0f} s. Logs are in {self.folder}:\n{self.tail('douane')}")

    def tail(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def show(self, *words: str) -> None:
        """Run a command of Douane's as a person would, on this terminal."""
        console.print(f"\n[bold]$ douane {escape(_quoted(words))}[/]", soft_wrap=True)
        sys.stdout.flush()
        done = subprocess.run([_douane(), *words], check=False)
        if done.returncode:
            raise DemoError(f"douane {words[0]} ended with {done.returncode}")

    def rows(self, query: str) -> list[dict[str, Any]]:
        """What SQL answers."""
        return self.ask("sql", query)

    def ask(self, *words: str) -> list[dict[str, Any]]:
        """What a command of Douane's answers with `--json`."""
        done = subprocess.run([_douane(), *words, "--json"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise DemoError(f"douane {words[0]} ended with {done.returncode}:\n{done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> int:
    keep = os.environ.get("KEEP", "") not in ("", "0")
    began = time.monotonic()
    folder = _folder()
    demo = Demo(
        folder,
        {name: _free_port() for name in ("store", "console", "issuer", "listen", "upstream")},
        {"DEMO_DD_API_KEY": secrets.token_hex(16), "DEMO_DD_APP_KEY": secrets.token_hex(20)},
    )
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that everything is stopped then too, as by a closed terminal
        signal.signal(number, signal.default_int_handler)
    os.chdir(folder)  # so that every command finds ./douane.yaml by itself
    with ExitStack() as stack:
        stack.callback(demo.stop)
        try:
            token = begin(demo)
            job(demo, token)
            ledger(demo)
            proof(demo, token)
            console.print(f"\nThat took {time.monotonic() - began:.0f} s.")
            go_on(demo, keep)
        except DemoError as error:
            console.print(f"\n[red bold]The demo failed.[/] {escape(str(error))}")
            return 1
        except KeyboardInterrupt:
            console.print("\nStopping.")
    return 0


def begin(demo: Demo) -> str:
    """Start the issuer, the small Datadog and Douane; the job's token."""
    console.print(Rule("[bold]1. An issuer, a small Datadog, and Douane"))
    demo.start("issuer", issuer.command(demo.ports["issuer"], SUBJECT, CLAIMS, lifetime_s=300))
    demo.start("datadog", [sys.executable, HERE / "datadog.py", str(demo.ports["upstream"])], demo.keys)
    demo.config.write_text(CONFIG.format(**demo.ports))
    console.print(f"[dim]{demo.config}[/]", soft_wrap=True)
    console.print(
        Syntax(demo.config.read_text().partition("\n\n")[2], "yaml", background_color="default", word_wrap=True)
    )
    console.print("[bold]$ douane up[/]   [dim](the real keys are in its environment, and nowhere else)[/]")
    demo.start("douane", [_douane(), "up"], demo.keys)
    demo.wait("the issuer", lambda: _answers(f"http://127.0.0.1:{demo.ports['issuer']}/jwks"))
    token = issuer.id_token(f"http://127.0.0.1:{demo.ports['issuer']}", SUBJECT, "douane")
    demo.wait("Datadog", lambda: _listening(demo.ports["upstream"]))
    demo.wait("Douane", lambda: _answers(f"http://127.0.0.1:{demo.ports['console']}/readyz"))
    console.print("ready")
    return token


def job(demo: Demo, token: str) -> None:
    """Run the CI job: the official client with its token in the place of the API key."""
    console.print(Rule("[bold]2. The job: the official client, its OIDC token as API key"))
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    shown = ", ".join(f"{name}={claims[name]}" for name in ("sub", *CLAIMS))
    console.print(f"The token's claims: {shown}")
    env = {k: v for k, v in os.environ.items() if k not in demo.keys}
    env |= {"DD_API_KEY": token, "DD_APP_KEY": "placeholder-application-key"}
    console.print(
        f"\n[bold]$ DD_API_KEY=THE_TOKEN DD_APP_KEY=placeholder python agent.py {demo.gate}[/]", soft_wrap=True
    )
    sys.stdout.flush()
    running = subprocess.Popen([sys.executable, HERE / "agent.py", demo.gate], env=env)
    try:
        approve(demo)
        code = running.wait(60)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        running.kill()
    if code != 0:
        raise DemoError(f"the job did not go as told; Douane's log:\n{demo.tail('douane')}")


def approve(demo: Demo) -> None:
    """What a person does in another terminal while the job waits."""
    demo.wait("a held request", lambda: bool(demo.ask("approvals", "list")), limit=30)
    console.print(Rule("[bold]3. Meanwhile, in another terminal: a person decides"))
    demo.show("approvals", "list")
    (held,) = demo.ask("approvals", "list")
    demo.show("approvals", "show", held["id"])
    demo.show("approvals", "approve", held["id"][:8], "--comment", "the checkout team moved")


def ledger(demo: Demo) -> None:
    """Show what was recorded, as an auditor would look at it."""
    console.print(Rule("[bold]4. The ledger: who did what, when, which verdict"))
    began = time.monotonic()
    demo.wait("the records", lambda: len(demo.rows("SELECT exchange_id FROM exchanges")) >= EXCHANGES, limit=15)
    console.print(f"[dim]{EXCHANGES} exchanges, in SQL {time.monotonic() - began:.1f} s after the job's end[/]")
    demo.show("sessions")
    demo.show("search", "iframe")
    refused = demo.rows("SELECT exchange_id FROM exchanges WHERE reason = 'policy.denied'")
    if len(refused) != 1:
        raise DemoError(f"one exchange should be refused by policy, and {len(refused)} are")
    demo.show("show", refused[0]["exchange_id"])
    demo.show("sql", SQL)


def proof(demo: Demo, token: str) -> None:
    """The job never saw the real keys (agent.py's environment above); here: nor does anything that was written."""
    console.print(Rule("[bold]5. No real key and no token in the ledger, or in any file"))
    wanted = {"the API key": demo.keys["DEMO_DD_API_KEY"], "the application key": demo.keys["DEMO_DD_APP_KEY"]}
    wanted |= {"the token": token, "the token's signature": token.rpartition(".")[2]}
    rows = [(f"row {n}", json.dumps(row).encode()) for n, row in enumerate(demo.rows("SELECT * FROM exchanges"), 1)]
    if not leaks.find(rows, {"a title that must be found": "Checkout, embedded"}):
        raise DemoError("the search is broken: it does not find what is there")
    found = leaks.find([*rows, *leaks.files(demo.folder)], wanted)
    if found:
        raise DemoError("secrets were found: " + "; ".join(found))
    count = sum(1 for _ in leaks.files(demo.folder))
    console.print(
        f"Looked for {', '.join(wanted)}, also in base64, hex, URL and JSON escapes: "
        f"[green]not in {len(rows)} rows, not in {count} files.[/]"
    )


def go_on(demo: Demo, keep: bool) -> None:
    """Tell what to try; with `keep`, go on running until Ctrl-C."""
    look = (
        "douane sessions                     every pipeline run\n"
        "douane search Checkout              requests and answers with a word\n"
        "douane show EXCHANGE_ID             one exchange, body and masks\n"
        'douane sql "SELECT decision, count() FROM exchanges GROUP BY decision"\n'
    )
    if not keep:
        text = (
            "make demo KEEP=1                    leaves it running, to look around:\n\n"
            f"{look}\ndocs/getting-started.md             your own CI job and API behind it"
        )
        console.print(Panel(text, title="How to go on", expand=False))
        return
    console.print(Panel(f"{look}\nSend your own requests to {demo.gate}", title="It is running", expand=False))
    console.print("In another terminal:")
    console.print(f'  cd "{demo.folder}" && export PATH="{Path(sys.executable).parent}:$PATH"', soft_wrap=True)
    console.print("[bold]Ctrl-C ends it.[/]")
    demo.wait("Ctrl-C", lambda: False, limit=float("inf"))


def _folder() -> Path:
    """A folder of this run's own; earlier runs' are removed, unless they are still in use."""
    parent = ROOT / "var" / "demo"
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.glob("run-*"):
        with suppress(ValueError, OSError):
            os.kill(int(old.name.removeprefix("run-").partition("-")[0]), 0)
            continue
        shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"run-{os.getpid()}-", dir=parent))


def _douane() -> str:
    return str(Path(sys.executable).with_name("douane"))


def _quoted(words: Sequence[str]) -> str:
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _listening(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), 1):
        return True


def _answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)


if __name__ == "__main__":
    sys.exit(main())
