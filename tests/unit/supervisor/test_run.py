"""The whole supervisor as a process of its own, its children replaced by small programs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ext_proc.config import parse
from ext_proc.errors import ConfigError, DouaneError
from ext_proc.supervisor.environment import Environments, named_secrets
from ext_proc.supervisor.folder import Lock, check_socket_paths, private_folder, remove_stale_sockets
from ext_proc.supervisor.ports import check_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ext_proc.supervisor.plan import Role

CONFIG = """\
version: 1
store: {{url: "clickhouse+https://writer@ch.example.com:8443/douane", password: {{env: STORE_PASSWORD}}}}
console: {{listen: "127.0.0.1:{port}"}}
hub: {{path: {folder}/hub, listen: "unix:{folder}/hub.sock"}}
gate: {{run_dir: {folder}/run, drain: 1s}}
connections:
  api:
    listen: 127.0.0.1:15001
    upstream: https://api.example.com
    credentials: [{{header: api-key, from: {{env: API_KEY}}}}]
"""

PORTS = """\
version: 1
store: {{listen: "127.0.0.1:{store_listen}"}}
console: {{listen: "127.0.0.1:{console_listen}"}}
hub: {{listen: "127.0.0.1:{hub_listen}", tls: {{cert_file: a, key_file: b, ca_file: c}}}}
gate: {{health_listen: "127.0.0.1:{gate_health_listen}",
  tls_listen: "127.0.0.1:{gate_tls_listen}"}}
connections:
  api:
    listen: 127.0.0.1:{connections_api_listen}
    hosts: [api.example.com]
    upstream: https://api.example.com
"""

# Stands in for the real composition: every role is a child that notes what it sees and waits.
PROGRAM = """
import os, sys
from pathlib import Path
from ext_proc.supervisor import plan, run as running
from ext_proc.supervisor.child import Child, Spec

folder = Path(sys.argv[1])
code = '''
import os, signal, sys, time
def stop(*_):
    with open("order", "a") as file: file.write(sys.argv[1] + " ")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
open(sys.argv[1] + ".up", "w").close()
while True: time.sleep(1)
'''

def stages(loaded, role, environments, envoy, worker_ready):
    def child(name, env):
        async def ready(): return (folder / f"{name}.up").exists()
        command = (sys.executable, "-c", code, name)
        return [Child(Spec(name, command, env, folder, plan.place(loaded.config, role).log(name), ready))]
    hub, worker = environments.for_hub(loaded.config), environments.for_worker(loaded.config)
    return [child("hub", hub), child("worker-0", worker), child("other", environments.for_others())]

running.plan.stages = stages
sys.exit(running.run(folder / "douane.yaml", "hub", on_ready=lambda _: print("ready", flush=True)))
"""


class Supervisor:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "douane.yaml").write_text(CONFIG.format(folder=folder, port=free_port()))
        (folder / "program.py").write_text(textwrap.dedent(PROGRAM))
        self.process = self.start()
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def start(self) -> subprocess.Popen[bytes]:
        secrets = {"API_KEY": "canary-api", "STORE_PASSWORD": "canary-store", "AWS_SECRET_ACCESS_KEY": "canary-aws"}
        repository = Path(__file__).parents[3]
        return subprocess.Popen(
            [sys.executable, str(self.folder / "program.py"), str(self.folder)],
            env={"PATH": os.environ["PATH"], "HOME": "/nowhere", "PYTHONPATH": str(repository), **secrets},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "hub/state.json").read_text())
        return found

    def pids(self) -> dict[str, int]:
        state = self.state()
        return {name: child["pid"] for name, child in state["children"].items()}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    one = Supervisor(tmp_path)
    until(lambda: one.state()["ready"])
    yield one
    if one.process.poll() is None:
        one.process.kill()
    one.process.communicate()


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_secrets_are_seen_by_those_that_need_them_only(supervisor: Supervisor) -> None:
    pids = supervisor.pids()
    own, hub, worker, other = (
        environment(pid) for pid in (supervisor.process.pid, pids["hub"], pids["worker-0"], pids["other"])
    )
    assert b"canary" not in own
    assert b"canary" not in other
    assert b"HOME=/nowhere" in other
    assert b"canary-store" in hub
    assert b"canary-api" not in hub + other
    assert b"canary-aws" not in hub + other
    assert b"canary-api" in worker
    assert b"canary-aws" in worker  # an `exec` source may need it
    assert b"canary-store" not in worker
    command_lines = b"".join(
        Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (supervisor.process.pid, *pids.values())
    )
    assert b"canary" not in command_lines
    leaked = [p for p in supervisor.folder.rglob("*") if p.is_file() and b"canary" in p.read_bytes()]
    assert leaked == []
    targets = [str(f.readlink()) for f in Path(f"/proc/{supervisor.process.pid}/fd").iterdir()]
    assert not [t for t in targets if "memfd" in t], "the handed-over environment is still open"


def test_sigterm_stops_all_in_order_and_leaves_nothing(supervisor: Supervisor) -> None:
    pids = supervisor.pids()
    supervisor.process.send_signal(signal.SIGTERM)
    assert supervisor.process.wait(15) == 0
    assert (supervisor.folder / "order").read_text() == "other worker-0 hub "
    assert not any(alive(pid) for pid in pids.values())
    assert not (supervisor.folder / "hub/state.json").exists()


def test_sigkill_of_the_supervisor_leaves_no_orphan(supervisor: Supervisor) -> None:
    pids = supervisor.pids()
    assert all(alive(pid) for pid in pids.values())
    supervisor.process.kill()
    supervisor.process.wait()
    until(lambda: not any(alive(pid) for pid in pids.values()), 5)


def test_a_second_one_on_the_same_folder_is_told_who_has_it(supervisor: Supervisor) -> None:
    second = supervisor.start()
    _, stderr = second.communicate(timeout=20)
    assert second.returncode == 1
    assert f"in use by another douane, process {supervisor.process.pid}".encode() in stderr


def test_a_dead_child_comes_back_and_the_state_tells(supervisor: Supervisor) -> None:
    first = supervisor.pids()["hub"]
    os.kill(first, signal.SIGKILL)
    until(lambda: supervisor.pids()["hub"] not in (None, first) and supervisor.state()["ready"])
    assert supervisor.state()["children"]["hub"]["restarts"] == 1


def test_the_supervisors_memory_is_not_for_others(supervisor: Supervisor) -> None:
    limits = Path(f"/proc/{supervisor.process.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"]


def test_folders_are_private_and_stale_sockets_go(supervisor: Supervisor, tmp_path: Path) -> None:
    assert (tmp_path / "hub").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "hub/logs/supervisor.log").stat().st_mode & 0o777 == 0o600
    import socket

    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "old.sock"))
    (tmp_path / "file.sock").write_text("not a socket")
    remove_stale_sockets(tmp_path)
    assert not (tmp_path / "old.sock").exists()
    assert (tmp_path / "file.sock").exists()


def test_a_lock_is_free_again_when_released(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    with pytest.raises(DouaneError, match=r"supervisor\.locked"):
        Lock(tmp_path)
    lock.release()
    Lock(tmp_path).release()


def test_paths_too_long_for_sockets_are_explained() -> None:
    deep = "/" + "d" * 100
    text = f"version: 1\ngate: {{run_dir: {deep}}}\n"
    with pytest.raises(
        ConfigError, match=r"config\.path_too_long: the socket .*worker-0\.sock has 115 bytes"
    ) as caught:
        check_socket_paths(parse(text, "douane.yaml", Path("/srv")).config)
    assert "shorter gate.run_dir" in caught.value.remedy


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"config\.folder: gate\.run_dir .* cannot be used"):
        private_folder(tmp_path / "file" / "run", "gate.run_dir")


def test_what_counts_as_a_secret_variable() -> None:
    text = (
        CONFIG.format(folder="/srv", port=15000)
        + "masking: {fingerprint_key: {env: PRINTS}}\nrecording: {seal_key: {env: SEAL}}\n"
    )
    assert named_secrets(parse(text, "douane.yaml", Path("/srv")).config) == {
        *("API_KEY", "STORE_PASSWORD", "PRINTS", "SEAL")
    }
    assert "canary" not in repr(Environments({"A": "canary"}, {}))


def test_what_notices_are_sent_with_is_for_the_hub_alone() -> None:
    text = (
        CONFIG.format(folder="/srv", port=15000)
        + "approvals: {notify: [{slack: {env: SLACK}}, {webhook: {env: HOOK}, secret: {env: API_KEY}}]}\n"
    )
    config = parse(text, "douane.yaml", Path("/srv")).config
    names = ("SLACK", "HOOK", "API_KEY", "STORE_PASSWORD", "AWS", "PATH")
    seen = Environments(dict.fromkeys(names, "x"), {"PATH": "x"})
    assert set(seen.for_hub(config)) == {"SLACK", "HOOK", "API_KEY", "STORE_PASSWORD", "PATH"}
    assert set(seen.for_worker(config)) == {"API_KEY", "AWS", "PATH"}  # API_KEY is a connection's as well


@pytest.mark.parametrize(
    ("role", "key", "line"),
    [
        ("up", "store.listen", 2),
        ("up", "console.listen", 3),
        ("hub", "hub.listen", 4),
        ("gate", "gate.health_listen", 5),
        ("gate", "gate.tls_listen", 6),
        ("gate", "connections.api.listen", 9),
    ],
)
def test_a_port_that_another_program_has_is_named_before_anything_starts(
    tmp_path: Path, role: Role, key: str, line: int
) -> None:
    keys = ("store.listen", "console.listen", "hub.listen", "gate.health_listen", "gate.tls_listen")
    ports = {name.replace(".", "_"): free_port() for name in (*keys, "connections.api.listen")}
    with socket.create_server(("127.0.0.1", 0)) as busy:
        ports[key.replace(".", "_")] = busy.getsockname()[1]
        loaded = parse(PORTS.format(**ports), str(tmp_path / "douane.yaml"), tmp_path)
        with pytest.raises(ConfigError, match=f"{key}: 127.0.0.1:{busy.getsockname()[1]} is in use") as caught:
            check_ports(loaded, role, patience_s=0.0)
    assert caught.value.reason == "config.port_busy"
    assert caught.value.where.startswith(f"{tmp_path}/douane.yaml:{line}:")
    check_ports(loaded, role, patience_s=0.0)
