"""docs/cookbook.md, run: every request under every policy does what the page says."""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from ruamel.yaml import YAML

from ext_proc.decision import Decided
from ext_proc.exchange import Headers
from ext_proc.rules import Message
from tests.policies import NOW_S, Guard, verdict

PAGE = (Path(__file__).parents[3] / "docs" / "cookbook.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def _yaml(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return loaded


def _examples() -> list[tuple[str, str, list[dict[str, Any]]]]:
    found = []
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        policy, requests = BLOCK.findall(section)
        found.append((section.partition("\n")[0], policy, _yaml(requests)["requests"]))
    return found


BASE = BLOCK.search(PAGE)
EXAMPLES = _examples()


def _merged(base: Any, more: Any) -> Any:
    if isinstance(base, dict) and isinstance(more, dict):
        return {key: _merged(base.get(key), more.get(key)) for key in {**base, **more}}
    return base if more is None else more


@lru_cache(maxsize=32)
def _guard(policy: str) -> Guard:
    assert BASE is not None
    return Guard(json.dumps(_merged(_yaml(BASE[1]), _yaml(policy))))


def _body(request: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    """What is sent, and the headers that say what it is."""
    if "json" in request:
        return json.dumps(request["json"]).encode(), {"content-type": "application/json"}
    if "form" in request:
        return urlencode(request["form"]).encode(), {"content-type": "application/x-www-form-urlencoded"}
    if "parts" in request:
        disposition = 'Content-Disposition: form-data; name="{name}"; filename="{filename}"'
        parts = "".join(f"--b\r\n{disposition.format(**part)}\r\n\r\n{part['text']}\r\n" for part in request["parts"])
        return f"{parts}--b--\r\n".encode(), {"content-type": "multipart/form-data; boundary=b"}
    return str(request.get("text", "")).encode() + b"x" * request.get("bytes", 0), {}


def _connection(guard: Guard) -> str:
    """The one that the example's policies look at."""
    [name] = {policy.match.connection for policy in guard.loaded.config.policies}
    assert name is not None
    return name


def _answered(guard: Guard, request: dict[str, Any], connection: str) -> str:
    answer = request["answer"]
    content = json.dumps(answer["json"]).encode()
    response = Message(Headers([("content-type", b"application/json")]), content, len(content))
    facts = guard.facts(request["send"], connection=connection, response=response, status=answer["status"])
    rules = guard.policies.response_rules(connection, facts.exchange.method, facts.exchange.path)
    if rules is None:
        return "allow"
    decision = rules.decide(facts)
    flagged = any(hit.effect == "flag" for hit in decision.hits)
    return {"withhold": "withheld", "mask": "masked"}.get(decision.action, "flagged" if flagged else "allow")


def test_there_are_twenty() -> None:
    assert [int(title.partition(".")[0]) for title, _, _ in EXAMPLES] == list(range(1, 21))


@pytest.mark.parametrize(
    ("policy", "request_"),
    [(policy, request) for _, policy, requests in EXAMPLES for request in requests],
    ids=[f"{title.partition('.')[0]}-{n}" for title, _, requests in EXAMPLES for n, _ in enumerate(requests)],
)
def test_the_page_is_right(policy: str, request_: dict[str, Any]) -> None:
    guard = _guard(policy)
    connection = _connection(guard)
    if "answer" in request_:
        assert _answered(guard, request_, connection) == request_["then"]
        return
    body, headers = _body(request_)
    at = int(datetime.fromisoformat(request_["at"]).timestamp()) if "at" in request_ else NOW_S
    facts = guard.facts(
        request_["send"],
        body,
        connection=connection,
        headers={**headers, **request_.get("headers", {})},
        claims=request_.get("claims"),
        session=request_.get("session"),
        at=at,
    )
    decided = guard.policies.decide(facts)
    found = verdict(decided)
    then = "uninspectable" if found.reason == "policy.uninspectable" else found.decision
    assert ("observed" if then == "allow" and found.observed else then) == request_["then"], found.message
    if "by" in request_:
        assert request_["by"] in found.by
    if "rate" in request_:
        assert isinstance(decided, Decided)
        assert [rate.limit for rate in decided.obligations.rates] == [request_["rate"]]
        assert list(decided.obligations.mask_json) == request_["mask"]


@pytest.mark.parametrize(("title", "policy", "requests"), EXAMPLES, ids=[title for title, _, _ in EXAMPLES])
def test_every_example_shows_what_it_stops_and_what_it_does_not(
    title: str, policy: str, requests: list[dict[str, Any]]
) -> None:
    outcomes = {request["then"] for request in requests}
    assert "allow" in outcomes
    assert outcomes - {"allow"} or any("rate" in request for request in requests)
