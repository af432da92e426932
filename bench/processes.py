"""Starting, watching and ending the processes of a benchmark; what they cost is read from /proc."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Group(AbstractContextManager["Group"]):
    """Processes started together; leaving the block ends them and everything they started."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    logs: list[IO[bytes]] = field(default_factory=list)

    def start(
        self, name: str, command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.log").open("wb")
        self.logs.append(log)
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd or ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        family = [pid for process in self.started for pid in descendants(process.pid)]
        for process in reversed(self.started):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for log in self.logs:
            log.close()

    def pids(self) -> list[int]:
        return [pid for process in self.started for pid in descendants(process.pid)]

    def check(self) -> None:
        """Raise when a process has ended, with the end of its log."""
        for process, log in zip(self.started, self.logs, strict=True):
            if process.poll() is not None:
                tail = Path(log.name).read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{log.name}: ended with {process.returncode}\n{tail}")


def descendants(pid: int) -> list[int]:
    """`pid` and all that it started, as far as they live."""
    found = [pid]
    for current in found:
        with suppress(OSError):
            for task in Path(f"/proc/{current}/task").iterdir():
                found.extend(int(child) for child in (task / "children").read_text().split())
    return found


def cpu_seconds(pids: Sequence[int]) -> dict[str, float]:
    """User and system time used so far, by process name; ended children count for their parent."""
    used: dict[str, float] = {}
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            name = _name(pid)
            used[name] = used.get(name, 0.0) + sum(int(fields[i]) for i in (11, 12, 13, 14)) / _TICKS
    return used


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `pss` shares what is shared; `rss` is per process, by name, the largest of each."""

    pss: int
    rss: Mapping[str, int]


def memory(pids: Sequence[int]) -> Memory:
    pss, rss = 0, dict[str, int]()
    for pid in pids:
        with suppress(OSError):
            values = {
                line.split()[0]: int(line.split()[1]) * 1024
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            }
            pss += values["Pss:"]
            name = _name(pid)
            rss[name] = max(rss.get(name, 0), values["Rss:"])
    return Memory(pss, rss)


def _name(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    name = Path(words[0]).name
    if name.startswith("python"):
        arguments = [Path(w).name for w in words[1:] if w and not w.startswith("-")]
        name = " ".join(["python", *arguments[:1], *(a for a in arguments[1:2] if a.isalpha())])
    return name


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_listening(port: int, group: Group, limit: float = 60) -> None:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        group.check()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port} after {limit:.0f} s; see the logs in {group.folder}")


def wait_file(path: Path, group: Group, limit: float = 60) -> None:
    deadline = time.monotonic() + limit
    while not path.exists():
        group.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"{path} is not there after {limit:.0f} s; see the logs in {group.folder}")
        time.sleep(0.05)


def wait_ready(url: str, group: Group, limit: float = 90) -> None:
    """Until `url` answers 200."""
    deadline = time.monotonic() + limit
    said = ""
    while time.monotonic() < deadline:
        group.check()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (OSError, urllib.error.URLError) as error:
            said = str(error)
        time.sleep(0.1)
    raise RuntimeError(f"{url} is not ready after {limit:.0f} s ({said}); see the logs in {group.folder}")
