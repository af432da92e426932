import json
from typing import Any

import pytest

from ext_proc.exchange import Headers
from ext_proc.rules import Facts, Message, ResponseDecision
from tests.unit.rules.test_policies import CALLER, facts, policies

LISTS = {"name": "lists", "effect": "flag", "when": "response.status == 200 && response.json.items.size() > 1"}
MAILS = {"name": "mails", "effect": "mask", "mask": {"json": ["$.items[*].mail"]}, "when": "has(response.json.items)"}
SECRETS = {"name": "secrets", "effect": "mask", "match": {"requests": ["GET /keys"]}}
LARGE = {"name": "large", "effect": "withhold", "when": "response.size > 100", "message": "too much at once"}


def decide(path: str, answer: Any, *rules: dict[str, Any], status: int = 200) -> ResponseDecision:
    found = policies(*rules).response_rules("dd", "GET", path)
    assert found is not None
    body = answer if answer is None or isinstance(answer, bytes) else json.dumps(answer).encode()
    message = Message(Headers([("content-type", b"application/json")]), body, None if body is None else len(body))
    exchange = facts(path=path, method="GET").exchange
    return found.decide(Facts(exchange, CALLER, response=message, status=status))


@pytest.mark.parametrize(
    ("path", "answer", "action", "hits"),
    [
        ("/x", {"items": []}, "mask", ["mails"]),
        ("/x", {"items": [1, 2]}, "mask", ["lists", "mails"]),
        ("/x", {"items": "a" * 100}, "withhold", ["lists", "mails", "large"]),
        ("/x", {}, "pass", ["lists"]),  # it cannot be judged, and only flags
        ("/x", b"no json", "withhold", ["lists", "mails"]),
        ("/keys", {}, "mask", ["lists", "secrets"]),
    ],
)
def test_the_strictest_decides(path: str, answer: Any, action: str, hits: list[str]) -> None:
    decision = decide(path, answer, LISTS, MAILS, SECRETS, LARGE)
    assert decision.action == action
    assert [hit.policy for hit in decision.hits] == hits


def test_what_is_masked_and_why_it_is_withheld() -> None:
    masked = decide("/keys", {"items": [{"mail": "a@b"}]}, MAILS, SECRETS)
    assert (masked.mask_json, masked.detectors) == (("$.items[*].mail",), True)
    assert not decide("/x", {"items": []}, MAILS, SECRETS).detectors
    withheld = decide("/x", b"x" * 200, LARGE)
    assert (withheld.reason, withheld.policy, withheld.message) == ("response.withheld", "large", "too much at once")
    unread = decide("/x", None, MAILS)
    assert (unread.action, unread.reason) == ("withhold", "policy.uninspectable")
    observed = decide("/x", b"x" * 200, {**LARGE, "mode": "observe"})
    assert (observed.action, observed.hits[0].mode) == ("pass", "observe")
    assert observed.hits[0].values == {"response.size": 200}


def test_where_responses_must_be_at_hand() -> None:
    rules = policies(LISTS, LARGE, {**MAILS, "match": {"connection": "b"}})
    assert rules.has_response_rules("dd")
    assert (found := rules.response_rules("dd", "GET", "/x")) is not None
    assert found.needs_body
    assert (only := policies(LARGE).response_rules("dd", "GET", "/x")) is not None
    assert not only.needs_body
    assert policies({"name": "d", "effect": "deny"}).response_rules("dd", "GET", "/x") is None
