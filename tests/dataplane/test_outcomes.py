"""Every way an exchange may end, brought about on purpose, and what its row says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.dataplane import wire
from tests.dataplane.background import Background
from tests.dataplane.failure import SETTLED_S, kill
from tests.dataplane.ledger import Ledger
from tests.dataplane.stack import Stack, douane_up
from tests.issuer import LoopbackIssuer

pytestmark = [pytest.mark.dataplane, pytest.mark.clickhouse, pytest.mark.slow]

PART = b"x" * 5000


@contextlib.asynccontextmanager
async def unkind() -> AsyncIterator[wire.Upstream]:
    """Does to a request what its path says."""
    scripts = {
        "/answers": wire.reply(wire.answer(body=PART)),
        "/stalls": wire.stall(),
        "/resets": wire.cut(announced=0, sent=-1),
        "/cuts": wire.cut(announced=9000, sent=len(PART)),
        "/pauses": pauses,
    }

    async def script(request: wire.Wire) -> bool:
        return await scripts["/" + request.target.split("/")[1]](request)

    async with wire.raw(script) as upstream:
        yield upstream


async def pauses(request: wire.Wire) -> bool:
    """Begin to answer, and wait until the other side leaves."""
    await request.body()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9000\r\n\r\n"
    await request.send(head + PART)
    await request.reader.read(1)
    return False


@pytest.fixture(scope="module")
def upstream(servers: Background) -> wire.Upstream:
    return servers.enter(unkind())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, issuer: LoopbackIssuer, upstream: wire.Upstream) -> Iterator[Stack]:
    connections = {"datadog": {"timeout": "2s"}}
    with douane_up(tmp_path_factory.mktemp("ends"), issuer.url, upstream.url, connections=connections) as running:
        yield running


class Client:
    """One request, by hand: what came back, and leaving at will."""

    def __init__(self, stack: Stack, token: str, path: str) -> None:
        self._stack = stack
        self._head = f"GET {path} HTTP/1.1\r\nhost: x\r\ndd-api-key: {token}\r\nconnection: close\r\n\r\n".encode()

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._stack.port)
        self._writer.write(self._head)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._writer.close()

    async def some(self) -> bytes:
        async with asyncio.timeout(10):
            return await self._reader.readuntil(PART[:100])

    async def everything(self) -> bytes:
        got = b""
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                while part := await self._reader.read(1 << 16):
                    got += part
        return got


async def arrived(upstream: wire.Upstream, path: str) -> None:
    async with asyncio.timeout(10):
        while path not in [seen.target for seen in list(upstream.seen)]:  # noqa: ASYNC110 (another thread's list)
            await asyncio.sleep(0.01)


async def test_each_end_is_told_apart(stack: Stack, issuer: LoopbackIssuer, upstream: wire.Upstream) -> None:
    token, ledger = issuer.token(), Ledger(stack)
    async with Client(stack, token, "/answers/whole") as client:
        assert (await client.everything()).endswith(PART)
    async with Client(stack, token, "/pauses/client-leaves") as client:
        await client.some()
    async with Client(stack, token, "/stalls/client-leaves"):
        await arrived(upstream, "/stalls/client-leaves")
    async with Client(stack, token, "/resets/now") as client:
        got = await client.everything()
        assert got.startswith(b"HTTP/1.1 50")
        assert b"upstream.reset" in got
    async with Client(stack, token, "/cuts/later") as client:
        got = await client.everything()
        assert got.startswith(b"HTTP/1.1 200")
        assert len(got.partition(b"\r\n\r\n")[2]) < 9000, "a cut answer looks whole"
    async with Client(stack, token, "/stalls/too-long") as client:
        got = await client.everything()
        assert got.startswith(b"HTTP/1.1 504")
        assert b"upstream.timeout" in got
    async with Client(stack, "no token", "/answers/nobody") as client:
        assert (await client.everything()).startswith(b"HTTP/1.1 401")
    async with Client(stack, token, "/pauses/envoy-dies") as client:
        await client.some()
        kill(stack, "envoy")
        assert len(await client.everything()) < 9000
    await asyncio.to_thread(stack.ready)

    expected = {
        "/answers/whole": ("complete", 200, "allow"),
        "/pauses/client-leaves": ("client_gone", 200, "allow"),
        "/stalls/client-leaves": ("client_gone", 0, "allow"),
        "/resets/now": ("upstream_reset", 503, "allow"),
        "/cuts/later": ("upstream_reset", 200, "allow"),
        "/stalls/too-long": ("timed_out", 504, "allow"),
        "/answers/nobody": ("denied", 401, "deny"),
        "/pauses/envoy-dies": ("unknown", 200, "allow"),
    }
    rows = await asyncio.to_thread(ledger.rows, "1", expect=len(expected), timeout=SETTLED_S)
    assert {row["path"]: (row["outcome"], row["status"], row["decision"]) for row in rows} == expected
    parts = {row["path"]: row["resp_body"] for row in rows}
    for path in ("/pauses/client-leaves", "/cuts/later", "/pauses/envoy-dies"):
        assert parts[path], f"{path}: what passed before the end is recorded"
        assert PART.startswith(parts[path])


async def test_without_workers_nothing_passes_and_with_them_it_does_again(
    stack: Stack, issuer: LoopbackIssuer, upstream: wire.Upstream
) -> None:
    """They are killed as often as they come back, until a request has met none of them."""
    token, n = issuer.token(), 0
    async with asyncio.timeout(60):
        while True:
            n += 1
            for _ in stack.pids()["worker"]:
                with contextlib.suppress(IndexError, ProcessLookupError):
                    kill(stack, "worker")
            async with Client(stack, token, f"/answers/orphan-{n}") as client:
                got = await client.everything()
            if got.startswith(b"HTTP/1.1 503"):
                break
    assert b'"gate.unavailable"' in got
    assert f"/answers/orphan-{n}" not in [seen.target for seen in upstream.seen]
    await asyncio.to_thread(stack.ready)
    async with asyncio.timeout(20):
        while not got.startswith(b"HTTP/1.1 200"):
            n += 1
            async with Client(stack, token, f"/answers/orphan-{n}") as client:
                got = await client.everything()
