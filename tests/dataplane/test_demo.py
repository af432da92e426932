"""`make demo KEEP=1` tells its story, stays, and leaves nothing behind when it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.dataplane, pytest.mark.clickhouse, pytest.mark.slow]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The running demo, and the file it writes to."""
    out = tmp_path / "out"
    with out.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "examples.demo.demo"],
            cwd=ROOT,
            env={**os.environ, "KEEP": "1", "HOME": str(tmp_path), "COLUMNS": "160"},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stdout,
            start_new_session=True,
        )
    try:
        yield process, out
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def running_in(folder: str) -> list[str]:
    """Command lines of processes that work in `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str((path / "cwd").readlink()).startswith(folder):
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGHUP], ids=["Ctrl-C", "a closed terminal"])
def test_the_demo_tells_its_story_and_leaves_nothing_running(
    demo: tuple[subprocess.Popen[bytes], Path], end: signal.Signals
) -> None:
    process, out = demo
    deadline = time.monotonic() + 60
    while "Ctrl-C ends it" not in out.read_text() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    text = out.read_text()
    assert "Ctrl-C ends it" in text, text[-3000:]
    assert "create a dashboard: done" in text
    assert "refused with 403 policy.denied: iframe widgets are not allowed" in text
    assert "refused with 403 grant.none" in text
    assert "acme/infra run 8231 #1" in text
    assert "DELETE /api/v1/dashboard/" in text
    assert "approved (local:" in text
    assert text.index("delete the dashboard: sent") < text.index("$ douane approvals approve")
    assert text.index("$ douane approvals approve") < text.index("delete the dashboard: done")
    assert "not in 6 rows" in text

    folder = next(line for line in text.splitlines() if line.endswith("/douane.yaml")).removesuffix("/douane.yaml")
    assert len(running_in(folder)) > 4
    process.send_signal(end)
    assert process.wait(60) == 0
    assert running_in(folder) == []
