"""Reloads against real gRPC servers in the place of workers; Envoy's side is a recorder with the same two methods."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from ext_proc.config import Loaded, load
from ext_proc.errors import ConfigError
from ext_proc.pb.control_pb2 import ApplyReply, ApplyRequest
from ext_proc.supervisor.reload import Reloader, refuse_fixed, watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FIRST = """\
version: 1
issuers: {ci: {issuer: "https://ci.example.com", audience: douane}}
connections:
  api: {listen: "127.0.0.1:15001", upstream: "https://api.example.com", scopes: {all: ["* /**"]}}
grants:
  - {name: everyone, issuer: ci, if: "true", allow: {api: [all]}}
"""


class Worker:
    """Takes configurations, or refuses those that contain `refuse`."""

    def __init__(self, socket: Path, refuse: str = "") -> None:
        self.socket = socket
        self.texts: list[str] = []
        self._refuse = refuse
        self._server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self.apply, ApplyRequest.FromString, ApplyReply.SerializeToString)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("douane.control.v1.Control", {"Apply": handler}),)
        )
        self._server.add_insecure_port(f"unix:{socket}")

    async def apply(self, request: ApplyRequest, _context: object) -> ApplyReply:
        self.texts.append(request.config_text)
        if self._refuse and self._refuse in request.config_text:
            return ApplyReply(error="config.condition: grants.everyone.if: the condition is unknown to me")
        return ApplyReply(digest="d")

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)


class Envoy:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refuse = ""
        self.broken = False

    async def validate(self, loaded: Loaded) -> None:
        self._note("validate")

    async def apply(self, loaded: Loaded) -> None:
        self._note("apply")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if self.broken and call == "apply":
            raise RuntimeError("a fault of ours")
        if call == self.refuse:
            raise ConfigError("envoy.refused", "Envoy refuses this configuration: no")


class Rig:
    def __init__(self, folder: Path, workers: list[Worker]) -> None:
        self.file = folder / "douane.yaml"
        self.file.write_text(FIRST)
        self.workers = workers
        self.envoy = Envoy()
        self.snapshot = folder / "current.yaml"
        self.reloader = Reloader(load(self.file), self.snapshot, [w.socket for w in workers], self.envoy)

    def write(self, old: str, new: str) -> str:
        assert old in FIRST
        self.file.write_text(FIRST.replace(old, new))
        return self.file.read_text()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    workers = [Worker(tmp_path / "w0"), Worker(tmp_path / "w1", refuse="'worker-1-refuses'")]
    for worker in workers:
        await worker.start()
    yield Rig(tmp_path, workers)
    for worker in workers:
        await worker.stop()


async def test_a_change_reaches_every_worker_then_envoy_then_the_snapshot(rig: Rig) -> None:
    assert rig.snapshot.read_text() == FIRST
    text = rig.write('"true"', "claims.sub == 'x'")
    assert await rig.reloader.reload()
    assert [w.texts for w in rig.workers] == [[text], [text]]
    assert rig.envoy.calls == ["validate", "apply"]
    assert rig.snapshot.read_text() == text == rig.reloader.current.text


async def test_the_same_text_is_not_applied_again_unless_forced(rig: Rig) -> None:
    assert await rig.reloader.reload()
    assert rig.workers[0].texts == []
    assert await rig.reloader.reload(force=True)
    assert rig.workers[0].texts == [FIRST]


async def test_a_text_that_cannot_be_read_reaches_nobody(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.write("upstream", "upstraem")
    assert not await rig.reloader.reload()
    assert rig.workers[0].texts == []
    assert rig.envoy.calls == []
    assert "douane.yaml:4:" in caplog.text
    assert "config.unknown_key" in caplog.text


async def test_what_one_worker_refuses_is_taken_back_from_the_others(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    text = rig.write('"true"', "claims.sub == 'worker-1-refuses'")
    assert not await rig.reloader.reload()
    assert rig.workers[0].texts == [text, FIRST]
    assert rig.workers[1].texts == [text, FIRST]
    assert rig.envoy.calls == ["validate"]
    assert rig.snapshot.read_text() == FIRST
    assert f"{rig.file}:6:34: config.condition: grants.everyone.if: the condition is unknown" in caplog.text


async def test_what_envoy_refuses_is_taken_back_from_the_workers(rig: Rig) -> None:
    text = rig.write('"true"', "claims.sub == 'x'")
    rig.envoy.refuse = "apply"
    assert not await rig.reloader.reload()
    assert rig.workers[0].texts == [text, FIRST]
    assert rig.reloader.current.text == FIRST


async def test_what_envoy_would_refuse_reaches_no_worker(rig: Rig) -> None:
    rig.write('"true"', "claims.sub == 'x'")
    rig.envoy.refuse = "validate"
    assert not await rig.reloader.reload()
    assert rig.workers[0].texts == []


async def test_a_fault_of_ours_changes_nothing_and_ends_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.write('"true"', "claims.sub == 'x'")
    rig.envoy.broken = True
    assert not await rig.reloader.reload()
    assert "the former one stays" in caplog.text
    assert rig.workers[0].texts[-1] == FIRST


async def test_a_worker_that_was_away_gets_the_current_text_when_it_is_back(rig: Rig) -> None:
    assert await rig.reloader.bring_up_to_date(rig.workers[0].socket)
    assert rig.workers[0].texts == []  # nothing was reloaded yet: it read the snapshot
    await rig.workers[1].stop()
    text = rig.write('"true"', "claims.sub == 'x'")
    assert await rig.reloader.reload()
    back = Worker(rig.workers[1].socket)
    await back.start()
    assert await rig.reloader.bring_up_to_date(back.socket)
    assert back.texts == [text]
    await back.stop()


@pytest.mark.parametrize(
    ("addition", "key"),
    [
        ("gate: {workers: 2}", "gate.workers"),
        ("console: {listen: 127.0.0.1:16000}", "console.listen"),
        ("store: {url: 'embedded:./elsewhere'}", "store.url"),
        ("hub: {path: ./elsewhere}", "hub.path"),
        ("recording: {durability: disk}", "recording.durability"),
        ("recording: {spool: {path: ./elsewhere}}", "recording.spool"),
        ("recording: {retention: 30d}", "recording.retention"),
    ],
)
def test_what_only_a_restart_can_change_is_refused_with_its_line(tmp_path: Path, addition: str, key: str) -> None:
    file = tmp_path / "douane.yaml"
    file.write_text(FIRST)
    before = load(file)
    file.write_text(FIRST + addition)
    with pytest.raises(ConfigError, match=rf"douane\.yaml:7:.*config\.needs_restart: {key}: cannot change"):
        refuse_fixed(before, load(file))


async def test_the_file_is_watched_until_it_stands_still(tmp_path: Path) -> None:
    file = tmp_path / "douane.yaml"
    file.write_text("1")
    seen: list[str] = []

    async def changed() -> None:
        seen.append(file.read_text())

    watching = asyncio.create_task(watch(file, changed, poll_s=0.05))
    await asyncio.sleep(0.2)
    assert seen == ["1"]  # it may have changed between its reading and the watch
    for n in range(6):  # still being written: never the same at two polls
        file.write_text("x" * (n + 2))
        await asyncio.sleep(0.04)
    written = file.with_name("new")
    written.write_text("renamed into place")
    written.replace(file)
    await asyncio.sleep(0.3)
    file.unlink()  # gone for a moment, as editors do
    await asyncio.sleep(0.2)
    watching.cancel()
    assert seen == ["1", "renamed into place"]


@pytest.fixture(autouse=True)
def _log_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "douane")
