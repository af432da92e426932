"""Which connections have their responses looked into: Envoy's routes and the rules must agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ext_proc.config import inspected, parse
from ext_proc.rules import Policies


def rule(effect: str, **match: Any) -> dict[str, Any]:
    return {"name": effect, "effect": effect, "match": match}


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ([], set()),
        ([rule("deny")], set()),
        ([rule("flag")], {"a", "b"}),
        ([rule("withhold", connection="a"), rule("deny", connection="b")], {"a"}),
        ([rule("mask", connection="b", requests=["GET /never"])], {"b"}),
        ([{**rule("withhold", connection="a"), "mode": "observe"}], {"a"}),
    ],
)
def test_routes_and_rules_agree(policies: list[dict[str, Any]], expected: set[str]) -> None:
    connections = {n: {"listen": f"127.0.0.1:{p}", "upstream": "https://x.example"} for n, p in (("a", 1), ("b", 2))}
    for who, found in (("ledger", expected), ("client", {"a", "b"})):
        text = {"version": 1, "connections": connections, "policies": policies, "masking": {"response": who}}
        config = parse(json.dumps(text), "douane.yaml", Path("/")).config
        assert inspected(config) == found
        rules = Policies(config)
        assert {name for name in connections if rules.has_response_rules(name)} == expected


def test_the_page_is_read() -> None:
    """The example of docs/response-rules.md, in a configuration that has what it names."""
    page = (Path(__file__).parents[3] / "docs" / "response-rules.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    whole = example.replace("datadog: {", "datadog: {listen: 127.0.0.1:1, upstream: https://x.example, ")
    config = parse(f"version: 1\n{whole}", "douane.yaml", Path("/")).config
    assert [rule.policy.effect for rule in Policies(config).rules] == ["flag", "mask", "withhold"]
    assert config.connections["datadog"].max_inspect_response == 4 << 20
