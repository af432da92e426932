"""The approvals API: for `douane approvals` and for whatever else people decide with.

    GET  /api/approvals?state=open&limit=100     {"approvals": [...], "last_event": N}
    GET  /api/approvals/{id}                     one in full; the first digits of an id suffice
    POST /api/approvals/{id}/approve | deny      {"comment": "..."}, the whole id
    GET  /api/approvals/events?after=N           server-sent events from number N on, or from now

Only POST decides. Each answer that is no success is `{"reason", "message", "remedy"}`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ext_proc.errors import ApprovalError
from ext_proc.hub.approvals.feed import feed
from ext_proc.hub.approvals.shown import in_full, in_short
from ext_proc.hub.approvals.sign_in import WhoAsks
from ext_proc.hub.approvals.states import State, may_see
from ext_proc.hub.approvals.waiting import Approvals
from ext_proc.hub.approvals.web import SAFE, Handler, Origins, guarded
from ext_proc.pb import hub_pb2

MAX_COMMENT = 2000
_MAX_BODY = 16 << 10
_MOST_LISTED = 1000
_MOST_FEEDS = 200
_MOST_FEEDS_EACH = 20
_ID = re.compile(r"[0-9a-f]{24}")
_PREFIX = re.compile(r"[0-9a-f]{4,24}")
_STATES: dict[str, tuple[State, ...]] = {
    "open": (State.REQUESTED, State.APPROVED),
    "all": tuple(State),
    **{str(state): (state,) for state in State},
}


def routes(approvals: Approvals, who_asks: WhoAsks, origins: Origins) -> list[Route]:
    """`origins` says from where browsers may ask."""
    api = _Api(approvals, who_asks)

    def route(path: str, handler: Handler, method: str = "GET") -> Route:
        return Route(f"/api/approvals{path}", guarded(handler, origins), methods=[method])

    return [
        route("", api.listed),
        route("/events", api.events),
        route("/{id}", api.one),
        route("/{id}/approve", api.approve, "POST"),
        route("/{id}/deny", api.deny, "POST"),
    ]


class _Api:
    def __init__(self, approvals: Approvals, who_asks: WhoAsks) -> None:
        self._approvals = approvals
        self._who_asks = who_asks
        self._feeds: Counter[str] = Counter()

    async def listed(self, request: Request) -> Response:
        """Those that the person may see."""
        approver, _ = await self._who_asks(request)
        wanted = request.query_params.get("state", "open")
        if wanted not in _STATES:
            raise _bad("state", f"is one of {', '.join(_STATES)}")
        limit = _number(request, "limit", 100, _MOST_LISTED)
        last_event = await self._approvals.registry.last_event()
        found = await self._approvals.registry.listed(_STATES[wanted], limit, lambda one: may_see(one, approver))
        shown = [in_short(approval, about) for approval, about in found]
        return _answer({"approvals": shown, "last_event": last_event, "you": approver.label})

    async def one(self, request: Request) -> Response:
        approver, _ = await self._who_asks(request)
        prefix = request.path_params["id"].lower()
        if not _PREFIX.fullmatch(prefix):
            raise _unknown(prefix)
        ids = await self._approvals.registry.named(prefix)
        if len(ids) > 1:
            raise ApprovalError(
                "approval.ambiguous", f"several approvals begin with {prefix}", remedy="Give more of the id."
            )
        if not ids:
            raise _unknown(prefix)
        found = await self._approvals.registry.find(ids[0])
        if not may_see(found.approval, approver):
            raise ApprovalError(
                "approval.not_approver",
                f"{approver.label} is not among those who may see {prefix}",
                remedy="Sign in as one of its approvers.",
                http_status=403,
            )
        asked = hub_pb2.HoldRequest.FromString(found.request)
        return _answer({**in_full(found.approval, found.about, asked, found.events), "you": approver.label})

    async def approve(self, request: Request) -> Response:
        return await self._decide(request, approve=True)

    async def deny(self, request: Request) -> Response:
        return await self._decide(request, approve=False)

    async def _decide(self, request: Request, *, approve: bool) -> Response:
        approver, _ = await self._who_asks(request)
        comment = await _comment(request)
        approval_id = request.path_params["id"]
        if not _ID.fullmatch(approval_id):
            raise _unknown(approval_id)
        try:
            decided = await self._approvals.decide(approval_id, approver, approve=approve, comment=comment)
        except KeyError:
            raise _unknown(approval_id) from None
        found = await self._approvals.registry.find(approval_id)
        return _answer({**in_short(decided, found.about), "you": approver.label})

    async def events(self, request: Request) -> Response:
        approver, until = await self._who_asks(request)
        after = await self._approvals.registry.last_event()
        sent = request.headers.get("last-event-id") or request.query_params.get("after")
        if sent is not None:
            if not sent.isascii() or not sent.isdecimal() or len(sent) > 18:
                raise _bad("after", "is a number of an event")
            after = int(sent)
        if self._feeds.total() >= _MOST_FEEDS or self._feeds[approver.label] >= _MOST_FEEDS_EACH:
            raise ApprovalError(
                "approval.busy",
                "too many watch what happens already",
                remedy="End some of your own, or try again later.",
                http_status=429,
            )
        return StreamingResponse(
            self._counted(approver.label, feed(self._approvals, approver, after, until)),
            media_type="text/event-stream",
            headers=SAFE,
        )

    async def _counted(self, label: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
        """One person must not take the places of all."""
        self._feeds[label] += 1
        try:
            async for event in events:
                yield event
        finally:
            self._feeds[label] -= 1
            self._feeds += Counter()  # forgets those who have none


async def _comment(request: Request) -> str:
    """Of a JSON body, which no form of a foreign page can send."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApprovalError(
            "approval.body", "a decision is sent as application/json", remedy='Send {"comment": ""}.', http_status=415
        )
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            raise _bad("the body", f"has at most {_MAX_BODY} bytes")
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        sent = None
    comment = sent.get("comment", "") if isinstance(sent, dict) and not sent.keys() - {"comment"} else None
    if not isinstance(comment, str) or len(comment) > MAX_COMMENT:
        raise _bad("the body", f'is a JSON object with "comment", text of at most {MAX_COMMENT} characters')
    return comment.encode("utf-8", "replace").decode()  # JSON can spell lone surrogates, which no store takes


def _number(request: Request, name: str, otherwise: int, most: int) -> int:
    text = request.query_params.get(name, str(otherwise))
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:9]) <= most:
        raise _bad(name, f"is 1 to {most}")
    return int(text)


def _answer(body: dict[str, Any]) -> Response:
    return JSONResponse(body, headers=SAFE)


def _bad(what: str, why: str) -> ApprovalError:
    return ApprovalError("approval.bad_request", f"{what} {why}", http_status=400)


def _unknown(approval_id: str) -> ApprovalError:
    return ApprovalError(
        "approval.unknown",
        f"there is no approval {approval_id[:40]!r}",
        remedy="`douane approvals list --state all` shows what there is.",
        http_status=404,
    )
