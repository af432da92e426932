"""The console's answers, without a socket."""

from __future__ import annotations

import json
from typing import Any

from starlette.types import Message

from ext_proc.hub.console import Condition, application


def condition(ok: bool, message: str) -> Condition:
    async def look() -> tuple[bool, str]:
        return ok, message

    return look


async def get(path: str, **conditions: Condition) -> tuple[int, Any]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"", "http_version": "1.1"}
    await application(conditions)(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body) if body.startswith(b"{") else body


async def test_ready_once_every_condition_holds() -> None:
    good, bad = condition(True, "fine"), condition(False, "ClickHouse is away")
    assert await get("/readyz", ledger=good, gate=good) == (
        200,
        {"ready": True, "conditions": {n: {"ok": True, "message": "fine"} for n in ("ledger", "gate")}},
    )
    status, body = await get("/readyz", ledger=bad, gate=good)
    assert status == 503
    assert body["conditions"]["ledger"] == {"ok": False, "message": "ClickHouse is away"}
    assert body["ready"] is False


async def test_alive_whatever_the_conditions_are() -> None:
    assert await get("/healthz", ledger=condition(False, "")) == (200, {"alive": True})
    assert (await get("/other"))[0] == 404
