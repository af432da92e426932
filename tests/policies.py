"""Asks the policies of a configuration about requests, without a network: for packs, the cookbook and the corpus."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from ext_proc.config import Loaded, parse
from ext_proc.decision import Decided, Deny, RuleHit
from ext_proc.exchange import Caller, Exchange, Headers, SignedClaims
from ext_proc.rules import Facts, Message, Policies
from ext_proc.rules.operations import all_operations

NOW_S = 1_790_000_000
"""2026-09-21T14:13:20Z, a Monday: when requests arrive unless told."""
_COUNTERS = ("calls", "writes", "targets", "bytes", "denied")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`decision` is allow, deny or hold; `by` are the policies that made it so, `observed` those that would have."""

    decision: str
    by: tuple[str, ...] = ()
    observed: tuple[str, ...] = ()
    reason: str = ""
    message: str = ""
    hits: tuple[RuleHit, ...] = ()


class Guard:
    """A configuration's policies. Requests come with a session that has done nothing yet."""

    def __init__(self, text: str) -> None:
        self.loaded: Loaded = parse(text, "douane.yaml", Path("/nowhere"))
        self.policies = Policies(self.loaded.config, all_operations(self.loaded.config))

    def ask(
        self,
        send: str,
        body: Any = b"",
        *,
        connection: str,
        headers: Mapping[str, str] | None = None,
        claims: Mapping[str, Any] | None = None,
        session: Mapping[str, int] | None = None,
        at: int = NOW_S,
    ) -> Verdict:
        """`send` is `METHOD PATH`, with a query or without. A body that is no bytes is sent as JSON."""
        facts = self.facts(send, body, connection=connection, headers=headers, claims=claims, session=session, at=at)
        return verdict(self.policies.decide(facts))

    def facts(
        self,
        send: str,
        body: Any = b"",
        *,
        connection: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        claims: Mapping[str, Any] | None = None,
        session: Mapping[str, int] | None = None,
        at: int = NOW_S,
        response: Message | None = None,
        status: int = 0,
    ) -> Facts:
        method, _, target = send.partition(" ")
        path, _, query = target.partition("?")
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
        exchange = Exchange(
            exchange_id=UUID(int=1),
            connection=connection,
            method=method,
            scheme="https",
            authority="api.example",
            path=path,
            query=query,
            headers=Headers([(name.lower(), value.encode()) for name, value in pairs]),
            received_us=at * 1_000_000,
        )
        counters = dict.fromkeys([*_COUNTERS, *(f"window.{name}" for name in _COUNTERS)], 0)
        return Facts(
            exchange,
            Caller("ci", "repo:acme/infra", SignedClaims(dict(claims or {})), UUID(int=7), "acme/infra run 1"),
            operation=self.policies.operation(connection, method, path),
            request=Message(exchange.headers, content, len(content)),
            response=response,
            status=status,
            counters={**counters, **(session or {})},
        )


def verdict(decided: Deny | Decided) -> Verdict:
    observed = tuple(hit.policy for hit in decided.hits if hit.mode == "observe")
    if isinstance(decided, Deny):
        return Verdict("deny", (decided.policy,), observed, decided.reason, decided.message, decided.hits)
    if decided.hold is not None:
        return Verdict(
            "hold",
            tuple(requirement.policy for requirement in decided.hold.requirements),
            observed,
            message=decided.hold.message,
            hits=decided.hits,
        )
    return Verdict("allow", (), observed, hits=decided.hits)
