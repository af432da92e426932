"""Policies over what a session did, against a real hub: counted once, enforced, and closed when the hub is away."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ext_proc.config import Config
from ext_proc.decision import Deny
from ext_proc.errors import HubError
from ext_proc.exchange import Authorized, Caller, Exchange, Headers, Identified, SignedClaims
from ext_proc.hubclient import Authority, HubClient
from ext_proc.hubclient.counters import HubCounters
from ext_proc.rules import Grants, Policies
from ext_proc.stages.policy import PolicyStage
from tests.contract.holds import serving, settings

WRITES = {"name": "few-writes", "effect": "deny", "when": "session.writes > 2 || session.window.targets > 2"}


def stage(client: HubClient, *policies: dict[str, Any]) -> PolicyStage:
    config = Config.model_validate(
        {
            "version": 1,
            "issuers": {"github": {"issuer": "https://gh.example", "audience": "douane"}},
            "connections": {
                "dd": {"listen": "127.0.0.1:1", "upstream": "https://api.example", "scopes": {"all": ["* /**"]}}
            },
            "grants": [{"name": "g", "issuer": "github", "if": "true", "allow": {"dd": ["all"]}}],
            "policies": policies,
        }
    )
    counters = HubCounters(Authority(client), config.sessions.window)
    return PolicyStage(Grants(config), Policies(config), 1 << 20, counters)


def request(method: str = "POST", path: str = "/x", session: int = 1) -> Identified:
    exchange = Exchange(uuid4(), "dd", method, "https", "api.example", path, "", Headers(), 1_800_000_000_000_000)
    return Identified(exchange, Caller("github", "sub", SignedClaims({}), UUID(int=session), "run 1"))


async def test_what_a_session_did_decides(tmp_path: Path) -> None:
    async with serving(tmp_path):
        client = HubClient(settings(tmp_path))
        rules = stage(client, {**WRITES, "match": {"requests": ["POST /**"]}})
        first = request()
        for one in (first, request("GET"), first, request(path="/y")):
            assert isinstance(await rules.run(one, b"body"), Authorized)  # the same exchange counts once
        denied = await rules.run(request(), b"body")
        assert isinstance(denied, Deny)
        assert denied.hits[0].values == {"session.writes": 3}
        assert isinstance(await rules.run(request(session=2), b""), Authorized)
        await client.close()


async def test_rates_of_obligations(tmp_path: Path) -> None:
    rate = {"name": "slowly", "effect": "allow", "rate": {"limit": 2, "per": "1h"}}
    async with serving(tmp_path):
        client = HubClient(settings(tmp_path))
        rules = stage(client, rate)
        for _ in range(2):
            allowed = await rules.run(request(), b"")
            assert isinstance(allowed, Authorized)
            assert allowed.hits[0].policy == "slowly"
        denied = await rules.run(request(), b"")
        assert isinstance(denied, Deny)
        assert (denied.reason, denied.http_status, denied.policy) == ("policy.rate", 429, "slowly")
        assert int(dict(denied.headers)["retry-after"]) > 3000
        await client.close()


async def test_without_the_hub_an_enforced_rule_lets_nothing_pass(tmp_path: Path) -> None:
    client = HubClient(settings(tmp_path))
    with pytest.raises(HubError) as caught:
        await stage(client, WRITES).run(request(), b"")
    assert caught.value.reason == "hub.unavailable"
    observed = await stage(client, {**WRITES, "mode": "observe"}).run(request(), b"")
    assert isinstance(observed, Authorized)
    assert "hub" in str(observed.hits[0].values["uninspectable"])
    await client.close()
