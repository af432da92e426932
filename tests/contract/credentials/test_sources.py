"""Files that change and commands that fail, on the real file system with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ext_proc.config import Credential, SourceExec
from ext_proc.credentials import Credentials
from ext_proc.credentials.command import Command
from ext_proc.credentials.files import FileSource
from ext_proc.credentials.leases import Leased
from ext_proc.credentials.source import MAX_VALUE
from ext_proc.errors import CredentialError


def shell(script: str, **changes: Any) -> Leased:
    return Leased(Command(SourceExec.model_validate({"exec": ("/bin/sh", "-c", script), **changes})))


async def refusal(source: Leased | FileSource) -> CredentialError:
    with pytest.raises(CredentialError) as caught:
        await source.read()
    return caught.value


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"key", b"key"), (b"key\n", b"key"), (b"key\r\n", b"key"), (b"key\n\n", b"key\n"), (b"\n", b""), (b"", b"")],
)
async def test_a_final_line_break_is_dropped(tmp_path: Path, content: bytes, value: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    assert await FileSource(str(path)).read() == value


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    source = FileSource(str(path))
    assert await source.read() == b"one"
    path.write_text("two")  # in place, the same size
    assert await source.read() == b"two"
    (tmp_path / "new").write_text("three")
    (tmp_path / "new").replace(path)
    assert await source.read() == b"three"
    path.unlink()
    assert (await refusal(source)).reason == "credential.unavailable"
    path.write_text("four")
    assert await source.read() == b"four"


async def test_a_kubernetes_secret_is_swapped_by_its_link(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(name)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "key").symlink_to("..data/key")
    source = FileSource(str(tmp_path / "key"))
    assert await source.read() == b"one"
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").replace(tmp_path / "..data")
    assert await source.read() == b"two"


async def test_an_unchanged_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    source = FileSource(str(path))
    await source.read()
    monkeypatch.setattr(os, "open", None)
    assert await source.read() == b"one"


async def test_files_that_cannot_serve(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (MAX_VALUE + 1))
    os.mkfifo(tmp_path / "fifo")
    for name, said in {
        "missing": "No such file",
        ".": "directory|regular",
        "fifo": "regular",
        "large": "larger",
    }.items():
        error = await refusal(FileSource(str(tmp_path / name)))
        assert (error.reason, error.http_status) == ("credential.unavailable", 503)
        assert str(tmp_path) in error.message
        assert any(part in error.message for part in said.split("|"))


async def test_a_command_is_run_once_in_its_lifetime(tmp_path: Path) -> None:
    log = tmp_path / "log"
    source = shell(f"echo run >> {log}; echo key", lifetime="300ms")
    assert await asyncio.gather(*(source.read() for _ in range(20))) == [b"key"] * 20
    assert await source.read() == b"key"
    assert log.read_text().count("run") == 1
    await asyncio.sleep(0.35)
    assert await source.read() == b"key"
    assert log.read_text().count("run") == 2


async def test_who_waits_may_leave() -> None:
    source = shell("sleep 0.2; echo key")
    waiters = [asyncio.create_task(source.read()) for _ in range(3)]
    await asyncio.sleep(0.05)
    waiters[0].cancel()
    assert await asyncio.gather(*waiters[1:]) == [b"key", b"key"]
    assert waiters[0].cancelled()


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        ("echo s3cret; exit 3", 502, "status 3"),
        ("kill -9 $$", 502, "status -9"),
        ("head -c 99999 /dev/zero", 503, "more than"),
    ],
)
async def test_commands_that_refuse(script: str, status: int, said: str) -> None:
    error = await refusal(shell(f"echo 's3cret' >&2; {script}"))
    assert (error.reason, error.http_status) == ("credential.unavailable", status)
    assert said in error.message
    assert "s3cret" not in str(error) + error.detail
    assert "echo" not in str(error)  # arguments may hold secrets, too


async def test_a_command_that_is_not_there() -> None:
    error = await refusal(Leased(Command(SourceExec(exec=("/nowhere/vault", "read", "s3cret")))))
    assert (error.reason, error.http_status) == ("credential.unavailable", 503)
    assert "/nowhere/vault" in error.message
    assert "s3cret" not in str(error)


async def test_a_failure_is_remembered_for_a_second_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    now = 100.0
    command = Command(SourceExec(exec=("/bin/sh", "-c", f"echo run >> {log}; cat {tmp_path}/key")))
    source = Leased(command, lambda: now)
    for _ in range(3):
        await refusal(source)
    assert log.read_text().count("run") == 1
    (tmp_path / "key").write_text("key")
    now += 1.1
    assert await source.read() == b"key"


async def test_a_command_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    source = shell(f"sleep 60 & echo $! $$ > {pids}; echo s3cret; wait", timeout="300ms")
    began = time.monotonic()
    error = await refusal(source)
    assert time.monotonic() - began < 3
    assert (error.reason, error.http_status, error.retryable) == ("credential.timeout", 503, True)
    assert "s3cret" not in str(error) + error.detail
    await gone(*map(int, pids.read_text().split()))


async def test_a_daemon_that_keeps_the_pipe_does_not_keep_us(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    open({str(pids)!r}, 'w').write(str(os.getpid()))\n"
        "    time.sleep(60)\n"
    )
    source = Leased(Command(SourceExec.model_validate({"exec": (sys.executable, "-c", script), "timeout": "1s"})))
    began = time.monotonic()
    try:
        assert (await refusal(source)).reason == "credential.timeout"
        assert time.monotonic() - began < 5
    finally:
        os.kill(int(pids.read_text()), signal.SIGKILL)


def lives(pid: int) -> bool:
    """Whether the process runs; a killed one that nobody has waited for has no command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


async def gone(*pids: int) -> None:
    for _ in range(100):
        if not any(lives(pid) for pid in pids):
            return
        await asyncio.sleep(0.02)
    pytest.fail("processes of the command are left")


async def test_a_connection_resolves_all_its_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.setenv("DOUANE_TEST_KEY", "from-env")
    sources = [
        {"header": "a", "from": {"env": "DOUANE_TEST_KEY"}},
        {"query": "b", "from": {"file": str(tmp_path / "key")}},
        {"bearer": True, "from": {"exec": ["/bin/echo", "from-exec"]}},
    ]
    found = await Credentials([Credential.model_validate(one) for one in sources]).resolve()
    assert [one.value for one in found] == [b"from-env", b"from-file", b"Bearer from-exec"]
    assert "from-" not in repr(found)
