"""Real processes: small Python programs in the place of workers, hub and Envoy."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ext_proc.errors import DouaneError
from ext_proc.supervisor.child import Child, Spec, tail
from ext_proc.supervisor.group import Group

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE = "import signal; signal.pause()"


def spec(folder: Path, name: str, code: str, ready: Callable[[], bool] | None = None, **env: str) -> Spec:
    async def is_ready() -> bool:
        return ready is None or ready()

    command = (sys.executable, "-I", "-S", "-c", textwrap.dedent(code))
    return Spec(name, command, {"PATH": os.environ["PATH"], **env}, folder, folder / f"{name}.log", is_ready)


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


def proc(pid: int | None, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    child = Child(spec(tmp_path, "worker-0", IDLE))
    await child.start(10)
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.pid not in (None, first) and child.state == "ready")
    assert child.restarts == 1
    assert await child.stop(5)
    assert child.state == "stopped"


async def test_one_that_never_comes_up_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child(spec(tmp_path, "hub", "raise SystemExit('the port is taken')", ready=lambda: False))
    with pytest.raises(DouaneError, match=r"hub died 3 times while starting") as caught:
        await child.start(10)
    assert "the port is taken" in caught.value.remedy
    assert str(tmp_path / "hub.log") in caught.value.remedy


async def test_one_that_is_never_ready_is_reported_and_gone(tmp_path: Path) -> None:
    child = Child(spec(tmp_path, "hub", IDLE, ready=lambda: False))
    with pytest.raises(DouaneError, match=r"was not ready within 0\.3 s"):
        await child.start(0.3)
    assert child.pid is None


async def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    broken = spec(tmp_path, "envoy", "", ready=lambda: False)
    child = Child(Spec("envoy", ("/no/such/envoy",), {}, tmp_path, broken.log, broken.ready))
    with pytest.raises(DouaneError, match="envoy died") as caught:
        await child.start(10)
    assert "/no/such/envoy: No such file" in caught.value.remedy


async def test_one_that_ignores_sigterm_is_killed_with_what_it_started(tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            open("grandchild", "w").write(str(os.getpid()))
            signal.pause()
        signal.pause()
    """
    child = Child(spec(tmp_path, "worker-0", code, ready=(tmp_path / "grandchild").exists))
    await child.start(10)
    pid = child.pid
    assert pid is not None
    assert not await child.stop(0.3)
    await until(lambda: not alive(pid) and not alive(int((tmp_path / "grandchild").read_text() or "1")))


async def test_no_core_dumps_and_only_the_given_environment(tmp_path: Path) -> None:
    child = Child(spec(tmp_path, "hub", IDLE, GIVEN="yes"))
    await child.start(10)
    await until(lambda: "spawn.py" not in proc(child.pid, "cmdline"))
    limits, environment = proc(child.pid, "limits"), proc(child.pid, "environ").split("\0")
    group = os.getpgid(child.pid or 0)
    await child.stop(5)
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    assert "GIVEN=yes" in environment
    assert not [e for e in environment if e.startswith("HOME=")]
    assert group != os.getpgid(0)


async def test_a_child_outlives_no_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = f"""
        import asyncio, os, sys
        from pathlib import Path
        from ext_proc.supervisor.child import Child, Spec
        async def ready(): return True
        async def main():
            folder = Path({str(tmp_path)!r})
            for n in range(3):
                child = Child(Spec(f"c{{n}}", (sys.executable, "-c", {IDLE!r}), {{}}, folder, folder / "log", ready))
                await child.start(10)
                print(child.pid, flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(program), stdout=asyncio.subprocess.PIPE
    )
    assert supervisor.stdout is not None
    pids = [int(await asyncio.wait_for(supervisor.stdout.readline(), 20)) for _ in range(3)]
    assert all(alive(pid) for pid in pids)
    supervisor.kill()
    await supervisor.wait()
    await until(lambda: not any(alive(pid) for pid in pids), 5)


async def test_a_child_of_a_supervisor_already_gone_does_not_start() -> None:
    spawn = Path(__file__).parents[3] / "ext_proc/supervisor/spawn.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(spawn), "1", "true", stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    assert process.returncode == 1
    assert b"the supervisor is gone" in stderr


async def test_stages_start_in_order_and_stop_in_the_opposite_one(tmp_path: Path) -> None:
    code = """
        import os, signal, sys, time
        name = os.environ["NAME"]
        def note(what):
            with open("order", "a") as file: file.write(f"{what} {name}\\n")
        def stop(*_):
            note("stop"); sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        note("start")
        open(name, "w").close()
        while True: time.sleep(1)
    """
    names = [["store"], ["hub"], ["worker-0", "worker-1"], ["envoy"]]
    group = Group(
        [[Child(spec(tmp_path, n, code, ready=(tmp_path / n).exists, NAME=n)) for n in stage] for stage in names]
    )
    await group.start()
    assert group.ready

    async def drain() -> None:
        with (tmp_path / "order").open("a") as file:
            file.write("drain envoy\n")

    assert await group.stop(lambda _: 5.0, drain)
    lines = (tmp_path / "order").read_text().split("\n")[:-1]
    assert [sorted(lines[2:4]), sorted(lines[7:9])] == [
        ["start worker-0", "start worker-1"],
        ["stop worker-0", "stop worker-1"],
    ]
    del lines[7:9], lines[2:4]
    assert lines == ["start store", "start hub", "start envoy", "drain envoy", "stop envoy", "stop hub", "stop store"]


async def test_one_that_fails_stops_what_had_started(tmp_path: Path) -> None:
    store = Child(spec(tmp_path, "store", IDLE))
    hub = Child(spec(tmp_path, "hub", "raise SystemExit(3)", ready=lambda: False))
    group = Group([[store], [hub]])
    with pytest.raises(DouaneError, match="hub died"):
        await group.start()
    assert store.pid is None


async def test_a_second_signal_hurries(tmp_path: Path) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('up', 'w'); signal.pause()"
    group = Group([[Child(spec(tmp_path, "worker-0", stubborn, ready=(tmp_path / "up").exists))]])
    await group.start()
    began = time.monotonic()
    stopping = asyncio.create_task(group.stop(lambda _: 30.0, lambda: asyncio.sleep(30)))
    await asyncio.sleep(0.1)
    group.hurry()
    assert not await stopping
    assert time.monotonic() - began < 5


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"line {n}\n" for n in range(10_000)))
    assert tail(tmp_path / "log", 2) == "\nline 9998\nline 9999"
    assert tail(tmp_path / "none") == ""
