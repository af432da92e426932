"""What happens to approvals, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

from ext_proc.hub.approvals.shown import event_line, in_short
from ext_proc.hub.approvals.states import Approver, may_see
from ext_proc.hub.approvals.waiting import Approvals

_BEAT_S = 15.0
_AT_ONCE = 200


async def feed(approvals: Approvals, approver: Approver, after: int, until: float) -> AsyncIterator[str]:
    """Events with a number above `after` that the person may see, until their token ends (seconds since the epoch)."""
    yield f"retry: 1000\nid: {after}\n\n"
    while (left := until - time.time()) > 0:
        news = approvals.news  # before looking, so that nothing falls between
        found = await approvals.registry.events(after, _AT_ONCE)
        for event, approval, about in found:
            after = event.number
            if may_see(approval, approver):
                body = {**event_line(event), "approval": in_short(approval, about)}
                yield f"id: {event.number}\nevent: {event.event}\ndata: {json.dumps(body)}\n\n"
        if found:
            continue
        try:
            async with asyncio.timeout(min(_BEAT_S, left)):
                await news.wait()
        except TimeoutError:
            yield f"id: {after}\n\n"
