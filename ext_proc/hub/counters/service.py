"""`Count` and `TakeRates` of `douane.hub.v1.Authority`."""

from __future__ import annotations

import sqlite3
from typing import Any

import grpc
import grpc.aio

from ext_proc.hub.counters.store import MAX_WINDOW_S, Counters, Counting, Rate
from ext_proc.pb import hub_pb2

MAX_TARGET = 128 << 10
MAX_RATES = 64
MAX_LIMIT = 100_000
_MAX_POLICY = 256


class CounterService:
    """INVALID_ARGUMENT for what can never be counted, UNAVAILABLE while this disk cannot be written."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    async def count(
        self, request: hub_pb2.CountRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> hub_pb2.Counters:
        problem = _id_problem(request)
        if not 0 < request.window_s <= MAX_WINDOW_S:
            problem = f"a window is 1 to {MAX_WINDOW_S} seconds"
        elif len(request.target) > MAX_TARGET or request.bytes >= 1 << 48:
            problem = "the target or the number of bytes is too large"
        if problem:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        counting = Counting(
            request.session_id,
            request.exchange_id,
            request.write,
            request.target,
            request.bytes,
            request.denied,
            request.window_s,
        )
        try:
            session, recent = await self._counters.count(counting)
        except sqlite3.Error as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"the hub cannot write: {error}")
        return hub_pb2.Counters(
            calls=session.calls,
            writes=session.writes,
            targets=session.targets,
            bytes=session.bytes,
            denied=session.denied,
            window_calls=recent.calls,
            window_writes=recent.writes,
            window_targets=recent.targets,
            window_bytes=recent.bytes,
            window_denied=recent.denied,
        )

    async def take_rates(
        self, request: hub_pb2.TakeRatesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> hub_pb2.TakeRatesReply:
        problem = _id_problem(request)
        rates = [Rate(rate.policy, rate.limit, rate.per_s) for rate in request.rates]
        if len(rates) > MAX_RATES or len({rate.policy for rate in rates}) < len(rates):
            problem = f"at most {MAX_RATES} rates are taken at once, each of another policy"
        for rate in rates:
            if not 0 < len(rate.policy) <= _MAX_POLICY or not 0 < rate.limit <= MAX_LIMIT:
                problem = f"a rate has a policy and a limit of 1 to {MAX_LIMIT}"
            elif not 0 < rate.per_s <= MAX_WINDOW_S:
                problem = f"a rate's time is 1 to {MAX_WINDOW_S} seconds"
        if problem:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        try:
            exceeded, wait_s = await self._counters.take(request.session_id, request.exchange_id, rates)
        except sqlite3.Error as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"the hub cannot write: {error}")
        return hub_pb2.TakeRatesReply(exceeded=exceeded, retry_after_s=wait_s)


def _id_problem(request: hub_pb2.CountRequest | hub_pb2.TakeRatesRequest) -> str:
    if len(request.session_id) != 16 or len(request.exchange_id) != 16:
        return "session_id and exchange_id have 16 bytes"
    return ""
