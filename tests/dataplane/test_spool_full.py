"""A spool that cannot take a record: new requests are refused, what is in flight goes on, and it works again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dataplane.background import Background
from tests.dataplane.failure import Drive, Witness, answer_to, question_of, settle, witness
from tests.dataplane.ledger import Ledger
from tests.dataplane.stack import Stack, douane_up
from tests.issuer import LoopbackIssuer

pytestmark = [pytest.mark.dataplane, pytest.mark.clickhouse, pytest.mark.slow]


@pytest.fixture(scope="module")
def upstream(servers: Background) -> Witness:
    return servers.enter(witness())


class Open:
    """An exchange in flight: its head and half of its body are sent, and its verdict has passed (`body: stream`)."""

    def __init__(self, stack: Stack, token: str, path: str) -> None:
        self._stack, self._token, self._path = stack, token, path

    async def begin(self, upstream: Witness) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._stack.port)
        self._question = question_of(self._path) + b" " * 100_000  # more than the last page of a file may still take
        head = f"POST {self._path} HTTP/1.1\r\nhost: x\r\ndd-api-key: {self._token}\r\nconnection: close\r\n"
        self._writer.write(f"{head}content-length: {len(self._question)}\r\n\r\n".encode() + self._question[:100])
        async with asyncio.timeout(10):
            while not upstream.seen[self._path]:  # noqa: ASYNC110 (another thread's counter has no event)
                await asyncio.sleep(0.01)

    async def finish(self) -> bytes:
        self._writer.write(self._question[100:])
        async with asyncio.timeout(10):
            got = await self._reader.read()
        self._writer.close()
        return got


async def refused(drive: Drive, name: str) -> str:
    """Send until every request is refused for the spool (both workers); what the refusal says."""
    for attempt in range(40):
        drive.answers.clear()
        await drive.run(f"{name}-{attempt}", 64)
        drive.check_answers({"recording.unavailable"})
        if not drive.whole:
            answer = next(iter(drive.answers.values()))
            assert answer.status == 503
            return answer.body.decode()
    raise AssertionError("the spool never filled up")


async def works_again(drive: Drive, name: str) -> None:
    async with asyncio.timeout(30):
        attempt = 0
        while True:
            drive.answers.clear()
            await drive.run(f"{name}-{attempt}", 32)
            if drive.check_answers({"recording.unavailable"})["200"] == 32:
                return
            attempt += 1


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, issuer: LoopbackIssuer, upstream: Witness) -> Iterator[Stack]:
    """A spool of 1 MiB for both workers."""
    with douane_up(
        tmp_path_factory.mktemp("full"),
        issuer.url,
        upstream.url,
        recording={"spool": {"max_size": "1MiB"}},
        connections={"datadog": {"body": "stream"}},
    ) as running:
        yield running


async def test_a_full_spool_refuses_new_requests_and_cuts_none(
    small: Stack, issuer: LoopbackIssuer, upstream: Witness
) -> None:
    ledger, drive = Ledger(small), Drive(small, issuer.token())
    flying = [Open(small, drive.token, f"/full/open-{n}") for n in range(4)]
    (hub,) = small.pids()["hub"]
    os.kill(hub, signal.SIGSTOP)
    try:
        for each in flying:
            await each.begin(upstream)
        told = await refused(drive, "filling")
        assert "recording.spool.max_size" in told
        assert not {path for path in upstream.seen if path in drive.answers}, "refused, and sent all the same"
        for n, each in enumerate(flying):
            answer = await each.finish()
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(answer_to(f"/full/open-{n}"))
    finally:
        os.kill(hub, signal.SIGCONT)
    await works_again(drive, "shipped")
    await settle(small, ledger, "full")
    complete = "outcome = 'complete' AND method = 'POST'"
    (found,) = ledger.query(f"SELECT count() AS n, uniqExact(path) AS paths FROM douane.exchanges WHERE {complete}")
    assert int(found["n"]) == int(found["paths"]) == len(upstream.seen)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MiB: 64 of them are kept free for open requests."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs (root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_refuses_new_requests_and_cuts_none(
    tiny_disk: Path, tmp_path: Path, issuer: LoopbackIssuer, upstream: Witness
) -> None:
    overrides = {
        "recording": {"spool": {"path": str(tiny_disk / "spool")}},
        "connections": {"datadog": {"body": "stream"}},
    }
    with douane_up(tmp_path / "up", issuer.url, upstream.url, **overrides) as stack:
        drive = Drive(stack, issuer.token())
        await drive.run("room", 100)
        assert drive.check_answers() == {"200": 100}
        ballast = tiny_disk / "ballast"
        one, other = Open(stack, drive.token, "/disk/one"), Open(stack, drive.token, "/disk/other")
        await one.begin(upstream)
        await other.begin(upstream)
        fill(ballast, tiny_disk, leave=32 << 20)
        assert "bytes free" in await refused(drive, "low")
        assert (await one.finish()).endswith(answer_to("/disk/one")), "what is kept free is for what is open"
        fill(ballast, tiny_disk, leave=0)
        cut = await other.finish()
        assert not cut.endswith(answer_to("/disk/other"))
        assert b"200" not in cut.partition(b"\r\n")[0], "it cannot be recorded any more"
        assert "recording.unavailable" in await refused(drive, "none")
        ballast.unlink()
        await works_again(drive, "freed")
        ledger = Ledger(stack)
        await settle(stack, ledger, "disk")
        (row,) = ledger.query("SELECT outcome FROM douane.exchanges WHERE path = '/disk/one'")
        assert row["outcome"] == "complete"
        (row,) = ledger.query("SELECT outcome, decision FROM douane.exchanges WHERE path = '/disk/other'")
        assert row["outcome"] != "complete"
        assert row["decision"] == "allow"


def fill(ballast: Path, disk: Path, *, leave: int) -> None:
    """Grow the file until the disk has `leave` bytes left."""
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while (room := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - leave) > 0:
            file.write(bytes(min(room, 1 << 20)))
