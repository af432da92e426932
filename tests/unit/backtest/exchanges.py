"""Recorded exchanges and configurations, made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from ext_proc.backtest.judge import Judge
from ext_proc.backtest.recorded import NO_MASKS, Content, Masks, Recorded
from ext_proc.config import Config, parse
from ext_proc.exchange import Caller, Exchange, Headers, SignedClaims

CLAIMS = {"iss": "https://issuer.example", "sub": "repo:acme/infra", "repository_id": "74", "ref": "refs/heads/main"}
CALLER = Caller("github", "repo:acme/infra", SignedClaims(CLAIMS), UUID(int=7), "acme/infra run 1")
NOON_US = 1_800_000_000_000_000


def config(policies: list[dict[str, Any]] | None = None, **more: Any) -> Config:
    """One connection, `datadog`, on which the caller may do everything."""
    connection = {
        "listen": "127.0.0.1:15001",
        "upstream": "https://api.datadoghq.com",
        "scopes": {"everything": ["* /**"]},
        **more.pop("connection", {}),
    }
    return parse(
        json.dumps(
            {
                "version": 1,
                "issuers": {"github": {"issuer": "https://issuer.example", "audience": "douane"}},
                "connections": {"datadog": connection},
                "grants": [
                    {
                        "name": "infra",
                        "issuer": "github",
                        "if": "claims.repository_id == '74'",
                        "allow": {"datadog": list(connection["scopes"])},
                    }
                ],
                "policies": policies or [],
                **more,
            }
        ),
        "douane.yaml",
        Path("/nowhere"),
    ).config


def judge(policies: list[dict[str, Any]] | None = None, **more: Any) -> Judge:
    return Judge(config(policies, **more))


def recorded(
    method: str = "POST",
    path: str = "/api/v1/dashboard",
    body: bytes = b"",
    *,
    headers: tuple[tuple[str, bytes], ...] = (),
    query: str = "",
    masks: Masks = NO_MASKS,
    decoded: bool = False,
    missing: str = "",
    at_us: int = NOON_US,
    caller: Caller | None = CALLER,
    decision: Any = "allow",
    reason: str = "",
    policy: str = "infra",
    response: Content | None = None,
    status: int = 200,
    response_decision: str = "",
) -> Recorded:
    fields = Headers([("host", b"api.datadoghq.com"), *headers])
    exchange = Exchange(
        exchange_id=uuid4(),
        connection="datadog",
        method=method,
        scheme="https",
        authority="api.datadoghq.com",
        path=path,
        query=query,
        headers=fields,
        received_us=at_us,
    )
    content = Content(fields, body, len(body), decoded, masks, missing)
    label = caller.session_label if caller is not None else ""
    return Recorded(
        exchange, caller, None, content, response, status, decision, reason, policy, response_decision, label
    )
