"""What the hub's authority costs: requests held at once on one channel, and counting.

    python -m bench.hub_authority [--held 2000]

Prints, as JSON: how long it took until so many calls of `Hold` had an approval each, what `Count` took meanwhile and
alone, how long from approving all of them until the last was granted, and the hub's memory and CPU while they waited.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc.aio

from ext_proc.config import Hub
from ext_proc.hubclient import AUTHORITY, HubClient
from ext_proc.pb import hub_pb2

_HUB = """
import asyncio, sys
from pathlib import Path
from ext_proc.config import Config, Hub
from ext_proc.hub.approvals.states import Approver, State
from ext_proc.hub.replica import Replicas
from ext_proc.hub.server import Authorities, listening

async def main(folder):
    path = Path(folder) / "hub"
    config = Config(version=1, hub=Hub(path=str(path), listen=f"unix:{folder}/hub.sock"))
    replicas, authorities = Replicas(path), Authorities.open(path)
    approvals = authorities.approvals
    clock = asyncio.create_task(approvals.run())
    who = Approver("local:0", "local", "0")
    async with listening(config, replicas, authorities):
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            waiting = await approvals.registry.listed([State.REQUESTED], 10_000)
            await asyncio.gather(*(approvals.decide(a.id, who, approve=True, comment="") for a, _ in waiting))

asyncio.run(main(sys.argv[1]))
"""
_SESSION = bytes(16)


def _hold(channel: grpc.aio.Channel) -> Any:
    request = hub_pb2.HoldRequest(
        digest=os.urandom(32),
        exchange_id=uuid4().bytes,
        gate="bench",
        connection="datadog",
        issuer="github",
        claims_json="{}",
        session_id=_SESSION,
        requirements=[hub_pb2.Requirement(policy="deletes", approvers=["local"], quorum=1)],
        validity_s=900,
        expires_s=3600,
        wait_ms=600_000,
        method="DELETE",
        path="/api/v1/dashboard/abc-def-ghi",
        headers_json=json.dumps([["accept", "application/json"]] * 8),
        body=b"x" * 2048,
    )
    call = channel.unary_stream(
        f"/{AUTHORITY}/Hold", hub_pb2.HoldRequest.SerializeToString, hub_pb2.HoldState.FromString
    )
    return call(request)


async def _counted(channel: grpc.aio.Channel, times: int, pause: float) -> dict[str, float]:
    """Milliseconds of `Count`, one after the other."""
    count = channel.unary_unary(
        f"/{AUTHORITY}/Count", hub_pb2.CountRequest.SerializeToString, hub_pb2.Counters.FromString
    )
    took = []
    for n in range(times):
        request = hub_pb2.CountRequest(
            session_id=_SESSION, exchange_id=uuid4().bytes, write=True, target=f"c POST /{n % 50}", window_s=60
        )
        began = time.perf_counter()
        await count(request)
        took.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(pause)
    return {"p50": round(statistics.median(took), 3), "p99": round(statistics.quantiles(took, n=100)[98], 3)}


def _spent(pid: int) -> tuple[float, float, int]:
    """(CPU seconds, MiB resident, threads)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return cpu, int(status.partition("VmRSS:")[2].split()[0]) / 1024, int(fields[17])


async def _measure(held: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="douane-") as folder:
        hub = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _HUB, folder), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert hub.stdout is not None
        assert hub.stdin is not None
        await hub.stdout.readline()
        client = HubClient(Hub(listen=f"unix:{folder}/hub.sock"))
        try:
            channel = client.channel
            found: dict[str, Any] = {"held": held, "count_alone_ms": await _counted(channel, 1000, 0)}
            found["hub_before_mib"] = round(_spent(hub.pid)[1], 1)
            began = time.perf_counter()
            calls = [_hold(channel) for _ in range(held)]
            meanwhile = asyncio.create_task(_counted(channel, 100, 0.005))
            states = await asyncio.gather(*(call.read() for call in calls))
            assert {state.state for state in states} == {"requested"}
            found["attached_s"] = round(time.perf_counter() - began, 2)
            found["count_while_attaching_ms"] = await meanwhile
            found["count_while_held_ms"] = await _counted(channel, 1000, 0)
            cpu, memory, threads = _spent(hub.pid)
            await asyncio.sleep(3)
            found["hub_cpu_percent_while_held"] = round((_spent(hub.pid)[0] - cpu) / 3 * 100, 1)
            found["hub_mib_while_held"], found["hub_threads"] = round(memory, 1), threads
            began = time.perf_counter()
            hub.stdin.write(b"\n")
            states = await asyncio.gather(*(call.read() for call in calls))
            assert {state.state for state in states} == {"granted"}
            found["approved_and_granted_s"] = round(time.perf_counter() - began, 2)
            return found
        finally:
            await client.close()
            hub.stdin.close()
            await hub.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held", type=int, default=2000)
    print(json.dumps(asyncio.run(_measure(parser.parse_args().held)), indent=2))


if __name__ == "__main__":
    main()
