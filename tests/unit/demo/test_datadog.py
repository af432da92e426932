"""The demo's Datadog answers as the real one does, and lets in only who has both real keys."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from examples.demo.datadog import Datadog

KEYS = [(b"dd-api-key", b"real-api"), (b"dd-application-key", b"real-app")]
TIMESERIES = {"definition": {"type": "timeseries", "requests": [{"q": "avg:system.cpu.user{*}"}]}}
DASHBOARD = {"title": "Checkout: latency", "layout_type": "ordered", "widgets": [TIMESERIES]}

Call = Callable[..., tuple[int, Any]]


@pytest.fixture
def call() -> Call:
    """Calls one organisation's API without a socket: `call(method, path, body) -> (status, JSON)`."""
    app = Datadog("real-api", "real-app").app()

    def call(method: str, target: str, body: object = None, keys: list[tuple[bytes, bytes]] = KEYS) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": keys,
        }
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        run: Callable[..., Awaitable[None]] = app
        asyncio.run(run(scope, receive, send))  # type: ignore[arg-type]
        return sent[0]["status"], json.loads(b"".join(m.get("body", b"") for m in sent[1:]))

    return call


def test_a_dashboard_lives_from_create_to_delete(call: Call) -> None:
    status, made = call("POST", "/api/v1/dashboard", DASHBOARD)
    assert status == 200
    assert re.fullmatch(r"[a-z0-9]{3}(-[a-z0-9]{3}){2}", made["id"])
    assert made["url"] == f"/dashboard/{made['id']}/checkout-latency"
    assert isinstance(made["widgets"][0]["id"], int)

    changed = {**made, "title": "Checkout"}
    status, updated = call("PUT", f"/api/v1/dashboard/{made['id']}", changed)
    assert (status, updated["title"]) == (200, "Checkout")
    assert updated["created_at"] == made["created_at"]
    assert updated["modified_at"] > made["modified_at"]
    assert updated["widgets"] == made["widgets"]
    assert call("GET", f"/api/v1/dashboard/{made['id']}") == (200, updated)

    listed = call("GET", "/api/v1/dashboard?count=10&start=0")[1]["dashboards"]
    assert [d["title"] for d in listed] == ["Checkout"]
    assert "widgets" not in listed[0]

    assert call("DELETE", f"/api/v1/dashboard/{made['id']}") == (200, {"deleted_dashboard_id": made["id"]})
    missing = {"errors": [f"Dashboard with ID {made['id']} not found"]}
    for method in ("GET", "DELETE", "PUT"):
        assert call(method, f"/api/v1/dashboard/{made['id']}", DASHBOARD) == (404, missing)
    assert call("GET", "/api/v1/dashboard")[1] == {"dashboards": []}
    gone = call("GET", "/api/v1/dashboard?filter%5Bdeleted%5D=true")[1]["dashboards"]
    assert gone[0]["deleted_at"]


@pytest.mark.parametrize(
    "keys",
    [
        [],
        KEYS[:1],
        KEYS[1:],
        [(b"dd-api-key", b"wrong"), KEYS[1]],
        [*KEYS, KEYS[0]],
        [(b"dd-api-key", b"real-app"), (b"dd-application-key", b"real-api")],
    ],
    ids=["none", "api only", "application only", "wrong", "twice", "swapped"],
)
def test_both_real_keys_are_needed_each_once(call: Call, keys: list[tuple[bytes, bytes]]) -> None:
    assert call("POST", "/api/v1/dashboard", DASHBOARD, keys) == (403, {"errors": ["Forbidden"]})
    assert call("GET", "/api/v1/dashboard")[1] == {"dashboards": []}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", "Invalid JSON"),
        ([], "Invalid JSON structure"),
        ({**DASHBOARD, "title": ""}, "Invalid parameter title"),
        ({"title": "t", "widgets": []}, "The parameter 'layout_type' is required"),
        ({**DASHBOARD, "layout_type": "round"}, "Invalid parameter layout_type"),
        ({**DASHBOARD, "widgets": [{}]}, "Invalid widget at position 0: 'definition' is a required property"),
        ({**DASHBOARD, "widgets": [TIMESERIES, {"definition": {"type": "x"}}]}, "at position 1: type 'x' is not known"),
        ({**DASHBOARD, "widgets": [{"definition": {"type": "timeseries"}}]}, "'requests' is a required property."),
        ({**DASHBOARD, "layout_type": "free"}, "'layout' is required"),
    ],
)
def test_an_invalid_definition_is_refused_and_nothing_is_stored(call: Call, body: object, error: str) -> None:
    status, answer = call("POST", "/api/v1/dashboard", body)
    assert status == 400
    assert error in answer["errors"][0]
    assert call("GET", "/api/v1/dashboard")[1] == {"dashboards": []}


def test_iframes_are_fine_for_datadog_itself(call: Call) -> None:
    """So that it is Douane's rule, not the upstream, that refuses them in the demo."""
    iframe = {"definition": {"type": "iframe", "url": "https://example.com"}}
    assert call("POST", "/api/v1/dashboard", {**DASHBOARD, "widgets": [iframe]})[0] == 200
