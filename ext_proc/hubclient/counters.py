"""What a session did, counted by the hub, for policies."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any

from ext_proc.decision import Rate
from ext_proc.errors import DouaneError
from ext_proc.exchange import Identified
from ext_proc.hubclient.authority import Authority
from ext_proc.pb import hub_pb2

log = logging.getLogger("douane.counters")

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_MOST_PENDING = 1000
_NAMES = ("calls", "writes", "targets", "bytes", "denied")


class HubCounters:
    """HubError where the hub is away."""

    def __init__(self, authority: Authority, window: timedelta) -> None:
        self._authority = authority
        self._window_s = math.ceil(window.total_seconds())
        self._pending: set[asyncio.Task[None]] = set()

    async def count(self, identified: Identified, size: int) -> Mapping[str, int]:
        """Count this request, with a body of `size` bytes. The session's counters, it included, by the names that
        policies have for them below `session`."""
        counters = await self._authority.count(self._request(identified, size, denied=False))
        found = {name: int(getattr(counters, name)) for name in _NAMES}
        return found | {f"window.{name}": int(getattr(counters, f"window_{name}")) for name in _NAMES}

    def note(self, identified: Identified, size: int, *, denied: bool) -> None:
        """Count it, or that it was denied, without waiting; with a hub that is away it stays uncounted."""
        if len(self._pending) < _MOST_PENDING:
            self._spawn(self._count_quietly(self._request(identified, size, denied=denied)))

    async def take(self, identified: Identified, rates: Sequence[Rate]) -> tuple[str, int]:
        """Take one of each rate. (the policy whose rate is used up or '', seconds until there is room)."""
        reply = await self._authority.take_rates(
            hub_pb2.TakeRatesRequest(
                session_id=identified.caller.session_id.bytes,
                exchange_id=identified.exchange.exchange_id.bytes,
                rates=[
                    hub_pb2.Rate(policy=r.policy, limit=r.limit, per_s=math.ceil(r.per.total_seconds())) for r in rates
                ],
            )
        )
        return reply.exceeded, int(reply.retry_after_s)

    def _request(self, identified: Identified, size: int, *, denied: bool) -> hub_pb2.CountRequest:
        exchange = identified.exchange
        write = exchange.method.upper() not in _READS
        return hub_pb2.CountRequest(
            session_id=identified.caller.session_id.bytes,
            exchange_id=exchange.exchange_id.bytes,
            write=write,
            target=f"{exchange.connection} {exchange.method} {exchange.path}" if write else "",
            bytes=size,
            denied=denied,
            window_s=self._window_s,
        )

    async def _count_quietly(self, request: hub_pb2.CountRequest) -> None:
        try:
            await self._authority.count(request)
        except DouaneError as fault:
            log.warning("a request was not counted: %s", fault.reason)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
