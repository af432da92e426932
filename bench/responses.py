"""`python -m bench.responses`: what it costs to look into responses.

Two gates side by side, alike but that one awaits each response, has a rule read its JSON, and masks it for the client.
Requests go to them in turns, in short blocks, so that what else the machine does falls on both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import aiohttp

from bench import tools
from bench.processes import ROOT, cpu_seconds, memory
from bench.subjects import LOOKED_INTO, Running, douane

SIZES = (1024, 102_400)
BLOCK = 20
MANY, LARGE = 32, 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.responses", description=__doc__)
    parser.add_argument("--blocks", type=int, default=20, help=f"of {BLOCK} requests, to each gate (default 20)")
    options = parser.parse_args()
    upstream = subprocess.Popen([*tools.load_tool(), "serve"], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert upstream.stdout is not None
        port = int(upstream.stdout.readline())
        with douane(port, 1) as ordinary, douane(port, 1, policies=LOOKED_INTO) as looked:
            asyncio.run(measure(ordinary, looked, options.blocks))
    finally:
        upstream.kill()
        upstream.wait()
    return 0


async def measure(ordinary: Running, looked: Running, blocks: int) -> None:
    gates = {"ordinary": ordinary, "looked into": looked}
    print("| response | route | p50 ms | p99 ms | worker CPU ms a request |\n|---|---|---:|---:|---:|")
    async with aiohttp.ClientSession() as session:
        for running in gates.values():
            await ask(session, running, 1024, BLOCK)
        for size in SIZES:
            samples: dict[str, list[float]] = {name: [] for name in gates}
            cpu = dict.fromkeys(gates, 0.0)
            for _ in range(blocks):
                for name, running in gates.items():
                    before = worker_cpu(running)
                    samples[name] += await ask(session, running, size, BLOCK)
                    cpu[name] += worker_cpu(running) - before
            each = {name: spent / (blocks * BLOCK) * 1000 for name, spent in cpu.items()}
            for name, times in samples.items():
                print(f"| {size // 1024} KB | {name} | {shown(times)} | {each[name]:.2f} |")
            ratio = statistics.median(samples["looked into"]) / statistics.median(samples["ordinary"])
            print(f"| {size // 1024} KB | ratio | {ratio:.2f} | | {each['looked into'] / each['ordinary']:.2f} |")
        for name, running in gates.items():
            idle = worker_rss(running)
            await asyncio.gather(*(ask(session, running, LARGE, 1) for _ in range(MANY)))
            full = worker_rss(running)
            print(f"worker, {name}: {idle >> 20} MB, and {full >> 20} MB after {MANY} responses of 1 MB at once")


async def ask(session: aiohttp.ClientSession, running: Running, size: int, count: int) -> list[float]:
    """Milliseconds of requests one after the other."""
    headers = dict(header.split(": ", 1) for header in running.headers)
    samples = []
    for _ in range(count):
        began = time.perf_counter()
        async with session.post(f"{running.url}/bytes/{size}", data=b"{}", headers=headers) as answer:
            await answer.read()
            assert answer.status == 200, await answer.text()
        samples.append((time.perf_counter() - began) * 1000)
    return samples


def worker_cpu(running: Running) -> float:
    return next(spent for name, spent in cpu_seconds(running.group.pids()).items() if name.endswith("worker"))


def worker_rss(running: Running) -> int:
    return next(size for name, size in memory(running.group.pids()).rss.items() if name.endswith("worker"))


def shown(samples: Sequence[float]) -> str:
    ordered = sorted(samples)
    return f"{statistics.median(ordered):.2f} | {ordered[int(len(ordered) * 0.99)]:.2f}"


if __name__ == "__main__":
    sys.exit(main())
