"""`python -m bench.holds`: 2,000 requests held at once by one worker, and what that costs everybody else.

An ordinary request is measured on one connection before, while all are held, and after; then all are approved, through
the operator's socket, and counted as they pass.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from bench import tools
from bench.processes import ROOT, Group, memory
from bench.subjects import HOLD, Running, douane

PROBES = 400


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.holds", description=__doc__)
    parser.add_argument("--held", type=int, default=2000, help="requests held at once (default 2,000)")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard > 0 else soft, hard))
    load = tools.load_tool()
    upstream = subprocess.Popen([*load, "serve"], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert upstream.stdout is not None
        port = int(upstream.stdout.readline())
        with douane(port, 1, policies=HOLD) as running:
            asyncio.run(measure(running, options.held))
    finally:
        upstream.kill()
        upstream.wait()
    return 0


async def measure(running: Running, count: int) -> None:
    headers = dict(header.split(": ", 1) for header in running.headers)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=600)
    ) as session:
        await probe(session, running.url)  # warms everything up
        before = await probe(session, running.url)
        idle = worker_rss(running.group)
        began = time.monotonic()
        held = [asyncio.create_task(hold(session, running.url, n)) for n in range(count)]
        ids = await waiting(running.group.folder, count)
        opened = time.monotonic() - began
        full = worker_rss(running.group)
        during = await probe(session, running.url)
        began = time.monotonic()
        await approve(running.group.folder, ids)
        statuses = await asyncio.gather(*held)
        passed = time.monotonic() - began
        after = await probe(session, running.url)
    answered = {status: statuses.count(status) for status in set(statuses)}
    print(f"{count} requests held at once by one worker; answers: {answered}")
    print(f"  all held after {opened:.1f} s; approved one by one and passed in {passed:.1f} s")
    each = (full - idle) / count / 1024
    print(f"  worker memory {idle >> 20} MB, then {full >> 20} MB: {each:.0f} KB a held request")
    for name, samples in (("before", before), ("while held", during), ("after", after)):
        print(f"  an ordinary request {name:<10}  {shown(samples)}")
    ratio = statistics.median(during) / statistics.median(before)
    print(f"  median while held / before: {ratio:.2f}")


async def probe(session: aiohttp.ClientSession, url: str) -> list[float]:
    """Milliseconds of ordinary requests, one after the other."""
    samples = []
    for _ in range(PROBES):
        began = time.perf_counter()
        async with session.post(f"{url}/bytes/1024", data=b"{}") as answer:
            await answer.read()
            assert answer.status == 200, answer.status
        samples.append((time.perf_counter() - began) * 1000)
    return samples


async def hold(session: aiohttp.ClientSession, url: str, number: int) -> int:
    body = json.dumps({"hold": True, "number": number}).encode()
    async with session.post(f"{url}/bytes/1024", data=body) as answer:
        await answer.read()
        return answer.status


async def waiting(folder: Path, count: int) -> list[str]:
    """The ids of the open approvals, once there are `count`; read from the hub's own file, as the API lists fewer."""
    deadline = time.monotonic() + 120
    ids: list[str] = []
    while time.monotonic() < deadline:
        with contextlib.closing(sqlite3.connect(f"file:{folder}/hub/approvals.sqlite?mode=ro", uri=True)) as db:
            ids = [row[0] for row in db.execute("SELECT id FROM approvals WHERE state = 'requested'")]
        if len(ids) >= count:
            return ids
        await asyncio.sleep(0.25)
    raise RuntimeError(f"{len(ids)} of {count} requests are held after 120 s; see the logs in {folder}")


async def approve(folder: Path, ids: Sequence[str]) -> None:
    async with desk(folder) as session:
        for one in ids:
            async with session.post(f"/api/approvals/{one}/approve", json={"comment": "bench"}) as answer:
                assert answer.status == 200, await answer.text()


def desk(folder: Path) -> aiohttp.ClientSession:
    """The operator's own socket of the hub."""
    return aiohttp.ClientSession(
        "http://localhost", connector=aiohttp.UnixConnector(str(folder / "run" / "approvals.sock"))
    )


def worker_rss(group: Group) -> int:
    rss = memory(group.pids()).rss
    return next(size for name, size in rss.items() if name.endswith("worker"))


def shown(samples: Sequence[float]) -> str:
    ordered = sorted(samples)
    return f"p50 {statistics.median(ordered):6.2f} ms   p99 {ordered[int(len(ordered) * 0.99)]:6.2f} ms"


if __name__ == "__main__":
    sys.exit(main())
