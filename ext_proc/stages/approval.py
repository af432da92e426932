"""Stage 3: a request that people must approve waits. `Authorized -> Approved`.

The hub decides; this stage asks it, waits as long as the policy says, and tells the client what became of it. A hub
that goes away meanwhile is asked again until the time is over: what was approved is not lost with a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ext_proc.approvals import Shown, digest
from ext_proc.decision import Deny, Hold
from ext_proc.errors import HubError
from ext_proc.exchange import Approved, Authorized, Headers
from ext_proc.pb import hub_pb2

if TYPE_CHECKING:
    from ext_proc.config import Connection
    from ext_proc.config.approvals import HoldAnswer

_GRACE_S = 2.0
"""How much longer than the wait the hub may take to say that it is over."""
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 2.0

_OVER = {
    "denied": ("approval.denied", "the request was denied", "Ask who denied it; do not send it again unchanged."),
    "expired": ("approval.expired", "nobody approved the request in time", "Send it again to ask anew."),
    "withdrawn": ("approval.withdrawn", "the approval was taken back", "Ask who took it back."),
}


class HoldAuthority(Protocol):
    """The hub's authority, as far as this stage needs it."""

    def hold(self, request: hub_pb2.HoldRequest) -> AsyncGenerator[hub_pb2.HoldState, None]: ...


class ApprovalStage:
    """Opens approvals on one connection of one gate."""

    def __init__(
        self, authority: HoldAuthority, connection: Connection, gate: str, credentials: Sequence[str], *, upstream: str
    ) -> None:
        """`credentials` are the names of what will be attached, `upstream` the address that it goes to."""
        self._authority = authority
        self._gate = gate
        self._answer = connection.hold
        self._upstream = upstream
        self._credentials = tuple(credentials)
        headers = {name for credential in connection.credentials for name in credential.replaced}
        headers.discard("x-amz-content-sha256")  # says how the body is to be read, and the signature follows it
        self._replaced = frozenset((*connection.identity.headers, *headers))

    async def open(self, authorized: Authorized, body: bytes, trailers: Headers, shown: Shown) -> Waiting:
        """The approval that this request waits for: a new one, or the one that an earlier try of it left. HubError."""
        hold = authorized.hold
        assert hold is not None
        exchange, caller = authorized.identified.exchange, authorized.identified.caller
        request = hub_pb2.HoldRequest(
            digest=digest(
                exchange,
                body,
                trailers,
                upstream=self._upstream,
                credentials=self._credentials,
                session=caller.session_id.bytes,
                replaced=self._replaced,
            ),
            exchange_id=exchange.exchange_id.bytes,
            gate=self._gate,
            connection=exchange.connection,
            upstream=self._upstream,
            operation=authorized.operation,
            issuer=caller.issuer,
            subject=caller.subject,
            claims_json=json.dumps(caller.claims, ensure_ascii=False, separators=(",", ":")),
            session_id=caller.session_id.bytes,
            session_label=caller.session_label,
            requirements=[
                hub_pb2.Requirement(policy=r.policy, approvers=r.approvers, quorum=r.quorum) for r in hold.requirements
            ],
            validity_s=math.ceil(hold.validity.total_seconds()),
            expires_s=math.ceil(hold.expires.total_seconds()),
            message=hold.message,
            method=exchange.method,
            path=shown.path,
            query=shown.query,
            headers_json=json.dumps([(name, value.decode("utf-8", "replace")) for name, value in shown.headers]),
            body=shown.body,
            body_size=shown.body_size,
            hits_json="[" + ",".join(shown.hits_json) + "]",
        )
        waiting = Waiting(self._authority, request, authorized, hold, self._answer)
        await waiting.begin()
        return waiting


class Waiting:
    """One held request. `approval_id` and `url` are known once it has begun."""

    def __init__(
        self,
        authority: HoldAuthority,
        request: hub_pb2.HoldRequest,
        authorized: Authorized,
        hold: Hold,
        answer: HoldAnswer,
    ) -> None:
        self._authority = authority
        self._request = request
        self._authorized = authorized
        self._hold = hold
        self._answer = answer
        self._until = asyncio.get_running_loop().time() + hold.wait.total_seconds()
        self._states: AsyncGenerator[hub_pb2.HoldState, None] | None = None
        self._state = hub_pb2.HoldState()

    @property
    def approval_id(self) -> str:
        return self._state.approval_id

    async def begin(self) -> None:
        """Ask the hub. HubError: then nothing waits."""
        self._states = self._follow()
        state = await anext(self._states, None)
        if state is None:
            raise HubError("hub.refused", "the hub said nothing of the approval", http_status=502)
        self._state = state

    async def outcome(self) -> Approved | Deny:
        """What becomes of it, within the policy's `wait`. Cancelled: the approval stays open for the next try."""
        delay = _FIRST_DELAY_S
        try:
            async with asyncio.timeout_at(self._until + _GRACE_S):
                while True:
                    try:
                        return await self._end() or self._pending()
                    except HubError as fault:
                        if not fault.retryable:
                            return _refused(fault)
                    if asyncio.get_running_loop().time() >= self._until:
                        return self._pending()
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _LONGEST_DELAY_S)
                    self._states = self._follow()
        except TimeoutError:
            return self._pending()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """End the call to the hub, however it went."""
        if self._states is not None:
            states, self._states = self._states, None
            with contextlib.suppress(HubError):
                await states.aclose()

    def _follow(self) -> AsyncGenerator[hub_pb2.HoldState, None]:
        left = self._until - asyncio.get_running_loop().time()
        request = hub_pb2.HoldRequest()
        request.CopyFrom(self._request)
        request.wait_ms = max(int(left * 1000), 0)
        return self._authority.hold(request)

    async def _end(self) -> Approved | Deny | None:
        """How it ended; None where the hub says that the wait is over, by ending the call."""
        if (ended := self._read(self._state)) is not None:
            return ended
        if self._states is None:
            return None
        async for state in self._states:
            self._state = state
            if (ended := self._read(state)) is not None:
                return ended
        return None

    def _read(self, state: hub_pb2.HoldState) -> Approved | Deny | None:
        if state.state == "granted":
            return Approved(self._authorized, state.approval_id, tuple(state.approved_by))
        if state.state in _OVER:
            reason, message, remedy = _OVER[state.state]
            said = f": {state.message}" if state.message else ""
            return self._deny(reason, f"{message}{said}", remedy)
        return None

    def _pending(self) -> Deny:
        seconds = max(math.ceil(self._answer.retry_after.total_seconds()), 1)
        headers = [("retry-after", str(seconds).encode())]
        if self._answer.reset_header:
            headers.append((self._answer.reset_header, str(seconds).encode()))
        deny = self._deny(
            "approval.pending",
            self._hold.message or "a person must approve this request",
            f"Send the same request again in {seconds} s; `douane approvals show {self.approval_id}` tells its state.",
        )
        return replace(deny, http_status=self._answer.status, decision="hold", headers=tuple(headers))

    def _deny(self, reason: str, message: str, remedy: str) -> Deny:
        return Deny(
            reason,
            message,
            policy=self._hold.policies,
            remedy=remedy,
            approval_id=self.approval_id,
            approval_url=self._state.url,
            hits=self._authorized.hits,
            operation=self._authorized.operation,
        )


def _refused(fault: HubError) -> Deny:
    return Deny(fault.reason, fault.message, http_status=fault.http_status, remedy=fault.remedy)
