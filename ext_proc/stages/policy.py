"""Stage 2: may this caller do this. `Identified -> Authorized`, or a refusal with its reason."""

from __future__ import annotations

from ext_proc.decision import Deny
from ext_proc.exchange import Authorized, Identified
from ext_proc.rules import Grants, Policies


class PolicyStage:
    """Default deny: a grant must allow the request, and no policy may deny it."""

    def __init__(self, grants: Grants, policies: Policies) -> None:
        self._grants = grants
        self._policies = policies

    def needs_body(self, connection: str, method: str, path: str) -> bool:
        """True where a policy cannot decide without the whole request body."""
        return self._policies.needs_body(connection, method, path)

    def run(self, identified: Identified) -> Authorized | Deny:
        exchange = identified.exchange
        callers = [identified.caller]
        if identified.workload is not None and identified.workload is not identified.caller:
            callers.append(identified.workload)
        granted = self._grants.allow(exchange.connection, exchange.method, exchange.path, callers)
        if isinstance(granted, Deny):
            return granted
        denied = self._policies.decide(exchange)
        if denied is not None:
            return denied
        return Authorized(identified, granted.grant, granted.scope)
