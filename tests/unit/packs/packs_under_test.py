"""A configuration with both packs, each with somebody to ask."""

from __future__ import annotations

from typing import Any

from tests.policies import Guard, Verdict

_TEXT = """\
version: 1
issuers:
  ci: {{issuer: "https://ci.example", audience: douane}}
connections:
  datadog: {{listen: "127.0.0.1:15001", upstream: "https://api.datadoghq.com"}}
  github: {{listen: "127.0.0.1:15002", upstream: "https://api.github.com"}}
approvals:
  sign_in: {{issuer: "https://login.example", client_id: douane}}
  actors: {{ci: {{claim: actor, same: true}}}}
packs:
{packs}
"""
APPROVERS = '{approvers: ["group:sre"]}'


def guard(*packs: str) -> Guard:
    return Guard(_TEXT.format(packs="\n".join(f"  - {pack}" for pack in packs)))


BOTH = guard(
    f"{{pack: datadog, connection: datadog, settings: {APPROVERS}}}",
    f"{{pack: github, connection: github, settings: {APPROVERS}}}",
)


def matched(connection: str, send: str, body: Any = b"", **more: Any) -> set[str]:
    """The rules of the connection's pack that match, or cannot judge it, without the pack's name."""
    return {rule.partition(".")[2] for rule in _verdict(connection, send, body, **more)}


def _verdict(connection: str, send: str, body: Any, **more: Any) -> set[str]:
    found: Verdict = BOTH.ask(send, body, connection=connection, **more)
    return {hit.policy for hit in found.hits}
