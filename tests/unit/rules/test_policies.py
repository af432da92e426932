import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from ext_proc.config import Config
from ext_proc.decision import Decided, Deny, Rate, Requirement
from ext_proc.errors import ConfigError
from ext_proc.exchange import Caller, Exchange, Headers, SignedClaims
from ext_proc.rules import Facts, Message, Policies

NO_IFRAMES = {
    "name": "no-iframes",
    "match": {"connection": "dd", "requests": ["POST /api/v1/dashboard", "PUT /api/v1/dashboard/{id}"]},
    "effect": "deny",
    "when": "find(request.json, 'type').exists(t, t in ['iframe', 7, true])",
    "message": "iframe widgets are not allowed",
}
NO_KEYS = {"name": "no-keys", "match": {"requests": ["* /api/v2/api_keys/**"]}, "effect": "deny"}
CALLER = Caller("github", "repo:acme/infra", SignedClaims({"ref": "refs/heads/main"}), UUID(int=7), "acme/infra run 1")


def policies(*rules: dict[str, Any], **more: Any) -> Policies:
    connection = {"listen": "127.0.0.1:1", "upstream": "https://api.example", **more}
    return Policies(
        Config.model_validate({"version": 1, "connections": {"dd": connection, "b": connection}, "policies": rules})
    )


def facts(
    body: bytes | None = b"",
    path: str = "/api/v1/dashboard",
    method: str = "POST",
    connection: str = "dd",
    *,
    query: str = "",
    headers: tuple[tuple[str, bytes], ...] = (),
    **more: Any,
) -> Facts:
    exchange = Exchange(
        exchange_id=UUID(int=1),
        connection=connection,
        method=method,
        scheme="https",
        authority="API.example",
        path=path,
        query=query,
        headers=Headers(headers),
        received_us=1_800_000_000_000_000,
    )
    return Facts(exchange, CALLER, request=Message(exchange.headers, body, None if body is None else len(body)), **more)


def decide(rules: Policies, body: bytes | None, *where: str, **more: Any) -> Deny | None:
    decision = rules.decide(facts(body, *where, **more))
    return decision if isinstance(decision, Deny) else None


def holds(when: str, body: bytes | None = b"", **more: Any) -> bool | str:
    """What a rule with this condition says: True, False, or why it cannot be judged."""
    decision = policies({"name": "p", "effect": "deny", "when": when}).decide(facts(body, **more))
    if isinstance(decision, Decided):
        return False
    return True if decision.reason == "policy.denied" else decision.message


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
        ({"layout": '[{"type": "iframe"}]'}, "policy.denied"),
        ({"layout": '[{"type": "iframe"'}, None),
        (b'{"type": "\\u0069frame"}', "policy.denied"),
        (b'{"type": 7e0}', "policy.denied"),
        (b"", None),
        (None, "policy.uninspectable"),
        (b'{"type": "iframe", "type": "note"}', "policy.uninspectable"),
        (b'{"type": "note", "Type": "iframe"}', "policy.uninspectable"),
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
    for _ in range(2):  # the second time from what was remembered
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


def test_the_first_rule_that_denies_speaks_and_every_one_that_matches_is_told() -> None:
    rules = policies(
        {"name": "a", "effect": "deny", "when": "request.json.x == 'y'", "mode": "observe"},
        {"name": "b", "effect": "deny", "when": "request.json.type == 'iframe'"},
        {"name": "c", "effect": "deny"},
        {"name": "d", "effect": "hold", "approvers": ["local"], "when": "request.method == 'GET'"},
    )
    assert (first := decide(rules, b'{"type": "iframe"}')) is not None
    assert (first.policy, first.reason) == ("b", "policy.denied")
    assert [(hit.policy, hit.mode) for hit in first.hits] == [("a", "observe"), ("b", "enforce"), ("c", "enforce")]
    assert "no member 'x'" in str(first.hits[0].values["uninspectable"])
    assert first.hits[1].values == {"request.json.type": "iframe"}
    assert len(first.hits[1].digest) >= 12
    assert (second := decide(rules, b"{}")) is not None
    assert (second.policy, second.reason) == ("b", "policy.uninspectable")


def test_holds_add_up_and_obligations_too() -> None:
    hold = {"effect": "hold", "approvers": ["group:sre"]}
    rules = policies(
        {**hold, "name": "h1", "wait": "30s", "validity": "10m", "expires": "2h", "message": "ask sre"},
        {**hold, "name": "h2", "approvers": ["user:a@b", "user:c@d"], "quorum": 2, "wait": "50s", "validity": "5m"},
        {**hold, "name": "h3", "when": "request.method == 'GET'"},
        {"name": "o1", "effect": "allow", "mask": {"headers": ["X-A"], "json": ["$.a"]}},
        {"name": "o2", "effect": "allow", "mask": {"json": ["$.a", "$.b"]}, "rate": {"limit": 3, "per": "1m"}},
        {"name": "o3", "effect": "allow", "mode": "observe", "mask": {"json": ["$.c"]}},
    )
    decision = rules.decide(facts())
    assert isinstance(decision, Decided)
    assert decision.hold is not None
    assert decision.hold.requirements == (
        Requirement("h1", ("group:sre",), 1),
        Requirement("h2", ("user:a@b", "user:c@d"), 2),
    )
    assert decision.hold.message == "ask sre"
    assert (decision.hold.wait, decision.hold.validity, decision.hold.expires) == (
        timedelta(seconds=30),
        timedelta(minutes=5),
        timedelta(hours=1),
    )
    assert decision.obligations.mask_headers == ("x-a",)
    assert decision.obligations.mask_json == ("$.a", "$.b")
    assert decision.obligations.rates == (Rate("o2", 3, timedelta(minutes=1)),)
    assert [hit.policy for hit in decision.hits] == ["h1", "h2", "o1", "o2", "o3"]
    assert rules.needs_body("dd", "POST", "/")  # what is approved is the whole request


def test_an_obligation_that_cannot_be_judged_denies() -> None:
    rule = {"name": "o", "effect": "allow", "when": "request.json.n > 3", "rate": {"limit": 1, "per": "1m"}}
    assert (denied := decide(policies(rule), b"{}")) is not None
    assert (denied.reason, denied.policy) == ("policy.uninspectable", "o")
    assert decide(policies({**rule, "mode": "observe"}), b"{}") is None


@pytest.mark.parametrize(
    ("when", "more", "said"),
    [
        ("request.method == 'POST' && request.path == '/api/v1/dashboard'", {}, True),
        ("request.host == 'api.example' && connection == 'dd' && operation == ''", {}, True),
        ("'true' in request.query.force", {"query": "force=false&Force=true"}, True),
        ("'a b/c' in request.query['x']", {"query": "x=a+b%2Fc"}, True),
        ("has(request.query.x)", {"query": "y=1"}, False),
        ("request.query.x == []", {"query": "y=1"}, True),
        ("size(request.query) == 2", {"query": "y=1&z=2&Y=3"}, True),
        ("'b' in request.headers['X-A']", {"headers": (("x-a", b"a"), ("x-a", b"b"))}, True),
        ("has(request.headers.authorization)", {}, False),
        ("request.size > 3", {"body": b"1234"}, True),
        ("request.body.contains('DROP')", {"body": b"DROP TABLE x"}, True),
        ("request.body == ''", {"body": b"\xff"}, "UTF-8"),
        ("request.json == {}", {"body": b""}, True),
        ("request.json.A.b == 1", {"body": b'{"a": {"B": 1}}'}, True),
        ("has(request.json.A)", {"body": b'{"a": 1}'}, True),
        ("'A' in request.json && request.json['A'] == 1", {"body": b'{"a": 1}'}, True),
        ("'b' in request.json", {"body": b'{"a": 1}'}, False),
        ("request.json.n > 9223372036854775807", {"body": b'{"n": 9223372036854775808}'}, True),
        ("request.json.n + 1 > 0", {"body": b'{"n": 9223372036854775808}'}, "overflow"),
        ("request.json.a == 1", {"body": b"{}"}, "no member 'a'"),
        ("request.json.a == 1 || request.method == 'POST'", {"body": b"{}"}, True),
        ("'1' in request.form.a", {"body": b"b=2&A=1", "headers": (("content-type", b"text/plain"),)}, "content-type"),
        (
            "'1' in request.form.a",
            {"body": b"b=2&A=1", "headers": (("content-type", b"application/x-www-form-urlencoded; charset=utf-8"),)},
            True,
        ),
        (
            "size(request.form) > 0",
            {"body": b"a&" * 6000, "headers": (("content-type", b"text/plain"),)},
            "content-type",
        ),
        (
            "size(request.form) > 0",
            {"body": b"a&" * 6000, "headers": (("content-type", b"application/x-www-form-urlencoded"),)},
            "more than",
        ),
        ("identity.issuer == 'github' && identity.claims.ref.endsWith('main')", {}, True),
        ("identity.session.label.startsWith('acme/') && identity.workload.issuer == ''", {}, True),
        ("identity.session.id == '00000000-0000-0000-0000-000000000007'", {}, True),
        ("now.getFullYear() == 2027", {}, True),
        ("session.calls > 0", {}, "hub"),
        ("session.calls > 2 && session.window.denied == 0", {"counters": {"calls": 3, "window.denied": 0}}, True),
    ],
)
def test_what_a_condition_may_look_at(when: str, more: dict[str, Any], said: bool | str) -> None:
    found = holds(when, **more)
    if isinstance(said, str):
        assert said in str(found)
    else:
        assert found is said


@pytest.mark.parametrize(
    ("rule", "reason", "said"),
    [
        ({"match": {"connection": "x"}}, "config.unknown_connection", ""),
        ({"match": {"requests": ["POST"]}}, "config.scope", ""),
        ({"match": {"operation": "CreatDashboard"}}, "config.unknown_operation", "CreateDashboard"),
        ({"when": "request.jsn.a == 1"}, "config.condition", "Did you mean request.json?"),
        ({"when": "body.a == 1"}, "config.condition", "Known: connection, identity"),
        ({"when": "response.status == 200"}, "config.condition", "'response'"),
        ({"when": "request.size"}, "config.condition", "gives an int"),
        ({"when": "request.size == '1'"}, "config.condition", "never equal"),
        ({"when": "request.query.force == 'true'"}, "config.condition", "x in list"),
        ({"when": "request == 1"}, "config.condition", "no value by itself"),
        ({"when": "has(request.json)"}, "config.condition", "always true"),
        ({"when": "false && request.json.a"}, "config.condition", "always false"),
        ({"when": "widget(request.json) == []"}, "config.condition", "Did you mean widgets?"),
        ({"when": "widgets() == []"}, "config.condition", "widgets(dyn)"),
        ({"when": "1 +\n  request.sized > 1"}, "config.condition", "line 2, column 3"),
        ({"effect": "flag", "when": "request.json.a == 1"}, "config.condition", "'request.json'"),
        ({"effect": "flag", "when": "session.calls == 1"}, "config.condition", "'session'"),
    ],
)
def test_what_can_never_work_is_refused_by_name(rule: dict[str, Any], reason: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policies(
            {"name": "p", "effect": "deny", **rule},
            operations={"patterns": {"CreateDashboard": ["POST /api/v1/dashboard"]}},
        )
    assert caught.value.reason == reason
    assert "policies.p" in str(caught.value)
    assert said in str(caught.value)


def test_the_digest_is_the_version_of_a_rule_and_of_what_its_operations_stand_for() -> None:
    def digest(**changes: Any) -> str:
        rule = {"name": "p", "effect": "deny", "match": {"operation": ["Make"]}, **changes.pop("rule", {})}
        decision = policies(rule, operations={"patterns": {"Make": ["POST /**"], **changes}}).decide(facts())
        return decision.hits[0].digest

    assert digest() == digest() == digest(Other=["GET /x"])
    assert len({digest(), digest(rule={"message": "no"}), digest(Make=["* /**"])}) == 3


def test_one_rule_neither_stalls_nor_decides_for_the_others() -> None:
    slow = "request.json.exists(a, request.json.exists(b, request.json.exists(c, a + b + c == -1)))"
    rules = policies(
        {"name": "slow", "effect": "deny", "when": slow, "mode": "observe"},
        {"name": "quick", "effect": "deny", "when": "request.json[0] == 7"},
    )
    body = json.dumps(list(range(2000))).encode()
    decision = rules.decide(facts(body))
    assert isinstance(decision, Decided)
    assert decision.hits[0].values == {"uninspectable": "to judge this would take too long"}
    assert (denied := decide(rules, b"[7]" + b" " * 40_000)) is not None
    assert denied.policy == "quick"
    steps = rules.deciding(facts(b"[1]" + b" " * 40_000))
    assert sum(1 for _ in steps) == 2  # a large body: others may go on between two rules


def test_what_must_be_gathered() -> None:
    rules = policies(
        {"name": "s", "effect": "deny", "when": "session.calls > 3", "match": {"connection": "dd"}, "mode": "observe"},
        {"name": "b", "effect": "deny", "when": "request.json.a == 1", "mode": "observe"},
    )
    assert rules.uses_session
    assert rules.needs_session("dd", "GET", "/")
    assert not rules.must_have_session("dd", "GET", "/")
    assert not rules.needs_session("b", "GET", "/")
    assert not rules.needs_body("dd", "GET", "/")  # what is only recorded holds nothing up
    assert rules.looks_at_body("dd", "GET", "/")


@pytest.mark.parametrize(
    ("content_types", "body", "said"),
    [
        (["application/json; charset=utf-8"], '{"t": "\u00fc"}'.encode(), True),
        (['application/json;charset="UTF-8"'], b"{}", True),
        (["application/json; charset=ISO-8859-1"], b"{}", True),
        (["text/plain"], b"{}", True),
        # in Shift JIS the last byte of this letter takes the backslash with it, and so the string ends
        (["application/json; charset=shift_jis"], '{"a": "\u00c3\\", \\"t\\": 1"}'.encode(), "'shift_jis'"),
        (["application/json; charset=utf-7"], b"{}", "'utf-7'"),
        (["application/json; charset=utf-8; charset=utf-16"], b"{}", "'utf-16'"),
        (["application/json", "application/json; charset=IBM037"], b"{}", "'IBM037'"),
        (["application/json; charset*=utf-8''utf-16"], b"{}", "utf-8''utf-16"),
        (["application/json; charset=latin1"], '{"t": "\u00fc"}'.encode(), "'latin1'"),
    ],
)
def test_a_body_in_another_charset_is_another_text(content_types: list[str], body: bytes, said: bool | str) -> None:
    headers = tuple(("content-type", value.encode()) for value in content_types)
    for when in ("size(request.json) < 9", "size(request.body) < 99"):
        found = holds(when, body, headers=headers)
        assert found is True if said is True else str(said) in str(found)


def test_semicolons_divide_a_query_for_some_servers() -> None:
    when = "'true' in request.query.force"
    assert holds(when, query="a=1%3Bforce=true") is False
    for query in ("a=1;force=true", ";force=true", "force=true;"):
        assert "semicolon" in str(holds(when, query=query))
    form = (("content-type", b"application/x-www-form-urlencoded"),)
    assert "semicolon" in str(holds("'true' in request.form.force", b"a=1;force=true", headers=form))
