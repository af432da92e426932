"""Routes whose responses are looked into, on the real Envoy: what passes is the upstream's to the byte, what must not
pass does not, and whatever ends early ends as an error."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ext_proc.pb import journal_pb2
from tests.dataplane import wire
from tests.dataplane.early_ends import WAYS, Gate, dechunked, gate, kinds, refusal
from tests.dataplane.stack import douane_up
from tests.issuer import LoopbackIssuer

pytestmark = pytest.mark.dataplane

CLIENT = {"masking": {"response": "client"}}
SECRET = b"ghp_" + b"a1B2c3D4e5F6" * 3
HTML = ("content-type", "text/html")
GZIP = ("content-encoding", "gzip")
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"

ANSWERS = {
    "/plain": wire.answer(body=b"<p>hello</p>", headers=[HTML, ("etag", '"7"'), ("x-twice", "a"), ("x-twice", "b")]),
    "/gzip": wire.answer(body=gzip.compress(b"<p>hello</p>" * 100, mtime=0), headers=[HTML, GZIP]),
    "/large": wire.answer(body=b"0123456789" * 90_000, headers=[HTML]),
    "/empty": wire.answer(headers=[HTML]),
    "/204": wire.NO_CONTENT,
    "/304": wire.NOT_MODIFIED,
    "/hints": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + wire.answer(body=b"after the hints"),
    "/teapot": wire.answer("418 I'm a teapot", b"short and stout", [("server", "Foo/1")]),
    "/chunked": CHUNKED + b"\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    "/trailers": CHUNKED + b"trailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
    "/only-trailers": CHUNKED + b"trailer: x-sum\r\n\r\n0\r\nx-sum: 1\r\n\r\n",
    "/until-close": b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\nuntil close",
    "/secret": wire.answer(body=b'{"k": "%b"}' % SECRET, headers=[("content-type", "application/json")]),
    "/secret/gzip": wire.answer(body=gzip.compress(b"token " + SECRET), headers=[HTML, GZIP, ("etag", '"7"')]),
    "/secret/trailers": CHUNKED + b"\r\n28\r\n" + SECRET + b"\r\n0\r\nx-t: " + SECRET + b"\r\n\r\n",
    "/too-large": wire.answer(body=b"x" * 1_100_000, headers=[HTML]),
    "/too-large/chunked": CHUNKED + b"\r\n%x\r\n" % 1_100_000 + b"x" * 1_100_000 + b"\r\n0\r\n\r\n",
}


@dataclass
class Site:
    """The upstream. `/slow` says when a half of it was sent, and sends the rest when told."""

    half: asyncio.Event = field(default_factory=asyncio.Event)
    rest: asyncio.Event = field(default_factory=asyncio.Event)

    async def script(self, request: wire.Wire) -> bool:
        await request.body()
        path = request.target
        if path == "/head":
            await request.send(wire.HEAD)
        elif path == "/reset":
            await request.send(wire.answer(body=b"x").replace(b"length: 1", b"length: 9"))
            await asyncio.sleep(0.05)
            request.reset()
            return False
        elif path == "/slow":
            await request.send(ANSWERS["/secret"][:-10])
            self.half.set()
            await self.rest.wait()
            self.rest.clear()
            await request.send(ANSWERS["/secret"][-10:])
        elif path == "/events":
            await request.send(CHUNKED + b"content-type: text/event-stream\r\n\r\n")
            for event in (b"data: one\n\n", b"data: " + SECRET + b"\n\n"):
                await request.send(b"%x\r\n%b\r\n" % (len(event), event))
                await request.reader.read(1)  # until the client has it
            await request.send(b"0\r\n\r\n")
        elif path == "/ws":
            await request.send(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x28"
                + SECRET
            )
            await request.send(b"\x81\x01 ")
            await request.reader.read(1)
            return False
        else:
            await request.send(ANSWERS[path])
            return not path.endswith("close")
        return True


async def fetch(port: int, path: str, method: str = "GET", headers: str = "", *, until: bytes = b"") -> bytes:
    """All that comes back, or all up to and with `until`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        ends = "" if "upgrade" in headers else "connection: close\r\n"
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}{ends}te: trailers\r\n\r\n".encode())
        async with asyncio.timeout(10):
            if until:
                return await reader.readuntil(until)
            with contextlib.suppress(ConnectionError):
                return await reader.read()
    finally:
        writer.close()
    return b""


async def through(running: Gate, path: str, method: str = "GET", headers: str = "", **options: Any) -> bytes:
    return await fetch(running.port, path, method, f"dd-api-key: {running.token}\r\n{headers}", **options)


def parsed(raw: bytes) -> tuple[bytes, list[bytes], bytes]:
    """The status, end-to-end fields, and what follows the head; the last without chunks, but with trailers."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    if status.startswith(b"HTTP/1.1 103"):
        return parsed(body)
    hops = (b"date:", b"connection:", b"transfer-encoding:")
    if b"transfer-encoding: chunked" in head and b"\r\n0\r\n" in b"\r\n" + body:
        chunks, _, trailers = (b"\r\n" + body).rpartition(b"\r\n0\r\n")
        body = dechunked(chunks[2:] + b"\r\n" if chunks else b"") + b"|" + trailers
    elif b"content-length" not in head and body:
        body += b"|\r\n"  # the connection's end is the body's, and Envoy sends chunks
    return status.split()[1], sorted(f for f in fields if not f.lower().startswith(hops)), body


def told(raw: bytes) -> tuple[dict[bytes, bytes], bytes]:
    _, fields, body = parsed(raw)
    return dict(field.split(b": ", 1) for field in fields), body.partition(b"|")[0]


UNCHANGED = [path for path in ANSWERS if "secret" not in path and "large/" not in path and path != "/too-large"]


async def test_on_the_real_envoy(tmp_path: Path, issuer: LoopbackIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    async with gate(tmp_path, issuer, monkeypatch, site.script, streaming=False, **CLIENT) as running:
        for path in UNCHANGED:
            assert parsed(await through(running, path)) == parsed(ANSWERS[path]), path
        assert parsed(await through(running, "/head", "HEAD")) == parsed(wire.HEAD)
        events = await running.ended(len(UNCHANGED) + 1)
        assert {e.closed.outcome for e in events if e.HasField("closed")} == {"complete"}
        assert not any(e.HasField("response_verdict") for e in events), "nothing was masked"

        await masked(running)
        await withheld(running)
        await interactive(running)
        await early_ends(running)
        await modes_by_route(running, site)
        await by_rules(running)


async def masked(running: Gate) -> None:
    fields, body = told(await through(running, "/secret"))
    assert json.loads(body)["k"].startswith("[MASKED:github")
    assert int(fields[b"content-length"]) == len(body)
    fields, body = told(await through(running, "/secret/gzip"))
    assert body.startswith(b"token [MASKED:github")
    assert int(fields[b"content-length"]) == len(body)
    assert not {b"content-encoding", b"etag"} & fields.keys()
    raw = await through(running, "/secret/trailers")
    assert SECRET not in raw
    assert raw.count(b"[MASKED:github") == 2
    assert raw.endswith(b"]\r\n\r\n"), "the trailers came, too"
    events = await running.ended(3)
    assert [e.response_verdict.decision for e in events if e.HasField("response_verdict")] == ["mask"] * 3
    whole = await through(running, "/plain", headers="range: bytes=0-1\r\n")
    assert whole.startswith(b"HTTP/1.1 200")
    assert running.upstream.seen[-1].all("range") == [], "the upstream is asked for the whole"
    await running.ended()


async def withheld(running: Gate) -> None:
    for path in ("/too-large", "/too-large/chunked"):
        assert refusal(await through(running, path)) == (502, "response.too_large"), path
        events = await running.ended()
        assert events[-1].closed.reason == "response.too_large"
    raw = await through(running, "/reset")
    assert refusal(raw) == (502, "upstream.reset"), "nothing of the half has left, so it can be said"
    events = await running.ended(2)  # its own end, and the access log's entry that says how
    assert body_of(events) == b"x"
    assert {e.access.outcome for e in events if e.HasField("access")} == {"upstream_reset"}


async def interactive(running: Gate) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(f"GET /events HTTP/1.1\r\nhost: x\r\ndd-api-key: {running.token}\r\n\r\n".encode())
    async with asyncio.timeout(5):
        first = await reader.readuntil(b"data: one\n\n")
        assert first.startswith(b"HTTP/1.1 200")
    writer.close()
    await running.ended(2)
    upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n"
    got = await through(running, "/ws", headers=upgrade, until=b"\x81\x01 ")
    assert got.startswith(b"HTTP/1.1 101")
    assert b"\x81\x28" + b"*" * 40 + b"\x81\x01 " in got, "a frame keeps its length"
    await running.ended(1)


async def early_ends(running: Gate) -> None:
    """The client gets an error, and not one byte of the answer."""
    servicer = running.servicer
    for how in WAYS:
        for path, phase, nth in [
            ("/plain", "response_headers", 0),
            ("/plain", "response_body", 0),
            ("/plain", "response_body", 1),
            ("/chunked", "response_body", 1),
            ("/trailers", "response_trailers", 0),
        ]:
            servicer.phase, servicer.nth, servicer.how = phase, nth, how
            case = f"{how} at {phase} {nth} of {path}"
            assert refusal(await through(running, path)) == (503, "gate.unavailable"), case
            events = await running.ended()
            assert kinds(events).startswith("opened verdict"), case
            assert "closed" in kinds(events), case
    servicer.phase = ""
    await asyncio.sleep(0.6)  # Envoy hands over its access log
    running.written()


async def modes_by_route(running: Gate, site: Site) -> None:
    """An answer that is on its way while the route's mode changes ends in the mode in which it began."""
    for change, former in (("ledger", "client"), ("client", "ledger")):
        site.half.clear()
        slow = asyncio.create_task(through(running, "/slow"))
        await site.half.wait()
        await running.reload(masking={"response": change})
        assert (SECRET in await through(running, "/secret")) is (change == "ledger")
        site.rest.set()
        assert (SECRET in await slow) is (former == "ledger")
        events = await running.ended(2)
        assert [e.response_verdict.decision for e in events if e.HasField("response_verdict")] == ["mask"]


async def by_rules(running: Gate) -> None:
    """No client is spared anything by default here: only policies look."""
    when = "response.headers['content-type'][0] == 'application/json' && 'k' in response.json"
    policies = [
        {"name": "no-keys", "effect": "withhold", "when": f"'content-type' in response.headers && {when}"},
        {"name": "failures", "effect": "flag", "when": "response.status == 418"},
    ]
    await running.reload(masking={"response": "ledger"}, policies=policies)
    assert refusal(await through(running, "/secret")) == (403, "response.withheld")
    events = await running.ended()
    (head,) = [e.response_head for e in events if e.HasField("response_head")]
    assert (head.status, b'{"k": "[MASKED' in body_of(events)) == (200, True)
    for path in UNCHANGED:
        assert parsed(await through(running, path)) == parsed(ANSWERS[path]), path
    events = await running.ended(len(UNCHANGED))
    hits = [hit.policy for e in events for hit in e.response_verdict.hits]
    assert hits == ["failures"]


def body_of(events: list[journal_pb2.Event]) -> bytes:
    return b"".join(e.part.data for e in events if e.HasField("part") and e.part.direction == journal_pb2.RESPONSE)


@pytest.mark.clickhouse
@pytest.mark.slow
async def test_a_worker_that_is_killed_while_it_holds_an_answer_shows_none_of_it(
    tmp_path: Path, issuer: LoopbackIssuer
) -> None:
    site = Site()
    async with wire.raw(site.script) as upstream, contextlib.AsyncExitStack() as stack:
        up = stack.enter_context(douane_up(tmp_path, issuer.url, upstream.url, wait=False, **CLIENT))
        await asyncio.to_thread(up.ready)
        key = f"dd-api-key: {issuer.token()}\r\n"
        waiting = asyncio.create_task(fetch(up.port, "/slow", headers=key))
        await site.half.wait()
        await asyncio.sleep(0.2)  # so that the half has reached a worker
        for pid in up.pids()["worker"]:
            os.kill(pid, signal.SIGKILL)
        assert refusal(await waiting) == (503, "gate.unavailable")
        for _ in range(60):  # until another worker is there
            if b"[MASKED:github" in await fetch(up.port, "/secret", headers=key):
                break
            await asyncio.sleep(0.3)
        (after,) = await asyncio.to_thread(up.rows, "path = '/secret' AND decision = 'allow'", expect=1)
        assert (after["outcome"], after["response_decision"]) == ("complete", "mask")
