import json
from typing import Any
from uuid import UUID

import pytest

from ext_proc.config import Config
from ext_proc.decision import Deny
from ext_proc.errors import ConfigError
from ext_proc.exchange import Exchange, Headers
from ext_proc.rules import Policies

NO_IFRAMES = {
    "name": "no-iframes",
    "match": {"connection": "dd", "requests": ["POST /api/v1/dashboard", "PUT /api/v1/dashboard/{id}"]},
    "effect": "deny",
    "json": {"path": "$..type", "any_of": ["iframe", 7, True]},
    "message": "iframe widgets are not allowed",
}
NO_KEYS = {"name": "no-keys", "match": {"requests": ["* /api/v2/api_keys/**"]}, "effect": "deny"}


def policies(*rules: dict[str, Any]) -> Policies:
    connection = {"listen": "127.0.0.1:1", "upstream": "https://api.example"}
    return Policies(
        Config.model_validate({"version": 1, "connections": {"dd": connection, "b": connection}, "policies": rules})
    )


def decide(
    rules: Policies,
    body: bytes | None,
    path: str = "/api/v1/dashboard",
    method: str = "POST",
    connection: str = "dd",
) -> Deny | None:
    exchange = Exchange(
        exchange_id=UUID(int=1),
        connection=connection,
        method=method,
        scheme="https",
        authority="api.example",
        path=path,
        query="",
        headers=Headers(),
        received_us=0,
    )
    return rules.decide(exchange, body)


POLICIES = policies(NO_IFRAMES, NO_KEYS)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"widgets": [{"definition": {"type": "note"}}]}, None),
        ({"widgets": [{"definition": {"type": "iframe"}}]}, "policy.denied"),
        ({"widgets": [{"definition": {"Type": "iframe"}}]}, "policy.denied"),
        ({"type": 7}, "policy.denied"),
        ({"type": 7.0}, "policy.denied"),
        ({"type": True}, "policy.denied"),
        ({"type": 1}, None),
        ({"type": "7"}, None),
        ({"type": ["iframe"]}, None),
        ({"kind": "iframe"}, None),
        (b'{"type": "\\u0069frame"}', "policy.denied"),
        (b'{"type": 7e0}', "policy.denied"),
        (b"", None),
        (None, "policy.uninspectable"),
        (b'{"type": "iframe", "type": "note"}', "policy.uninspectable"),
        (b'{"type": "note"} trailing', "policy.uninspectable"),
        (b"\x1f\x8b\x08\x00", "policy.uninspectable"),
        (b"type=iframe", "policy.uninspectable"),
        (b"[" * 100_000, "policy.uninspectable"),
        ('{"type": "iframe"}'.encode("utf-16"), "policy.uninspectable"),
        (b"\xef\xbb\xbf{}", "policy.uninspectable"),
    ],
)
def test_bodies(body: Any, reason: str | None) -> None:
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    decision = decide(POLICIES, raw)
    assert (decision and decision.reason) == reason
    if decision is not None:
        assert decision.policy == "no-iframes"
        assert decision.http_status == 403
        if reason == "policy.denied":
            assert decision.message == "iframe widgets are not allowed"


@pytest.mark.parametrize(
    ("method", "path", "connection", "denied"),
    [
        ("PUT", "/api/v1/dashboard/abc", "dd", True),
        ("POST", "/api/v1/dashboard/", "dd", True),
        ("POST", "/API/v1/dashboar%64", "dd", True),
        ("GET", "/api/v1/dashboard", "dd", False),
        ("POST", "/api/v1/dashboard/lists", "dd", False),
        ("POST", "/api/v1/dashboard", "b", False),
    ],
)
def test_which_requests_a_rule_looks_at(method: str, path: str, connection: str, denied: bool) -> None:
    decision = decide(POLICIES, b'{"type": "iframe"}', path, method, connection)
    assert (decision is not None) is denied
    assert POLICIES.needs_body(connection, method, path) is denied


@pytest.mark.parametrize("connection", ["dd", "b"])
def test_a_rule_without_a_condition_denies_without_a_body(connection: str) -> None:
    assert not POLICIES.needs_body(connection, "POST", "/api/v2/api_keys/1")
    decision = decide(POLICIES, None, "/api/v2/api_keys/1", connection=connection)
    assert decision is not None
    assert (decision.reason, decision.policy) == ("policy.denied", "no-keys")
    assert "no-keys" in decision.message


@pytest.mark.parametrize("body", [b'{"type": "\\u0069frame"}', '{"type": "iframe"}'.encode("utf-16")])
def test_a_spelling_that_hides_the_value_does_not_lead_around_the_rule(body: bytes) -> None:
    assert (decision := decide(POLICIES, body)) is not None
    assert decision.reason in ("policy.denied", "policy.uninspectable")


def test_the_first_rule_that_denies_speaks() -> None:
    rules = policies(
        {**NO_IFRAMES, "name": "a", "json": {"path": "$.x", "any_of": ["y"]}},
        {**NO_IFRAMES, "name": "b", "message": ""},
        {"name": "c", "effect": "deny"},
    )
    assert (first := decide(rules, b'{"type": "iframe"}')) is not None
    assert first.policy == "b"
    assert (last := decide(rules, b"{}")) is not None
    assert last.policy == "c"


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"name": "p", "effect": "deny", "match": {"connection": "x"}}, "config.unknown_connection"),
        ({"name": "p", "effect": "deny", "match": {"requests": ["POST"]}}, "config.scope"),
        ({"name": "p", "effect": "deny", "json": {"path": "$.a[?(@)]", "any_of": [1]}}, "config.json_path"),
    ],
)
def test_what_can_never_work_is_refused_by_name(rule: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policies(rule)
    assert caught.value.reason == reason
    assert "policies.p" in str(caught.value)
