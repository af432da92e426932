"""The order of the stages, their deadlines, and the one place where a fault becomes a denial.

    0 protocol    what no request may do                     stages/protocol.py
    1 identity    Exchange   -> Identified                   stages/identity.py
    2 policy      Identified -> Authorized                   stages/policy.py
    3 approval    Authorized -> Approved                     stages/approval.py, where a policy holds the request
    4 credential  Approved   -> what changes on the way out  stages/credential.py
    5 record      around all of them                         stages/record.py, driven by `stream`

The numbers are those of docs/architecture.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from ext_proc.approvals import Shown
from ext_proc.decision import Deny
from ext_proc.errors import DouaneError, ProtocolError
from ext_proc.exchange import Approved, Authorized, Exchange, Headers, Identified
from ext_proc.oidc import Presented
from ext_proc.runtime import CompiledConnection, Snapshot
from ext_proc.stages import protocol
from ext_proc.stages.approval import Waiting
from ext_proc.stages.credential import Injected

log = logging.getLogger("douane.pipeline")

STAGE_DEADLINE_S = 15.0
"""No stage may take longer; an OIDC discovery or an `exec` credential is bounded well below."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Passage:
    """A request that may pass: who, by which grant and whose approval, and how its head changes."""

    approved: Approved
    injected: Injected


class Pipeline:
    """Decides one request on one connection of one snapshot. Stateless, so a stream may make its own."""

    def __init__(self, snapshot: Snapshot, connection: CompiledConnection) -> None:
        self._snapshot = snapshot
        self._connection = connection

    async def identify(self, exchange: Exchange, presented: Presented) -> Identified | Deny:
        """Stages 0 and 1, on the request's head alone: an unknown caller cannot make us hold a body."""

        async def stages() -> Identified:
            protocol.check(exchange)
            return await self._snapshot.identity.run(exchange, self._connection.config.identity, presented)

        return await _guarded(stages())

    def needs_body(self, exchange: Exchange) -> bool:
        return self._snapshot.policy.needs_body(exchange.connection, exchange.method, exchange.path)

    async def authorize(self, identified: Identified, body: bytes | None) -> Authorized | Deny:
        """Stage 2, with the whole body as sent, or None where it is streamed past the decision."""

        async def stages() -> Authorized | Deny:
            protocol.check_body(identified.exchange, body)
            authorized = await self._snapshot.policy.run(identified, body)
            if isinstance(authorized, Authorized) and authorized.hold is not None and body is None:
                return Deny(
                    "policy.uninspectable",
                    "this request must be approved, and its body cannot be at hand before it passes",
                    policy=authorized.hold.requirements[0].policy,
                    remedy="Send it on a connection with `body: inspect`, without upgrade, within max_inspect.",
                    hits=authorized.hits,
                )
            return authorized

        return await _guarded(stages())

    async def hold(self, authorized: Authorized, body: bytes, trailers: Headers, shown: Shown) -> Waiting | Deny:
        """Stage 3 begins: the approval is open. What becomes of it is `Waiting.outcome`, which has no deadline here."""
        return await _guarded(self._connection.approval.open(authorized, body, trailers, shown))

    async def inject(self, approved: Approved, body: bytes | None) -> Passage | Deny:
        """Stage 4, with the body as in `authorize`."""

        async def stages() -> Passage:
            return Passage(approved, await self._connection.credential.run(approved.authorized.identified, body))

        return await _guarded(stages())


async def _guarded(stages: Coroutine[Any, Any, T]) -> T | Deny:
    try:
        try:
            first = stages.send(None)
        except StopIteration as done:  # nothing had to be waited for, as for most requests: no deadline is needed
            return cast("T", done.value)
        async with asyncio.timeout(STAGE_DEADLINE_S):
            return await _Begun(stages, first)
    except DouaneError as fault:
        return denial(fault)
    except TimeoutError:
        return Deny("gate.deadline", "a check took too long", http_status=503, remedy="Try again.")
    except Exception:
        log.exception("a stage failed; the request is refused")
        return Deny(
            "gate.fault", "this gate failed to check the request", http_status=500, remedy="See the gate's log."
        )


class _Begun(Awaitable[T]):
    """A coroutine that has already run up to `first`, which it waits for."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], first: Any) -> None:
        self._coroutine = coroutine
        self._first = first

    def __await__(self) -> Generator[Any, Any, T]:
        waits_for = self._first
        while True:
            try:
                try:
                    sent = yield waits_for
                except BaseException as error:
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(sent)
            except StopIteration as done:
                return cast("T", done.value)


def denial(fault: DouaneError) -> Deny:
    """The denial a fault amounts to. What is for the operator goes to the log, never to the client."""
    if fault.detail:
        log.warning("%s: %s (%s)", fault.reason, fault.message, fault.detail)
    return Deny(fault.reason, fault.message, http_status=fault.http_status, remedy=fault.remedy)


def unknown_route(route: str) -> Deny:
    return denial(
        ProtocolError(
            "config.unknown_route",
            "this gate does not know the connection that Envoy chose",
            remedy="Try again; if it lasts, see the gate's log.",
            http_status=503,
            detail=f"route {route!r}",
        )
    )
