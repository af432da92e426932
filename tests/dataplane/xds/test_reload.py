"""Reloads: nothing is lost, and what Envoy refuses never takes the place of what works."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import aiohttp
import pytest

from ext_proc.errors import ConfigError
from ext_proc.xds import build
from ext_proc.xds.rollout import apply
from tests.dataplane import upstreams
from tests.dataplane.envoy_process import config, hold
from tests.dataplane.xds.gates import Gate, running

pytestmark = pytest.mark.dataplane


async def load(gate: Gate, name: str, stop: asyncio.Event) -> int:
    """Requests one after the other, on one connection, until told to stop; each must succeed."""
    done = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        while not stop.is_set():
            async with session.post(f"{gate.url(name)}/echo", data=b"x" * 1000) as response:
                assert response.status == 200, await response.text()
                await response.read()
            done += 1
    return done


async def test_changes_lose_no_request_and_no_hold(tmp_path: Path) -> None:
    release, holding, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with (
        upstreams.web() as first,
        upstreams.web() as second,
        running(tmp_path, a=f"upstream: {first.url}", t=f"hosts: [t.example.com], upstream: {first.url}") as gate,
        aiohttp.ClientSession() as session,
    ):
        gate.worker.by_path["/echo/held"] = hold(release, holding)
        held = asyncio.create_task(session.get(f"{gate.url('a')}/echo/held"))
        traffic = asyncio.create_task(load(gate, "a", stop))
        await holding.wait()
        inode = (tmp_path / "envoy/rds/base.t.json").stat().st_ino

        gate.connections["b"] = f"hosts: [b.example.com], upstream: {second.url}"  # added: base-URL and TLS mode
        await gate.proxy.apply(gate.text)
        async with session.get(f"{gate.url('b')}/echo") as response:
            assert response.status == 200
        gate.connections["a"] = f"upstream: {second.url}"  # changed: the held request's cluster is no longer named
        await gate.proxy.apply(gate.text)
        async with session.get(f"{gate.url('a')}/echo/after") as response:
            assert response.status == 200
        del gate.connections["b"]  # removed
        await gate.proxy.apply(gate.text)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", gate.ports["b"])

        stop.set()
        assert await traffic > 5
        release.set()
        async with await held as response:
            assert response.status == 200
        assert (tmp_path / "envoy/rds/base.t.json").stat().st_ino == inode  # not touched
    # The hold was let go on the route it was taken on: to the upstream whose credential it was given.
    assert [seen.target for seen in first.seen if seen.method == "GET"] == ["/echo/held"]
    assert [seen.target for seen in second.seen if seen.method == "GET"] == ["/echo", "/echo/after"]


async def test_refused_update_is_rolled_back_with_envoys_reason(tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with (
        upstreams.web() as upstream,
        running(tmp_path, a=f"upstream: {upstream.url}") as gate,
        aiohttp.ClientSession() as session,
    ):
        good = {path: path.read_text() for path in (tmp_path / "envoy").rglob("*.json")}
        traffic = asyncio.create_task(load(gate, "a", stop))
        blocker = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
        gate.ports["b"] = blocker.sockets[0].getsockname()[1]
        gate.connections["b"] = f"upstream: {upstream.url}"
        with pytest.raises(ConfigError, match="Address already in use") as caught:
            await gate.proxy.apply(gate.text)
        assert caught.value.reason == "envoy.refused"
        # A routes file that only the refused listener named may stay for a while: Envoy may still watch it.
        assert good.items() <= {path: path.read_text() for path in (tmp_path / "envoy").rglob("*.json")}.items()

        # What Envoy refuses in a route or a cluster. Nothing of ours makes such, so it is broken by hand.
        for broken in ("routes", "clusters"):
            resources = build(config(gate.text.replace(f"127.0.0.1:{gate.ports['b']}", "127.0.0.1:1"), tmp_path))
            if broken == "routes":
                resources.routes[0].virtual_hosts[0].domains.append("*")
                reason = "Only a single wildcard domain"
            else:
                resources.clusters[1].name = ""
                reason = "name"
            with pytest.raises(ConfigError, match=reason):
                await apply(resources, gate.proxy.files, gate.proxy.admin)
            assert good.items() <= {path: path.read_text() for path in (tmp_path / "envoy").rglob("*.json")}.items()
        del gate.connections["b"]
        stop.set()
        assert await traffic > 5

        blocker.close()
        await blocker.wait_closed()
        gate.connections["b"] = f"upstream: {upstream.url}"  # and the good one is taken afterwards
        await gate.proxy.apply(gate.text)
        async with session.get(f"{gate.url('b')}/echo") as response:
            assert response.status == 200


async def test_files_are_private_and_hold_no_key(tmp_path: Path) -> None:
    async with running(tmp_path, a="hosts: [a.example.com], upstream: http://127.0.0.1:1") as gate:
        dump = json.dumps(await gate.proxy.admin.config_dump())
        modes = modes_below(tmp_path)
    assert "PRIVATE KEY" not in dump
    own = {path: mode for path, mode in modes.items() if path not in ("worker-0.sock", "logs/envoy.log")}
    assert {path for path, mode in own.items() if mode & 0o077} == set()
    assert own["admin.sock"] == own["envoy/tls/a.example.com.key"] == 0o600
    assert own["envoy"] == 0o700


def modes_below(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}
