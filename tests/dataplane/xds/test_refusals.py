"""What Envoy itself refuses, and what it takes away, before a worker is asked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.dataplane import upstreams, wire
from tests.dataplane.envoy_process import deny, fail, leave
from tests.dataplane.xds.gates import running

pytestmark = pytest.mark.dataplane

FORGED = "11111111-1111-4111-8111-111111111111"
HOST = f"\r\nHost: any.example\r\nx-request-id: {FORGED}\r\n"


def answer(raw: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


async def test_client_cannot_say_who_it_is(tmp_path: Path) -> None:
    claimed = ["X-Forwarded-For: 1.2.3.4", "x-forwarded-proto: https", "Forwarded: for=1.2.3.4", "Via: 1.1 a"]
    claimed += ["X-Real-IP: 1.2.3.4", "x-envoy-original-path: /admin", "x-envoy-internal: true", "x-original-url: /a"]
    claimed += ["x-rewrite-url: /a", "True-Client-IP: 1.2.3.4"]
    kept = ["X_under: 1", "cookie: a=b", "x-datadog-trace-id: 7"]
    head = "GET /echo?a=%2F HTTP/1.1" + HOST + "\r\n".join([*claimed, *kept]) + "\r\n\r\n"
    async with upstreams.web() as upstream, running(tmp_path, web=f"upstream: {upstream.url}") as gate:
        status, seen = answer(await gate.raw("web", head.encode()))
        [asked] = gate.worker.heads
    assert status == 200
    assert seen["target"] == "/echo?a=%2F"
    names = {name.lower() for name, _ in seen["headers"]}
    assert names == {"host", "x-request-id", "x_under", "cookie", "x-datadog-trace-id"}
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert headers["host"] == f"127.0.0.1:{upstream.port}"
    assert headers["x-request-id"] == str(asked.exchange.exchange_id) != FORGED


ROUTED = [
    ("GET /a%2Fb HTTP/1.1", 400, "request.path"),
    ("GET /a%5cb HTTP/1.1", 400, "request.path"),
    ("CONNECT other.example:443 HTTP/1.1", 405, "request.method"),
    ("GET / HTTP/1.1\r\nHost: b", 400, "request.host"),
]


async def test_refused_by_the_routes_with_an_id_of_ours(tmp_path: Path) -> None:
    async with running(tmp_path, dead="upstream: http://127.0.0.1:1") as gate:
        told = [answer(await gate.raw("dead", f"{line}{HOST}\r\n".encode())) for line, _, _ in ROUTED]
        logged = await gate.worker.logged(len(ROUTED))
        assert gate.worker.heads == []
    assert [(status, body["reason"]) for status, body in told] == [(status, reason) for _, status, reason in ROUTED]
    ids = [body["exchange_id"] for _, body in told]
    assert ids == [entry.request.request_id for entry in logged]
    assert FORGED not in ids
    assert {entry.response.response_code_details for entry in logged} == {"direct_response"}


EARLY = [
    ("GET /a#fragment HTTP/1.1", "", 400, "request.path", "path_normalization_failed"),
    ("OPTIONS * HTTP/1.1", "", 404, "request.path", "absolute_path_rejected"),
    ("GET / HTTP/1.1", "connection: upgrade\r\nupgrade: foo\r\n", 403, "request.method", "upgrade_failed"),
]


async def test_refused_before_the_id_is_replaced(tmp_path: Path) -> None:
    """Such an answer reaches the worker without a request, and the client's id reaches nobody."""
    async with running(tmp_path, dead="upstream: http://127.0.0.1:1") as gate:
        told = [answer(await gate.raw("dead", f"{line}{HOST}{more}\r\n".encode())) for line, more, *_ in EARLY]
        await gate.raw("dead", f"GET /x HTTP/1.1{HOST}\r\n".encode())
        [logged] = await gate.worker.logged()  # of the unreachable one: the others would stand before it
        assert [orphan.code_details for orphan in gate.worker.orphans] == [details for *_, details in EARLY]
    assert [(status, body["reason"]) for status, body in told] == [(s, r) for _, _, s, r, _ in EARLY]
    assert FORGED not in {logged.request.request_id, *(body.get("exchange_id") for _, body in told)}


BROKEN = {
    "http10": "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    "smuggled": "POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": "POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "huge": "GET / HTTP/1.1\r\nHost: a\r\nx: " + "y" * 70_000 + "\r\n\r\n",
    "unknown method": "BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
    "folded": "GET / HTTP/1.1\r\nHost: a\r\n b: folded\r\n\r\n",
}


async def test_broken_heads_reach_nobody(tmp_path: Path) -> None:
    async with upstreams.web() as upstream, running(tmp_path, web=f"upstream: {upstream.url}") as gate:
        got = await asyncio.gather(*(gate.raw("web", head.encode(), silence=1.5) for head in BROKEN.values()))
        assert [str(head.exchange.headers.items) for head in gate.worker.heads] == []
    assert upstream.seen == []
    refused = (b"HTTP/1.1 400", b"HTTP/1.1 426", b"HTTP/1.1 431")
    assert [name for name, raw in zip(BROKEN, got, strict=True) if raw and not raw.startswith(refused)] == []


async def test_own_answers_are_spared_and_missing_verdicts_stopped(tmp_path: Path) -> None:
    async with upstreams.web() as upstream, running(tmp_path, web=f"upstream: {upstream.url}") as gate:
        gate.worker.by_path |= {"/echo/deny": deny, "/echo/leave": leave, "/echo/fail": fail}

        async def get(path: str) -> tuple[int, dict[str, Any]]:
            return answer(await gate.raw("web", f"GET {path} HTTP/1.1{HOST}\r\n".encode()))

        status, denied = await get("/echo/deny")
        assert (status, denied["reason"], denied["message"]) == (403, "grant.none", "no grant allows this")
        status, unjudged = await get("/echo/leave")
        assert (status, unjudged["reason"]) == (403, "gate.no_verdict")
        status, failed = await get("/echo/fail")
        assert (status, failed["reason"]) == (503, "gate.unavailable")
        logged = await gate.worker.logged(2)
        assert [entry.request.request_id for entry in logged] == [unjudged["exchange_id"], failed["exchange_id"]]
        assert gate.worker.heads[1].exchange.exchange_id != gate.worker.heads[0].exchange.exchange_id
    assert upstream.seen == []


async def test_a_leaving_worker_with_a_body_leaks_nothing(tmp_path: Path) -> None:
    """FULL_DUPLEX_STREAMED would pass a truncated body that looks complete."""
    async with upstreams.web() as upstream, running(tmp_path, web=f"upstream: {upstream.url}") as gate:
        gate.worker.by_path["/upload"] = leave
        body = b"x" * 200_000
        head = f"POST /upload HTTP/1.1{HOST}content-length: {len(body)}\r\n\r\n".encode()
        status, told = answer(await gate.raw("web", head + body))
    assert (status, told["reason"]) == (403, "gate.no_verdict")
    assert upstream.seen == []
    assert upstream.aborted == 0


async def test_answers_are_the_upstreams(tmp_path: Path) -> None:
    headers = [("server", "Foo/1"), ("date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("content-type", "application/json")]
    headers += [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-envoy-upstream-service-time", "7")]
    data = wire.answer("418 I'm a teapot", b'{"reason": "mine"}', headers)
    async with wire.raw(wire.reply(data)) as upstream, running(tmp_path, up=f"upstream: {upstream.url}") as gate:
        got = await gate.raw("up", f"GET /x HTTP/1.1{HOST}\r\n".encode())
    assert got.split(b"\r\n", 1)[1] == data.split(b"\r\n", 1)[1]


async def test_without_a_worker_nothing_passes(tmp_path: Path) -> None:
    async with upstreams.web() as upstream, running(tmp_path, web=f"upstream: {upstream.url}") as gate:
        (tmp_path / "worker-0.sock").unlink()
        status, told = answer(await gate.raw("web", f"GET /echo HTTP/1.1{HOST}\r\n".encode(), silence=3))
    assert (status, told["reason"]) == (503, "gate.unavailable")
    assert upstream.seen == []
