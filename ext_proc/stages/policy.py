"""Stage 2: may this caller do this. `Identified -> Authorized`, or a refusal with its reason."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from ext_proc.decision import Deny, Rate, RuleHit
from ext_proc.errors import DouaneError
from ext_proc.exchange import Authorized, Exchange, Headers, Identified
from ext_proc.masking import codings
from ext_proc.rules import Facts, Grants, Message, Policies, ResponseRules


class SessionCounters(Protocol):
    """What the hub counts of a session; both that wait raise HubError where it is away."""

    async def count(self, identified: Identified, size: int) -> Mapping[str, int]: ...
    def note(self, identified: Identified, size: int, *, denied: bool) -> None: ...
    async def take(self, identified: Identified, rates: Sequence[Rate]) -> tuple[str, int]: ...


class PolicyStage:
    """Default deny: a grant must allow the request, and no policy may deny it."""

    def __init__(self, grants: Grants, policies: Policies, max_decoded: int, counters: SessionCounters) -> None:
        self._grants = grants
        self._policies = policies
        self._max_decoded = max_decoded
        self._counters = counters

    def needs_body(self, connection: str, method: str, path: str) -> bool:
        """True where a policy cannot decide without the whole request body."""
        return self._policies.needs_body(connection, method, path)

    def response_rules(self, exchange: Exchange) -> ResponseRules | None:
        """What policies say of the response, as far as any looks at it."""
        return self._policies.response_rules(exchange.connection, exchange.method, exchange.path)

    async def run(self, identified: Identified, body: bytes | None) -> Authorized | Deny:
        """`body` is all of it as sent, or None where it is streamed past the decision."""
        exchange = identified.exchange
        # With `require: both` the pod proves where the caller is; what the caller may do is the caller's own.
        granted = self._grants.allow(exchange.connection, exchange.method, exchange.path, identified.caller)
        if isinstance(granted, Deny):
            return self._noted(granted, identified)
        size = _size(exchange, body)
        facts = Facts(
            exchange,
            identified.caller,
            identified.workload,
            operation=self._policies.operation(exchange.connection, exchange.method, exchange.path),
            request=Message(exchange.headers, self._wanted(exchange, body), size),
            counters=await self._count(identified, size or 0),
        )
        steps = self._policies.deciding(facts)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                decided = done.value
                break
            await asyncio.sleep(0)  # the body is large: other requests may go on between two rules
        if isinstance(decided, Deny):
            return self._noted(decided, identified)
        if decided.obligations.rates:
            exceeded, wait_s = await self._counters.take(identified, decided.obligations.rates)
            if exceeded:
                return self._noted(_too_often(exceeded, wait_s, decided.hits), identified)
        return Authorized(
            identified,
            granted.grant,
            granted.scope,
            operation=facts["operation"],
            hold=decided.hold,
            obligations=decided.obligations,
            hits=decided.hits,
        )

    async def _count(self, identified: Identified, size: int) -> Mapping[str, int] | None:
        """The session's counters, this request included; None where no rule asks, or the hub is away and none must."""
        request = (identified.exchange.connection, identified.exchange.method, identified.exchange.path)
        if not self._policies.needs_session(*request):
            if self._policies.uses_session:
                self._counters.note(identified, size, denied=False)
            return None
        try:
            return await self._counters.count(identified, size)
        except DouaneError:
            if self._policies.must_have_session(*request):
                raise
            return None

    def _noted(self, deny: Deny, identified: Identified) -> Deny:
        if self._policies.uses_session:
            self._counters.note(identified, 0, denied=True)
        exchange = identified.exchange
        operation = self._policies.operation(exchange.connection, exchange.method, exchange.path)
        return replace(deny, operation=operation) if operation else deny

    def _wanted(self, exchange: Exchange, body: bytes | None) -> bytes | None:
        """The body without its content-codings, where a policy wants it and it can be had."""
        if not body or exchange.headers.first("content-encoding") is None:
            return body
        if not self._policies.looks_at_body(exchange.connection, exchange.method, exchange.path):
            return None
        return decoded(exchange.headers, body, self._max_decoded)


def decoded(headers: Headers, body: bytes, max_decoded: int) -> bytes | None:
    """The body without its content-codings, as policies see it; None where they cannot be undone."""
    encoding = b",".join(headers.all("content-encoding"))
    if not body or not encoding:
        return body
    try:
        decoder = codings.decoder(encoding)
        plain = body if decoder is None else decoder.feed(body, max_decoded)
        if decoder is not None:
            decoder.finish()
    except (codings.CodingError, codings.TooLargeError):
        return None
    return plain


def _size(exchange: Exchange, body: bytes | None) -> int | None:
    if body is not None:
        return len(body)
    length = exchange.headers.first("content-length") or b""
    return int(length) if length.isdigit() and len(length) < 20 else None


def _too_often(policy: str, wait_s: int, hits: tuple[RuleHit, ...]) -> Deny:
    return Deny(
        "policy.rate",
        f"the policy {policy} allows this less often",
        http_status=429,
        policy=policy,
        remedy=f"Try again in {max(wait_s, 1)} s.",
        headers=(("retry-after", str(max(wait_s, 1)).encode()),),
        hits=hits,
    )
