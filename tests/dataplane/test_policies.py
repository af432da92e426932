"""Policies on real Envoy: what passes and what does not, and what the ledger says of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.dataplane.background import Background
from tests.dataplane.failure import Witness, witness
from tests.dataplane.ledger import Ledger
from tests.dataplane.stack import Stack, douane_up
from tests.issuer import LoopbackIssuer

pytestmark = [pytest.mark.dataplane, pytest.mark.clickhouse]

OPENAPI = {
    "openapi": "3.0.0",
    "paths": {
        "/api/v1/dashboard": {"post": {"operationId": "CreateDashboard"}},
        "/api/v1/dashboard/{id}": {"get": {"operationId": "GetDashboard"}},
    },
}
POLICIES = [
    {
        "name": "no-iframes",
        "match": {"connection": "datadog", "operation": ["CreateDashboard"]},
        "effect": "deny",
        "when": "widgets(request.json).exists(w, w.definition.type == 'iframe')",
        "message": "iframe widgets are not allowed",
    },
    {"name": "untitled", "effect": "deny", "mode": "observe", "when": "!has(request.json.title)"},
    {
        "name": "few-writes",
        "match": {"requests": ["POST /counted/**"]},
        "effect": "deny",
        "when": "session.window.writes > 4",
    },
    {"name": "slowly", "match": {"requests": ["GET /slow"]}, "effect": "allow", "rate": {"limit": 1, "per": "1h"}},
]


def dashboard(kind: str) -> bytes:
    inner = {"definition": {"type": kind}}
    return json.dumps({"widgets": [{"definition": {"type": "group", "widgets": [inner]}}]}).encode()


@pytest.fixture(scope="module")
def upstream(servers: Background) -> Witness:
    return servers.enter(witness())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, issuer: LoopbackIssuer, upstream: Witness) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("policies")
    (folder / "api.json").write_text(json.dumps(OPENAPI))
    connection = {"operations": {"openapi": "./api.json"}}
    with douane_up(folder, issuer.url, upstream.url, connections={"datadog": connection}, policies=POLICIES) as running:
        yield running


async def test_what_policies_do_and_what_is_recorded(stack: Stack, issuer: LoopbackIssuer) -> None:
    headers = {"dd-api-key": issuer.token(run_id="77"), "content-type": "application/json"}
    said: list[tuple[int, str]] = []

    async def ask(session: aiohttp.ClientSession, method: str, path: str, body: bytes = b"") -> None:
        async with session.request(method, stack.url + path, data=body, headers=headers) as got:
            text = await got.read()
            said.append((got.status, json.loads(text)["reason"] if got.status >= 400 else ""))

    async with aiohttp.ClientSession() as session:
        await ask(session, "POST", "/api/v1/dashboard", dashboard("note"))
        await ask(session, "POST", "/api/v1/dashboard", dashboard("iframe"))
        await ask(session, "POST", "/api/v1/dashboard", b'{"widgets": [{}], "Widgets": 1}')
        await asyncio.sleep(0.5)  # where no rule asks, requests are counted in the background; the refused ones, too
        for n in range(2):
            await ask(session, "POST", f"/counted/{n}", b"{}")
        await ask(session, "GET", "/slow")
        await ask(session, "GET", "/slow")
    assert said == [
        (200, ""),
        (403, "policy.denied"),
        (403, "policy.uninspectable"),
        (200, ""),
        (403, "policy.denied"),
        (200, ""),
        (429, "policy.rate"),
    ]
    ledger = Ledger(stack)
    rows = await asyncio.to_thread(ledger.rows, "1", expect=7)
    seen: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: str(row["ts"])):
        seen.setdefault(str(row["path"]), []).append(row)
    passed, denied, uninspectable = seen["/api/v1/dashboard"]
    assert {row["operation"] for row in (passed, denied, uninspectable)} == {"CreateDashboard"}
    assert (passed["decision"], denied["decision"], denied["policy"]) == ("allow", "deny", "no-iframes")
    assert uninspectable["reason"] == "policy.uninspectable"
    assert "iframe" in str(denied)
    assert "untitled" in str(passed)  # observed
    found = await asyncio.to_thread(stack.command, "search", "--operation", "CreateDashboard", "--json")
    assert len(found.stdout.splitlines()) == 3
