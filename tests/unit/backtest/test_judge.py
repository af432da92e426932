"""What a configuration would decide about what was recorded, and what cannot be said of it."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from ext_proc.backtest.judge import GRANTS, MAX_INSPECT, Judge
from ext_proc.backtest.recorded import NO_MASKS, Content, Masks
from ext_proc.exchange import Headers
from tests.unit.backtest.exchanges import NOON_US, judge, recorded

MASK = "[MASKED:aws-key:0123456789ab]"
BODY_MASKED = Masks(body=True, grown=9)


def deny(when: str | None = None, **more: Any) -> dict[str, Any]:
    return {"name": "rule", "effect": "deny", **({"when": when} if when else {}), **more}


def said(judging: Judge, *args: Any, **more: Any) -> tuple[str, tuple[str, ...], str]:
    verdict = judging.decide(recorded(*args, **more))
    return verdict.outcome, verdict.by, verdict.reason


def test_a_rule_over_the_body_decides() -> None:
    judging = judge([deny("find(request.json, 'type').exists(t, t == 'iframe')")])
    assert said(judging, body=b'{"a": {"type": "iframe"}}') == ("deny", ("rule",), "policy.denied")
    assert said(judging, body=b'{"a": {"type": "note"}}')[0] == "allow"
    (hit,) = judging.decide(recorded(body=b'{"a": {"type": "iframe"}}')).hits
    assert "iframe" in str(hit.values)


def test_grants_and_scopes_decide_first() -> None:
    judging = judge([deny()], connection={"scopes": {"monitors": ["GET /api/v1/monitor/{id}"]}})
    assert said(judging, "GET", "/api/v1/dashboard") == ("deny", (GRANTS,), "grant.none")
    assert said(judging, "GET", "/api/v1/monitor/7") == ("deny", ("rule",), "policy.denied")
    unknown = judge(grants=[])
    assert said(unknown) == ("deny", (GRANTS,), "grant.none")
    assert said(unknown, caller=None)[0] == "allow"  # nobody knows who called: grants are not asked


def test_a_masked_path_that_no_scope_has_is_uncertain() -> None:
    judging = judge(connection={"scopes": {"monitors": ["GET /api/v1/monitor/{id}"]}})
    masked = Masks(path=True)
    assert said(judging, "GET", f"/api/v1/keys/{MASK}", masks=masked)[0] == "uncertain"
    assert said(judging, "GET", f"/api/v1/monitor/{MASK}", masks=masked)[0] == "allow"


# (condition, body, masks of the body?) -> the outcome
DOUBTS: list[tuple[str, bytes, str]] = [
    ("request.json.key == 'x'", b'{"key": "%s"}', "uncertain"),
    ("'x' == request.json.key", b'{"key": "%s"}', "uncertain"),
    ("request.json.key != 'x'", b'{"key": "%s"}', "uncertain"),
    ("request.json.key in ['x', 'y']", b'{"key": "%s"}', "uncertain"),
    ("request.json.key.startsWith('AK')", b'{"key": "%s"}', "uncertain"),
    ("request.json.key.matches('^A')", b'{"key": "%s"}', "uncertain"),
    ("request.json.key.size() > 3", b'{"key": "%s"}', "uncertain"),
    ("request.json.key < 'b'", b'{"key": "%s"}', "uncertain"),
    ("request.json.keys.exists(k, k == 'x')", b'{"keys": ["a", "%s"]}', "uncertain"),
    ("'x' in request.json.keys", b'{"keys": ["%s"]}', "uncertain"),
    ("request.json == {'key': 'x'}", b'{"key": "%s"}', "uncertain"),
    ("find(request.json, 'key').exists(k, k == 'x')", b'{"a": [{"key": "%s"}]}', "uncertain"),
    ("request.body.contains('x')", b'{"key": "%s"}', "uncertain"),
    ("find(request.json, 'key').exists(k, k == 'x')", b'{"a": "{\\"key\\": \\"%s\\"}"}', "uncertain"),
    ("request.json.exists(k, k == 'x')", b'{"%s": 1}', "uncertain"),
    # The masked value is there, and makes no difference.
    ("request.json.title == 'x'", b'{"title": "y", "key": "%s"}', "allow"),
    ("request.json.title == 'x'", b'{"title": "x", "key": "%s"}', "deny"),
    ("request.json.key == 'x' && request.json.title == 'x'", b'{"title": "y", "key": "%s"}', "allow"),
    ("request.json.key == 'x' || request.json.title == 'x'", b'{"title": "x", "key": "%s"}', "deny"),
    ("has(request.json.key)", b'{"key": "%s"}', "deny"),
    ("size(request.json.keys) > 1", b'{"keys": ["%s", 1]}', "deny"),
    ("'x' in request.json.keys", b'{"keys": ["x", "%s"]}', "deny"),
    ("request.json.keys.exists(k, k == 'x')", b'{"keys": ["%s", "x"]}', "deny"),
    # No value at all, whatever is masked: as the gate, which denies.
    ("request.json.nothing == 'x'", b'{"key": "%s"}', "deny"),
]  # fmt: skip


@pytest.mark.parametrize(("when", "body", "outcome"), DOUBTS)
def test_what_depends_on_a_masked_value_is_uncertain(when: str, body: bytes, outcome: str) -> None:
    judging = judge([deny(when)])
    masked = body.replace(b"%s", MASK.encode())
    verdict = judging.decide(recorded(body=masked, masks=BODY_MASKED))
    assert verdict.outcome == outcome
    if outcome == "uncertain":
        assert verdict.by == ("rule",)
        assert "it is masked in the record" in verdict.hits[0].doubt
    unmasked = body.replace(b"%s", b"x")  # the same rule over what was sent always has an answer
    assert judging.decide(recorded(body=unmasked)).outcome != "uncertain"


def test_what_only_looks_like_a_mask_is_text() -> None:
    judging = judge([deny("request.json.key == 'x'")])
    assert said(judging, body=f'{{"key": "{MASK}"}}'.encode())[0] == "allow"


def test_headers_are_masked_one_by_one() -> None:
    headers = (("authorization", MASK.encode()), ("x-team", b"sre"))
    of_team = judge([deny("'sre' in request.headers['x-team']")])
    assert said(of_team, headers=headers, masks=Masks(headers=frozenset({1})))[0] == "deny"
    of_token = judge([deny("request.headers.authorization.exists(a, a.startsWith('Bearer '))")])
    assert said(of_token, headers=headers, masks=Masks(headers=frozenset({1})))[0] == "uncertain"
    assert said(of_token, headers=headers, masks=NO_MASKS)[0] == "allow"


def test_masked_queries_and_paths() -> None:
    of_force = judge([deny("'true' in request.query.force")])
    query = f"force=true&key={MASK}"
    assert said(of_force, query=query, masks=Masks(query=True))[0] == "deny"
    of_key = judge([deny("request.query.key.exists(k, k == 'x')")])
    assert said(of_key, query=query, masks=Masks(query=True))[0] == "uncertain"
    of_path = judge([deny("request.path.endsWith('/x')")])
    assert said(of_path, path=f"/keys/{MASK}", masks=Masks(path=True))[0] == "uncertain"


@pytest.mark.parametrize(
    ("missing", "when", "outcome"),
    [
        ("it is sealed", "request.json.a == 1", "uncertain"),
        ("it is sealed", "request.body.contains('x')", "uncertain"),
        ("it is sealed", "request.size > 5", "uncertain"),
        ("it is sealed", "request.method == 'POST'", "deny"),
        ("it is sealed", "request.method == 'POST' || request.json.a == 1", "deny"),
    ],
)
def test_a_body_that_was_not_recorded(missing: str, when: str, outcome: str) -> None:
    assert said(judge([deny(when)]), missing=missing)[0] == outcome


def test_an_unknown_caller_leaves_rules_about_callers_open() -> None:
    judging = judge([deny("identity.claims.ref != 'refs/heads/main'")])
    assert said(judging, caller=None)[0] == "uncertain"
    assert said(judging)[0] == "allow"


def test_a_certain_denial_needs_no_certainty_of_the_others() -> None:
    rules = [deny("request.json.key == 'x'"), {"name": "posts", "effect": "deny", "when": "request.method == 'POST'"}]
    body = f'{{"key": "{MASK}"}}'.encode()
    assert said(judge(rules), body=body, masks=BODY_MASKED) == ("deny", ("posts",), "policy.denied")
    observed = [{**rules[0], "mode": "observe"}]
    assert said(judge(observed), body=body, masks=BODY_MASKED)[0] == "allow"


def test_bodies_are_decoded_as_the_gate_decodes_them() -> None:
    judging = judge([deny("request.json.a == 1")])
    coded = gzip.compress(b'{"a": 1}')
    headers = (("content-encoding", b"gzip"),)
    assert said(judging, body=coded, headers=headers)[0] == "deny"
    assert said(judging, body=b'{"a": 1}', headers=headers, decoded=True)[0] == "deny"
    assert said(judging, body=coded[:-3], headers=headers) == ("deny", ("rule",), "policy.uninspectable")
    assert said(judging, body=coded, headers=(("content-encoding", b"secret"),))[2] == "policy.uninspectable"
    assert said(judging, body=b'{"a": 1, "a": 2}')[2] == "policy.uninspectable"


def test_what_the_gate_does_not_await() -> None:
    large = b'{"a": 2%s}' % (b" " * 2000)
    small_limit = {"max_inspect": "1KiB"}
    judging = judge([deny("request.json.a == 1")], connection=small_limit)
    assert said(judging, body=large) == ("deny", (MAX_INSPECT,), "policy.uninspectable")
    assert said(judge(connection=small_limit), body=large)[0] == "allow"
    hold = {"name": "hold", "effect": "hold", "approvers": ["local"]}
    streamed = judge([hold], connection={"body": "stream"})
    assert said(streamed, body=b"x") == ("deny", ("hold",), "policy.uninspectable")


def test_sizes_are_those_that_were_sent() -> None:
    judging = judge([deny("request.size > 10")])
    assert said(judging, body=b"x" * 15, masks=Masks(body=True, grown=5))[0] == "allow"
    assert said(judging, body=b"x" * 16, masks=Masks(body=True, grown=5))[0] == "deny"
    assert said(judging, body=b"x" * 4, headers=(("content-length", b"40"),), decoded=True)[0] == "deny"
    assert said(judging, body=b"x" * 4, decoded=True)[0] == "uncertain"


def test_holds_and_their_obligations() -> None:
    hold = {"name": "people", "effect": "hold", "approvers": ["local"], "when": "request.method == 'DELETE'"}
    assert said(judge([hold]), "DELETE", "/api/v1/monitor/7") == ("hold", ("people",), "approval.pending")
    assert said(judge([hold]), "GET", "/api/v1/monitor/7")[0] == "allow"


def test_sessions_are_counted_in_order_of_time() -> None:
    few = {"name": "few", "effect": "deny", "when": "session.writes > 2"}
    judging = judge([few])
    outcomes = [said(judging, "POST", f"/m/{n}", at_us=NOON_US + n)[0] for n in range(4)]
    assert outcomes == ["allow", "allow", "deny", "deny"] or outcomes == ["allow", "allow", "deny", "deny"]
    recent = judge([{"name": "few", "effect": "deny", "when": "session.window.calls > 2"}], sessions={"window": "1m"})
    minute = 60_000_000
    times = [0, 1, 2, minute + 1, minute + 2, minute + 3]
    assert [said(recent, at_us=NOON_US + t)[0] for t in times] == ["allow", "allow", "deny", "allow", "allow", "deny"]
    denied = judge([deny("request.path == '/no' || session.denied > 1")])
    assert [said(denied, path=path)[0] for path in ("/a", "/no", "/a", "/no", "/a")] == [
        *("allow", "deny", "allow", "deny", "deny"),
    ]


def test_rates_are_taken_by_what_passes() -> None:
    rate = {"name": "rate", "effect": "allow", "rate": {"limit": 2, "per": "10s"}}
    judging = judge([rate, deny("request.path == '/no'")])
    second = 1_000_000
    seen = [(0, "/a"), (1, "/no"), (1, "/a"), (2, "/a"), (10, "/a"), (10, "/a")]
    assert [said(judging, path=path, at_us=NOON_US + at * second) for at, path in seen] == [
        ("allow", (), ""),
        ("deny", ("rule",), "policy.denied"),
        ("allow", (), ""),
        ("deny", ("rate",), "policy.rate"),
        ("allow", (), ""),
        ("deny", ("rate",), "policy.rate"),
    ]


def answer(document: Any, **more: Any) -> Content:
    body = json.dumps(document).encode()
    return Content(Headers([("content-type", b"application/json")]), body, len(body), **more)


def test_response_rules_look_at_the_recorded_answer() -> None:
    rules = [
        {"name": "keys", "effect": "withhold", "when": "find(response.json, 'key').exists(k, k != '')"},
        {"name": "big", "effect": "flag", "when": "response.size > 20"},
    ]
    judging = judge(rules)
    verdict = judging.decide(recorded(response=answer({"key": "x", "more": "0123456789"})))
    assert (verdict.outcome, verdict.response, verdict.response_by) == ("allow", "withhold", "keys")
    assert [hit.rule for hit in verdict.response_hits] == ["keys", "big"]
    assert judging.decide(recorded(response=answer({"id": 1}))).response == "pass"
    masked = answer({"key": MASK}, masks=Masks(body=True))
    assert judging.decide(recorded(response=masked)).response == "uncertain"
    assert judging.decide(recorded(response=Content(Headers(), missing="it is sealed"))).response == "uncertain"
    assert judging.decide(recorded(response=None)).response == ""


def test_an_observed_rule_changes_nothing_and_is_told() -> None:
    verdict = judge([deny("request.method == 'POST'", mode="observe")]).decide(recorded())
    assert verdict.outcome == "allow"
    assert [(hit.rule, hit.mode) for hit in verdict.hits] == [("rule", "observe")]


def test_what_the_client_is_spared_is_no_change_of_a_rule() -> None:
    spared = judge(masking={"response": "client"})
    masked = answer({"key": MASK}, masks=Masks(body=True))
    verdict = spared.decide(recorded(response=masked, response_decision="mask"))
    assert (verdict.response, verdict.response_by) == ("mask", "(masking)")
    assert spared.decide(recorded(response=answer({"id": 1}))).response == ""


def test_an_answer_that_is_too_large_to_be_masked_is_withheld() -> None:
    rule = {"name": "emails", "effect": "mask", "mask": {"json": ["$.email"]}}
    judging = judge([rule], connection={"max_inspect_response": "1KiB"})
    assert judging.decide(recorded(response=answer({"email": "x"}))).response == "mask"
    assert judging.decide(recorded(response=answer({"email": "x" * 2000}))).response == "withhold"
