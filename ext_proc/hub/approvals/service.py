"""`Hold` of `douane.hub.v1.Authority`: a gate's request that waits for people."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sqlite3
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from ext_proc.errors import ApprovalError
from ext_proc.hub.approvals.people import person_of
from ext_proc.hub.approvals.registry import Asked
from ext_proc.hub.approvals.rows import Summary
from ext_proc.hub.approvals.shown import shown_hash
from ext_proc.hub.approvals.states import LOCAL, Requirement, State
from ext_proc.hub.approvals.waiting import Approvals, Heard, TakenOverError
from ext_proc.pb import hub_pb2

if TYPE_CHECKING:
    from ext_proc.config.approvals import Actors

log = logging.getLogger(__name__)

MAX_REQUEST = 512 << 10
"""Bytes of a HoldRequest."""
MAX_BODY = 64 << 10
MAX_TEXT = 4 << 10
MAX_PATH = 64 << 10
MAX_JSON = 256 << 10
MAX_TIME_S = 30 * 86400
_MAX_REQUIREMENTS = 32
_MAX_APPROVERS = 256
_MAX_QUORUM = 100
_APPROVER = re.compile(r"(group|user):.{1,256}|local")
_NAMES = ("gate", "connection", "upstream", "operation", "issuer", "subject", "session_label", "method", "message")

_CODES = {
    "approval.actor_unmapped": grpc.StatusCode.FAILED_PRECONDITION,
    "approval.too_many": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "approval.invalid": grpc.StatusCode.INVALID_ARGUMENT,
}
_OVER = {
    State.DENIED: ("approval.denied", "an approver said no"),
    State.WITHDRAWN: ("approval.withdrawn", "it was approved, and an approver took that back"),
    State.EXPIRED: ("approval.expired", "nobody decided in time"),
}


class HoldService:
    """`page` makes the address of an approval's page from its id; `actors` are those of the configuration;
    `by_email` as in `person_of`."""

    def __init__(
        self,
        approvals: Approvals,
        writer_of: Callable[[Any], str],
        *,
        actors: Mapping[str, Actors],
        page: Callable[[str], str],
        by_email: bool = False,
    ) -> None:
        self._approvals = approvals
        self._writer_of = writer_of
        self._actors = actors
        self._by_email = by_email
        self._page = page

    async def hold(self, request: hub_pb2.HoldRequest, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Hold. See hub.proto for what ends it."""
        try:
            asked = self._asked(request, self._writer_of(context))
            async with contextlib.aclosing(self._approvals.hold(asked)) as states:
                async for heard in states:
                    await context.write(self._state(heard))
        except ApprovalError as error:
            await context.abort(_CODES[error.reason], f"{error.reason}: {error.message}")
        except TakenOverError:
            await context.abort(grpc.StatusCode.ABORTED, "the same exchange asked again on another call")
        except sqlite3.Error as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"the hub cannot write: {error}")

    def _asked(self, request: hub_pb2.HoldRequest, writer: str) -> Asked:
        claims = _claims(request)
        requirements = tuple(Requirement(r.policy, tuple(r.approvers), r.quorum) for r in request.requirements)
        person = person_of(self._actors, request.issuer, claims, requirements, by_email=self._by_email)
        return Asked(
            about=Summary(
                **{name: getattr(request, name) for name in _NAMES if name != "upstream"},
                path=request.path,
                session_id=request.session_id,
                writer=writer,
                digest=request.digest,
            ),
            exchange_id=request.exchange_id,
            requirements=requirements,
            person=person,
            validity_us=request.validity_s * 1_000_000,
            expires_us=request.expires_s * 1_000_000,
            wait_s=request.wait_ms / 1000,
            shown=shown_hash(request, person),
            request=request.SerializeToString(),
        )

    def _state(self, heard: Heard) -> hub_pb2.HoldState:
        approval = heard.approval
        reason, words = _OVER.get(approval.state, ("", ""))
        return hub_pb2.HoldState(
            approval_id=approval.id,
            state="granted" if heard.granted else str(approval.state),
            url=self._page(approval.id),
            expires_at_us=approval.deadline_us or approval.valid_until_us or approval.expires_us,
            approved_by=approval.approved_by,
            message=approval.comment or words,
            reason=reason,
        )


def _claims(request: hub_pb2.HoldRequest) -> Mapping[str, Any]:
    """The caller's claims, once everything in the request is of the form and size that it may have. ApprovalError
    `approval.invalid`."""
    problem = _problem(request)
    try:
        claims = json.loads(request.claims_json or "{}")
    except (ValueError, RecursionError):
        claims = None
    if not problem and not isinstance(claims, dict):
        problem = "claims are a JSON object"
    if problem:
        raise ApprovalError("approval.invalid", f"the gate asks for something that cannot be approved: {problem}")
    assert isinstance(claims, dict)
    return claims


def _problem(request: hub_pb2.HoldRequest) -> str:
    for name, length in (("digest", 32), ("exchange_id", 16), ("session_id", 16)):
        if len(getattr(request, name)) != length:
            return f"{name} has {length} bytes"
    sizes = dict.fromkeys(_NAMES, MAX_TEXT) | {"path": MAX_PATH, "query": MAX_PATH, "body": MAX_BODY}
    sizes |= dict.fromkeys(("claims_json", "headers_json", "hits_json"), MAX_JSON)
    for name, most in sizes.items():
        if len(getattr(request, name)) > most:
            return f"{name} has at most {most} bytes"
    if request.ByteSize() > MAX_REQUEST:
        return f"it has at most {MAX_REQUEST} bytes"
    for name in ("validity_s", "expires_s"):
        if not 0 < getattr(request, name) <= MAX_TIME_S:
            return f"{name} is 1 to {MAX_TIME_S} seconds"
    if not 0 <= request.wait_ms <= MAX_TIME_S * 1000:
        return f"wait_ms is at most {MAX_TIME_S} seconds"
    if not request.connection or not request.issuer:
        return "a request belongs to a connection and an issuer"
    return _requirements_problem(request)


def _requirements_problem(request: hub_pb2.HoldRequest) -> str:
    """Without a requirement, or with an empty one, it would be approved by nobody's yes."""
    if not 0 < len(request.requirements) <= _MAX_REQUIREMENTS:
        return f"it names 1 to {_MAX_REQUIREMENTS} requirements"
    for one in request.requirements:
        if not 0 < len(one.policy) <= MAX_TEXT or not 0 < len(one.approvers) <= _MAX_APPROVERS:
            return f"a requirement has a policy and 1 to {_MAX_APPROVERS} approvers"
        if not 0 < one.quorum <= _MAX_QUORUM:
            return f"a quorum is 1 to {_MAX_QUORUM}"
        for approver in one.approvers:
            if not _APPROVER.fullmatch(approver):
                return f"approvers are group:NAME, user:NAME or {LOCAL}"
    return ""
