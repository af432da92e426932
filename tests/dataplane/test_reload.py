"""Reloads of `douane up` under load: every request is answered, what was begun goes on, and what is refused anywhere is
taken nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from ext_proc.config import load
from tests.dataplane import upstreams, wire
from tests.dataplane.background import Background
from tests.dataplane.ledger import Ledger
from tests.dataplane.stack import Stack, douane_up, free_ports
from tests.issuer import LoopbackIssuer

pytestmark = [pytest.mark.dataplane, pytest.mark.clickhouse, pytest.mark.slow]

APPLIED, REFUSED = "configuration applied", "configuration refused"
CONNECTIONS = 8


@dataclass
class Gate:
    stack: Stack
    ledger: Ledger
    issuer: LoopbackIssuer
    first: wire.Upstream
    second: wire.Upstream

    @property
    def identity(self) -> dict[str, str]:
        return {"dd-api-key": self.issuer.token()}

    def digest(self) -> str:
        return load(self.stack.config_file).digest

    def log(self) -> list[dict[str, Any]]:
        lines = (self.stack.folder / "var/run/logs/supervisor.log").read_text().splitlines()
        return [json.loads(line) for line in lines]

    async def reload(self, change: dict[str, Any] | str, outcome: str) -> str:
        """Write the configuration (or this text), and wait until the log says this of it: its line."""
        seen = len(self.log())
        text = change if isinstance(change, str) else json.dumps(change)
        if isinstance(change, str):
            self.stack.config_file.write_text(text)  # the supervisor sees the change by itself
        else:
            self.stack.reload(change)
        async with asyncio.timeout(40):
            while True:
                for line in self.log()[seen:]:
                    if line["message"].startswith((APPLIED, REFUSED)):
                        assert line["message"].startswith(outcome), line
                        return str(line["message"])
                await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, issuer: LoopbackIssuer, servers: Background) -> Iterator[Gate]:
    first, second = servers.enter(upstreams.web()), servers.enter(upstreams.web())
    with douane_up(tmp_path_factory.mktemp("reload"), issuer.url, first.url) as stack:
        yield Gate(stack, Ledger(stack), issuer, first, second)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (of another thread, or another process)
            await asyncio.sleep(0.02)


@dataclass
class Load:
    """Requests without a pause on some connections, and how each was answered."""

    answers: Counter[tuple[int, str]] = field(default_factory=Counter)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def one(self, url: str, headers: dict[str, str]) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            while not self.stop.is_set():
                async with session.post(url, data=b"x" * 1000, headers=headers) as response:
                    told = await response.json()
                    self.answers[response.status, told.get("reason", "")] += 1
                await asyncio.sleep(0.01)  # two cores are shared with what is tested

    async def at_least(self, more: int, answer: tuple[int, str]) -> None:
        """Wait until this many more were answered so."""
        wanted = self.answers[answer] + more
        await until(lambda: self.answers[answer] >= wanted)


@contextlib.asynccontextmanager
async def under_load(gate: Gate, path: str) -> AsyncIterator[Load]:
    load = Load()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(load.one(f"{gate.stack.url}{path}", gate.identity))
        try:
            yield load
        finally:
            load.stop.set()


OK, NO_GRANT = (200, ""), (403, "grant.none")


async def test_changes_under_load_lose_no_request(gate: Gate) -> None:
    good = gate.stack.config
    [port] = free_ports(1)
    digests = [gate.digest()]
    async with under_load(gate, "/echo/load") as load:
        await load.at_least(20, OK)

        added = deepcopy(good)
        added["connections"]["added"] = {
            "listen": f"127.0.0.1:{port}",
            "hosts": ["added.test"],
            "upstream": gate.second.url,
            "identity": {"headers": ["dd-api-key"]},
            "scopes": {"everything": ["* /**"]},
        }
        added["grants"][0]["allow"]["added"] = ["everything"]
        await gate.reload(added, APPLIED)
        digests.append(gate.digest())
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}/echo/added"
            async with session.get(url, headers=gate.identity) as response:
                assert response.status == 200
        await load.at_least(20, OK)

        narrow = deepcopy(added)
        narrow["connections"]["datadog"]["scopes"] = {"everything": ["GET /**"]}
        await gate.reload(narrow, APPLIED)
        digests.append(gate.digest())
        passed = load.answers[OK]
        await load.at_least(50, NO_GRANT)
        assert load.answers[OK] - passed <= CONNECTIONS  # what was already decided

        moved = deepcopy(added)
        moved["connections"]["datadog"]["upstream"] = gate.second.url
        await gate.reload(moved, APPLIED)
        digests.append(gate.digest())
        before = sum(seen.target == "/echo/load" for seen in gate.first.seen)
        await load.at_least(50, OK)
        assert sum(seen.target == "/echo/load" for seen in gate.first.seen) - before <= CONNECTIONS

        await gate.reload(good, APPLIED)
        await load.at_least(20, OK)
    print(f"answers under four reloads: {dict(load.answers)}")
    assert set(load.answers) == {OK, NO_GRANT}
    rows = gate.ledger.query(
        "SELECT status, count() AS n FROM douane.exchanges WHERE path = '/echo/load' GROUP BY status"
    )
    deadline = time.monotonic() + 20
    while sum(r["n"] for r in rows) < sum(load.answers.values()) and time.monotonic() < deadline:
        await asyncio.sleep(0.3)
        rows = gate.ledger.query(
            "SELECT status, count() AS n FROM douane.exchanges WHERE path = '/echo/load' GROUP BY status"
        )
    assert {r["status"]: r["n"] for r in rows} == {200: load.answers[OK], 403: load.answers[NO_GRANT]}
    used = gate.ledger.query("SELECT DISTINCT config_digest AS d FROM douane.exchanges WHERE path = '/echo/load'")
    assert {r["d"] for r in used} == set(digests)
    kept = gate.ledger.query("SELECT digest, text FROM douane.configs")
    assert {r["digest"] for r in kept} >= set(digests)
    assert any('"added.test"' in r["text"] for r in kept)
    assert {seen.all("dd-api-key")[0] for seen in gate.second.seen if seen.target == "/echo/load"} == {
        seen.all("dd-api-key")[0] for seen in gate.first.seen if seen.target == "/echo/load"
    }


async def test_what_was_begun_goes_on(gate: Gate) -> None:
    """A download of some seconds, and a request whose body is still on its way, over two reloads that move it."""
    good = gate.stack.config
    async with aiohttp.ClientSession() as session:
        ticking = asyncio.create_task(
            read_all(session, f"{gate.stack.url}/sse?events=60&pause=0.1&long=1", gate.identity)
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.stack.port)
        head = f"POST /upload?long HTTP/1.1\r\nhost: gate\r\ndd-api-key: {gate.issuer.token()}\r\n"
        head += "content-length: 10\r\n\r\n"
        writer.write(head.encode() + b"first")
        await writer.drain()
        await until(lambda: any("long=1" in seen.target for seen in gate.first.seen))
        moved = deepcopy(good)
        moved["connections"]["datadog"]["upstream"] = gate.second.url
        await gate.reload(moved, APPLIED)
        writer.write(b" half")
        answer = await asyncio.wait_for(reader.readuntil(b'"length": 10}'), 10)
        assert answer.startswith(b"HTTP/1.1 200")
        writer.close()
        await gate.reload(good, APPLIED)
        assert not ticking.done()
        assert (await ticking).count(b"data: tick") == 60
    [row] = gate.ledger.rows("path = '/sse' AND query LIKE '%long=1%'", expect=1)
    assert (row["outcome"], row["resp_body"].count(b"data: tick")) == ("complete", 60)
    [row] = gate.ledger.rows("path = '/upload' AND query = 'long'", expect=1)
    assert (row["outcome"], row["req_body"]) == ("complete", b"first half")
    # The route was chosen when the head came: the credential went with it to the upstream it was configured for.
    assert [seen.body_length for seen in gate.first.seen if seen.target == "/upload?long"] == [10]


async def read_all(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> bytes:
    async with session.get(url, headers=headers) as response:
        return await response.read()


def changed(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    return deepcopy(config) | more


async def test_what_is_refused_anywhere_is_taken_nowhere(gate: Gate) -> None:
    good = gate.stack.config
    digest = gate.digest()
    garbage = gate.stack.folder / "garbage.pem"
    garbage.write_text("-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n")
    blocker = socket.socket()
    blocker.bind(("127.0.0.1", 0))
    blocker.listen()
    extra = {"upstream": gate.second.url, "scopes": {"everything": ["* /**"]}}
    taken = good["connections"] | {"extra": extra | {"listen": f"127.0.0.1:{blocker.getsockname()[1]}"}}
    datadog = good["connections"]["datadog"]
    cases: list[tuple[str, dict[str, Any] | str, str]] = [
        ("no YAML", '{"version": 1, "connections": {', "config.syntax"),
        ("unknown key", changed(good, connetions={}), "config.unknown_key"),
        ("CEL", changed(good, grants=[good["grants"][0] | {"if": "claims.repository_id ="}]), "grants.main"),
        ("needs a restart", changed(good, gate=good["gate"] | {"workers": 3}), "config.needs_restart"),
        # what we take and Envoy refuses: in its validation, and only when it opens the port
        (
            "no certificate",
            changed(
                good,
                connections={
                    "datadog": datadog | {"upstream": "https://127.0.0.1:1", "upstream_ca_file": str(garbage)}
                },
            ),
            "envoy.refused",
        ),
        ("port in use", changed(good, connections=taken), "Address already in use"),
    ]
    with blocker:
        async with under_load(gate, "/echo/kept") as load:
            for name, change, part in cases:
                seen = len(gate.log())
                await gate.reload(change, REFUSED)
                said = [line["message"] for line in gate.log()[seen:] if line["level"] == "error"]
                assert any(part in message for message in said), (name, said)
                await load.at_least(20, OK)
    assert set(load.answers) == {OK}

    gate.stack.config_file.write_text(json.dumps(good))
    gate.stack.config = good
    async with aiohttp.ClientSession() as session:
        for n in range(8):  # on either worker
            async with session.get(f"{gate.stack.url}/echo/after/{n}", headers=gate.identity) as response:
                assert response.status == 200
    rows = gate.ledger.rows("startsWith(path, '/echo/after/')", expect=8)
    assert {row["config_digest"] for row in rows} == {digest}

    await gate.reload(good, APPLIED)  # and a good one is taken afterwards
