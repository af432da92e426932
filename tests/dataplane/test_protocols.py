"""Each protocol through `douane up`: the client sees what the upstream sent, the upstream what the client sent, and
the ledger holds both."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import h2.config
import h2.connection
import h2.events
import pytest

from tests.dataplane import upstreams, wire
from tests.dataplane.background import Background
from tests.dataplane.ledger import Ledger, Row
from tests.dataplane.stack import Stack, douane_up, free_ports
from tests.issuer import LoopbackIssuer

pytestmark = [pytest.mark.dataplane, pytest.mark.clickhouse, pytest.mark.slow]

MIB = 1 << 20
LARGE = 300 * MIB


# --- the gate, and what stands behind it -----------------------------------------------------------------------------


@dataclass
class Paced:
    """Server-sent events, of which the next is sent when the client has told that it has the one before."""

    told: asyncio.Queue[None] = field(default_factory=asyncio.Queue)

    async def __call__(self, line: wire.Wire) -> bool:
        await line.body()
        await line.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for n in range(3):
            event = b"data: tick %d\n\n" % n
            await line.send(b"%x\r\n%b\r\n" % (len(event), event))
            await self.told.get()
        await line.send(b"0\r\n\r\n")
        return True

    async def tell(self) -> None:
        self.told.put_nowait(None)


ODD = [
    ("server", "Foo/1"),
    ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("set-cookie", "a=1"),
    ("x-empty", ""),
    ("set-cookie", "b=2"),
    ("x-latin", "caf\xe9"),
]
MANY = [(f"x-{n:03}", "v" * 250) for n in range(150)]
PACED = Paced()
SCRIPTS: dict[str, wire.Script] = {
    "/odd": wire.reply(wire.answer("418 I'm a teapot", b'{"reason": "mine"}\n', ODD)),
    "/head": wire.reply(wire.HEAD),
    "/204": wire.reply(wire.NO_CONTENT),
    "/304": wire.reply(wire.NOT_MODIFIED),
    "/trailers": wire.chunked([b"one,", b"two"], trailers=[("x-sum", "7"), ("x-more", "")]),
    "/continue": wire.reply(wire.answer(body=b"done")),
    "/many": wire.reply(wire.answer(body=b"many", headers=MANY)),
    "/sse": PACED,
    "/early": wire.early(wire.answer("413 Content Too Large", b"too much")),
    "/slow": wire.reply(wire.answer(body=b"slow")),
    **{f"/pipe/{n}": wire.reply(wire.answer(body=b"answer %d" % n)) for n in range(4)},
}


@dataclass
class Gate:
    stack: Stack
    ports: dict[str, int]
    ledger: Ledger
    issuer: LoopbackIssuer
    web: wire.Upstream
    raw: wire.Upstream
    servers: Background

    def url(self, connection: str) -> str:
        return f"http://127.0.0.1:{self.ports[connection]}"

    @property
    def identity(self) -> dict[str, str]:
        return {"dd-api-key": self.issuer.token()}

    def head(self, line: str, *fields: str) -> bytes:
        return "\r\n".join([line, "host: gate.test", f"dd-api-key: {self.issuer.token()}", *fields, "", ""]).encode()


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, issuer: LoopbackIssuer, servers: Background) -> Iterator[Gate]:
    async def script(line: wire.Wire) -> bool:
        return await SCRIPTS[line.target](line)

    web, raw = servers.enter(upstreams.web()), servers.enter(wire.raw(script))
    rpc = servers.enter(upstreams.grpc_echo())
    ports = dict(zip(("raw", "rpc", "stream"), free_ports(3), strict=True))
    upstream: dict[str, dict[str, Any]] = {
        "raw": {"upstream": raw.url},
        "rpc": {"upstream": rpc.url, "upstream_http2": True},
        "stream": {"upstream": web.url, "body": "stream"},
    }
    identity = {"identity": {"headers": ["dd-api-key", "authorization"]}, "scopes": {"everything": ["* /**"]}}
    connections = {n: {"listen": f"127.0.0.1:{ports[n]}", **identity, **more} for n, more in upstream.items()}
    grant = {"name": "main", "issuer": "github", "if": "claims.repository_id == '74'"}
    allow = {name: ["everything"] for name in ("datadog", *connections)}
    with douane_up(
        tmp_path_factory.mktemp("protocols"),
        issuer.url,
        web.url,
        connections=connections,
        grants=[grant | {"allow": allow}],
        recording={"spool": {"max_size": "4GiB"}},
    ) as stack:
        yield Gate(stack, {"datadog": stack.port, **ports}, Ledger(stack), issuer, web, raw, servers)


# --- clients ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(gate: Gate, connection: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[connection], limit=1 << 22)
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.close()


@dataclass
class Answer:
    line: bytes
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)


async def receive(reader: asyncio.StreamReader, *, body: bool = True) -> Answer:
    """The next answer of a connection."""
    line, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    answer = Answer(line, split(lines))
    fields = {name.lower(): value for name, value in answer.fields}
    if not body:
        return answer
    if fields.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            answer.body += (await reader.readexactly(size + 2))[:-2]
        rest = []
        while (one := await reader.readuntil(b"\r\n")) != b"\r\n":
            rest.append(one[:-2])
        answer.trailers = split(rest)
    else:
        answer.body = await reader.readexactly(int(fields["content-length"]))
    return answer


def split(lines: list[bytes]) -> list[tuple[str, str]]:
    pairs = (line.decode("latin-1").partition(":") for line in lines)
    return [(name, value.strip()) for name, _, value in pairs]


async def once(gate: Gate, connection: str, request: bytes, *, body: bool = True) -> Answer:
    async with connected(gate, connection) as (reader, writer):
        writer.write(request)
        return await receive(reader, body=body)


def passed(row: Row, status: int, protocol: str = "HTTP/1.1") -> None:
    assert (row["decision"], row["status"], row["outcome"]) == ("allow", status, "complete"), row
    assert (row["protocol"], row["issuer"], row["policy"]) == (protocol, "github", "main")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- HTTP/1.1 --------------------------------------------------------------------------------------------------------


async def test_an_answer_arrives_as_it_was_sent(gate: Gate) -> None:
    got = await once(gate, "raw", gate.head("GET /odd HTTP/1.1"))
    length = ("content-length", "19")
    assert got.line.startswith(b"HTTP/1.1 418 ")  # the phrase is Envoy's; HTTP/2 has none, and nobody may read it
    assert (got.fields, got.body) == ([*ODD, length], b'{"reason": "mine"}\n')
    row = gate.ledger.row("/odd")
    passed(row, 418)
    latin = "caf\ufffd"  # bytes that are no UTF-8, as JSON shows them
    kept = [(n, v.partition("=[MASKED:")[0] if n == "set-cookie" else v) for n, v in row["resp_headers"]]
    stored = {"x-latin": latin, "a=1": "a", "b=2": "b"}  # a cookie's value is a secret
    assert kept == [(n, stored.get(n, stored.get(v, v))) for n, v in [*ODD, length]]
    assert row["resp_body"] == got.body
    assert gate.ledger.query("SELECT hex(resp_headers[6].value) AS v FROM douane.exchanges WHERE path = '/odd'") == [
        {"v": "636166E9"}
    ]


@pytest.mark.parametrize(
    ("request_line", "line", "announced"),
    [
        ("HEAD /head HTTP/1.1", b"HTTP/1.1 200 OK", ("content-length", "4321")),
        ("GET /204 HTTP/1.1", b"HTTP/1.1 204 No Content", None),
        ("GET /304 HTTP/1.1", b"HTTP/1.1 304 Not Modified", ("content-length", "1234")),
    ],
)
async def test_answers_without_a_body(
    gate: Gate, request_line: str, line: bytes, announced: tuple[str, str] | None
) -> None:
    async with connected(gate, "raw") as (reader, writer):
        writer.write(gate.head(request_line))
        got = await receive(reader, body=False)
        writer.write(gate.head("GET /pipe/0 HTTP/1.1"))
        assert (await receive(reader)).body == b"answer 0"  # nothing of a body stood before it
    assert got.line == line
    assert [f for f in got.fields if f[0] in ("content-length", "transfer-encoding")] == (
        [announced] if announced else []
    )
    method, path, _ = request_line.split()
    row = gate.ledger.row(path)
    passed(row, int(line.split()[1]))
    assert (row["method"], row["resp_body"], row["resp_body_size"]) == (method, b"", 0)
    # Envoy says the time of an answer that has none (RFC 9110, 6.6.1); the ledger holds what was sent.
    assert row["resp_headers"] == [f for f in got.fields if f[0] != "date"]


async def test_continue_is_said_before_the_body(gate: Gate) -> None:
    async with connected(gate, "raw") as (reader, writer):
        writer.write(gate.head("POST /continue HTTP/1.1", "expect: 100-continue", "content-length: 4"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert not [seen for seen in gate.raw.seen if seen.target == "/continue"]
        writer.write(b"body")
        assert (await receive(reader)).body == b"done"
    row = gate.ledger.row("/continue")
    passed(row, 200)
    assert row["req_body"] == b"body"


async def test_chunks_and_trailers_both_ways(gate: Gate) -> None:
    head = gate.head("POST /trailers HTTP/1.1", "transfer-encoding: chunked", "te: trailers", "trailer: x-of")
    got = await once(gate, "raw", head + b"4\r\nask,\r\n3;ext=1\r\ning\r\n0\r\nx-of: client\r\n\r\n")
    assert (got.body, got.trailers) == (b"one,two", [("x-sum", "7"), ("x-more", "")])
    [seen] = [seen for seen in gate.raw.seen if seen.target == "/trailers"]
    assert (seen.body_sha256, seen.trailers) == (sha256(b"ask,ing"), (("x-of", "client"),))
    row = gate.ledger.row("/trailers")
    passed(row, 200)
    assert (row["req_body"], row["req_trailers"]) == (b"ask,ing", [("x-of", "client")])
    assert (row["resp_body"], row["resp_trailers"]) == (b"one,two", [("x-sum", "7"), ("x-more", "")])


async def test_large_heads_both_ways(gate: Gate) -> None:
    got = await once(gate, "raw", gate.head("GET /many HTTP/1.1", *(f"{n}: {v}" for n, v in MANY)))
    assert [f for f in got.fields if f[0].startswith("x-0")] == [f for f in MANY if f[0].startswith("x-0")]
    [seen] = [seen for seen in gate.raw.seen if seen.target == "/many"]
    assert [f for f in seen.headers if f in MANY] == MANY
    row = gate.ledger.row("/many")
    passed(row, 200)
    for side in ("req_headers", "resp_headers"):
        assert [f for f in row[side] if f in MANY] == MANY


async def test_pipelined_requests_are_answered_in_order(gate: Gate) -> None:
    before = gate.raw.connections
    async with connected(gate, "raw") as (reader, writer):
        writer.write(b"".join(gate.head(f"GET /pipe/{n} HTTP/1.1", "x-pipelined: 1") for n in range(1, 4)))
        assert [(await receive(reader)).body for _ in range(3)] == [b"answer 1", b"answer 2", b"answer 3"]
    rows = gate.ledger.rows("match(path, '^/pipe/[123]$')", expect=3)
    assert [row["path"] for row in rows] == ["/pipe/1", "/pipe/2", "/pipe/3"]
    assert len({row["exchange_id"] for row in rows}) == 3
    assert len({row["source_address"] for row in rows}) == 1
    assert gate.raw.connections - before <= 2  # the upstream's are used again, too


async def test_an_answer_before_the_body(gate: Gate) -> None:
    """The upstream refuses on the head; the client need not send the rest to hear of it."""
    async with connected(gate, "raw") as (reader, writer):
        writer.write(gate.head("POST /early HTTP/1.1", f"content-length: {8 * MIB}") + bytes(64 << 10))
        got = await receive(reader)
    assert (got.line[:13], got.body) == (b"HTTP/1.1 413 ", b"too much")
    row = gate.ledger.row("/early", timeout=30)
    assert (row["decision"], row["status"], row["resp_body"]) == ("allow", 413, b"too much")
    assert row["req_body"] == bytes(row["req_body_size"])


async def test_a_slow_client_holds_nobody_up(gate: Gate) -> None:
    async with connected(gate, "raw") as (reader, writer):
        writer.write(gate.head("POST /slow HTTP/1.1", "content-length: 20"))
        for n in range(20):
            writer.write(b"%d" % (n % 10))
            await writer.drain()
            if n == 10:
                assert (await once(gate, "raw", gate.head("GET /pipe/0 HTTP/1.1"))).body == b"answer 0"
            await asyncio.sleep(0.02)
        assert (await receive(reader)).body == b"slow"
    row = gate.ledger.row("/slow")
    passed(row, 200)
    assert row["req_body"] == b"01234567890123456789"
    assert row["duration_us"] > 300_000


# --- content-codings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
async def test_coded_bodies_are_kept_as_sent_and_searched_decoded(gate: Gate, coding: str) -> None:
    plain = upstreams.text(3000)
    coded = upstreams.CODINGS[coding](plain)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        async with session.get(f"{gate.url('datadog')}/coded/{coding}?bytes=3000", headers=gate.identity) as response:
            assert (response.headers["content-encoding"], await response.read()) == (coding, coded)
            assert response.headers["content-length"] == str(len(coded))
        headers = gate.identity | {"content-encoding": coding, "content-type": "application/json"}
        async with session.post(f"{gate.url('datadog')}/upload?{coding}", data=coded, headers=headers) as response:
            assert (await response.json())["sha256"] == sha256(coded)
    row = gate.ledger.row(f"/coded/{coding}")
    passed(row, 200)
    assert (row["resp_body"], row["resp_text"], row["resp_form"]) == (coded, plain.decode(), "as_sent")
    [row] = gate.ledger.rows("path = '/upload' AND query = {q:String}", expect=1, q=coding)
    passed(row, 200)
    assert (row["req_body"], row["req_text"], row["req_form"]) == (coded, plain.decode(), "as_sent")


# --- streams ---------------------------------------------------------------------------------------------------------


def journalled(gate: Gate, text: bytes) -> bool:
    """Whether a worker has written this down."""
    return any(text in path.read_bytes() for path in (gate.stack.folder / "var/spool").rglob("*.journal"))


async def test_each_event_arrives_at_once_and_is_recorded_first(gate: Gate) -> None:
    loop = asyncio.get_running_loop()
    async with connected(gate, "raw") as (reader, writer):
        writer.write(gate.head("GET /sse HTTP/1.1", "accept: text/event-stream"))
        await receive(reader, body=False)
        for n in range(3):
            begun = loop.time()
            await reader.readuntil(b"data: tick %d\n\n\r\n" % n)
            assert loop.time() - begun < 0.8  # a second later, whatever waits is let go
            assert journalled(gate, b"data: tick %d\n" % n)
            gate.servers.run(PACED.tell())
        assert await reader.readuntil(b"0\r\n\r\n")
    row = gate.ledger.row("/sse")
    passed(row, 200)
    assert row["resp_body"] == b"".join(b"data: tick %d\n\n" % n for n in range(3))


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """WebSocket frames (RFC 6455, 5.2) as (opcode, payload), unmasked."""
    found, at = [], 0
    while at < len(data):
        opcode, length, masked = data[at] & 15, data[at + 1] & 127, data[at + 1] & 128
        at += 2
        if length == 126:
            length, at = struct.unpack_from(">H", data, at)[0], at + 2
        elif length == 127:
            length, at = struct.unpack_from(">Q", data, at)[0], at + 8
        key = data[at : at + 4] if masked else bytes(4)
        at += 4 if masked else 0
        found.append((opcode, bytes(b ^ key[n % 4] for n, b in enumerate(data[at : at + length]))))
        at += length
    return found


async def test_websocket_frames_pass_and_are_recorded_both_ways(gate: Gate) -> None:
    messages = ["text", "x" * 70_000, "ü"]
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{gate.url('datadog')}/ws", headers=gate.identity, protocols=["echo"]) as websocket,
    ):
        assert websocket.protocol == "echo"
        for message in messages:
            await websocket.send_str(message)
            assert await websocket.receive_str(timeout=5) == message
        await websocket.send_bytes(b"\0bytes")
        assert await websocket.receive_bytes(timeout=5) == b"\0bytes"
    row = gate.ledger.row("/ws")
    passed(row, 101)
    expected = [(1, m.encode()) for m in messages] + [(2, b"\0bytes")]
    assert [frame for frame in frames(row["req_body"]) if frame[0] < 8] == expected
    assert [frame for frame in frames(row["resp_body"]) if frame[0] < 8] == expected


# --- HTTP/2 and gRPC -------------------------------------------------------------------------------------------------


async def test_http2_with_prior_knowledge(gate: Gate) -> None:
    """Two requests on one connection: a GET, and a POST with a body and trailers."""
    async with connected(gate, "datadog") as (reader, writer):
        connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        connection.initiate_connection()
        identity = [(":scheme", "http"), (":authority", "gate.test"), *gate.identity.items()]
        connection.send_headers(1, [(":method", "GET"), (":path", "/echo/h2?q=1"), *identity], end_stream=True)
        connection.send_headers(3, [(":method", "POST"), (":path", "/echo/h2-post"), *identity])
        connection.send_data(3, b"two ")
        connection.send_data(3, b"pieces", end_stream=True)
        writer.write(connection.data_to_send())
        status: dict[int, str] = {}
        bodies: dict[int, bytes] = {1: b"", 3: b""}
        ended: set[int] = set()
        while ended != {1, 3}:
            for event in connection.receive_data(await reader.read(1 << 16)):
                if isinstance(event, h2.events.ResponseReceived):
                    status[event.stream_id] = {str(n): str(v) for n, v in event.headers or []}[":status"]
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    ended.add(event.stream_id)
            writer.write(connection.data_to_send())
    assert status == {1: "200", 3: "200"}
    assert json.loads(bodies[3])["sha256"] == sha256(b"two pieces")
    row = gate.ledger.row("/echo/h2")
    passed(row, 200, "HTTP/2")
    assert (row["query"], row["resp_body_size"] > 0) == ("q=1", True)
    row = gate.ledger.row("/echo/h2-post")
    passed(row, 200, "HTTP/2")
    assert row["req_body"] == b"two pieces"


def messages(body: bytes) -> list[bytes]:
    """gRPC's length-prefixed messages."""
    found = []
    while body:
        (length,) = struct.unpack_from(">I", body, 1)
        found.append(body[5 : 5 + length])
        body = body[5 + length :]
    return found


async def test_grpc_of_all_kinds(gate: Gate) -> None:
    metadata = (("authorization", f"Bearer {gate.issuer.token()}"),)
    service = f"/{upstreams.GRPC_SERVICE}"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.ports['rpc']}") as channel:
        call = channel.unary_unary(f"{service}/Unary")(b"one", metadata=metadata, timeout=10)
        assert await call == b"one"
        assert ("echo-initial", "begin") in list(await call.initial_metadata())
        assert ("echo-trailer-bin", b"\x00\x01end") in list(await call.trailing_metadata())
        downstream = channel.unary_stream(f"{service}/ServerStream")(b"3", metadata=metadata, timeout=10)
        assert [m async for m in downstream] == [b"0", b"1", b"2"]
        upstream = channel.stream_unary(f"{service}/ClientStream")(metadata=metadata, timeout=10)
        for message in (b"a", b"b"):
            await upstream.write(message)
        await upstream.done_writing()
        assert await upstream == b"a,b"
        both = channel.stream_stream(f"{service}/Bidi")(metadata=metadata, timeout=10)
        for message in (b"x", b"y"):
            await both.write(message)
            assert await both.read() == message  # before the request ends
        await both.done_writing()
        assert await both.read() is grpc.aio.EOF
    expected = {
        "Unary": ([b"one"], [b"one"]),
        "ServerStream": ([b"3"], [b"0", b"1", b"2"]),
        "ClientStream": ([b"a", b"b"], [b"a,b"]),
        "Bidi": ([b"x", b"y"], [b"x", b"y"]),
    }
    for method, (sent, received) in expected.items():
        row = gate.ledger.row(f"{service}/{method}")
        passed(row, 200, "HTTP/2")
        assert (messages(row["req_body"]), messages(row["resp_body"])) == (sent, received)
        assert ("grpc-status", "0") in row["resp_trailers"]
        assert ("echo-trailer", "end") in row["resp_trailers"]


async def test_a_failing_call_and_a_refused_one(gate: Gate) -> None:
    service = f"/{upstreams.GRPC_SERVICE}"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.ports['rpc']}") as channel:
        metadata = (("authorization", f"Bearer {gate.issuer.token()}"),)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary(f"{service}/Unary")(b"fail", metadata=metadata, timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(f"{service}/Unary")(b"who", timeout=10)
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "asked to fail")
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    [row] = gate.ledger.rows("connection = 'rpc' AND decision = 'deny'", expect=1)
    assert (row["reason"], row["outcome"]) == ("identity.missing", "denied")
    rows = gate.ledger.rows("connection = 'rpc' AND has(resp_trailers.value, 'asked to fail')", expect=1)
    assert ("grpc-message", "asked to fail") in rows[0]["resp_trailers"]


# --- 300 MB ----------------------------------------------------------------------------------------------------------


def resident(gate: Gate) -> dict[str, int]:
    """The largest memory of each role so far, in MiB; resets nothing."""
    found: dict[str, int] = {}
    for role, pids in gate.stack.pids().items():
        for pid in pids:
            peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            assert peak is not None
            found[role] = max(found.get(role, 0), int(peak[1]) >> 10)
    return found


async def test_large_bodies_take_bounded_memory_and_are_kept_whole(gate: Gate) -> None:
    before = resident(gate)
    body_hash = upstreams.download_sha256(LARGE)

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, LARGE, len(upstreams.BLOCK)):
            yield upstreams.BLOCK[: LARGE - start]

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        for connection in ("stream", "datadog"):
            url = f"{gate.url(connection)}/upload?{connection}"
            headers = gate.identity | {"content-length": str(LARGE)}
            async with session.post(url, data=body(), headers=headers) as response:
                assert response.status == 200, await response.text()
                assert await response.json() == {"sha256": body_hash, "length": LARGE}
        digest = hashlib.sha256()
        async with session.get(f"{gate.url('datadog')}/download?bytes={LARGE}", headers=gate.identity) as response:
            async for part in response.content.iter_any():
                digest.update(part)
        assert digest.hexdigest() == body_hash
    after = resident(gate)
    print(f"peak memory in MiB before and after 2 x 300 MiB up and 300 MiB down: {before} {after}")
    assert after["envoy"] - before["envoy"] < 150
    assert after["worker"] - before["worker"] < 150

    where = "path IN ('/upload', '/download') AND greatest(req_body_size, resp_body_size) > 1048576"
    rows = gate.ledger.rows(where, expect=3, timeout=120)
    assert [(row["path"], row["query"]) for row in rows[:2]] == [("/upload", "stream"), ("/upload", "datadog")]
    for row in rows:
        passed(row, 200)
        side = "req" if row["path"] == "/upload" else "resp"
        assert (row[f"{side}_body_size"], row[f"{side}_body_sha256"]) == (LARGE, body_hash)
        direction = "request" if side == "req" else "response"
        assert gate.ledger.part_hash(row["exchange_id"], direction) == (body_hash, LARGE)
    print(f"afterwards: {resident(gate)}")
