"""Takes journals in: `douane.hub.v1.Ingest`. What it acknowledges is on this machine's disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from ext_proc.hub.registry import Key
from ext_proc.hub.replica import GapError, Replica, Replicas
from ext_proc.pb import hub_pb2

log = logging.getLogger(__name__)


class Ingest:
    """`writer_of` names the authenticated peer of a call; the name is stamped on everything it sends."""

    def __init__(self, replicas: Replicas, writer_of: Callable[[Any], str]) -> None:
        self._replicas = replicas
        self._writer_of = writer_of

    async def ship(self, _requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Ship: one journal. Aborts with INVALID_ARGUMENT for what can never be taken, ABORTED for a gap (say hello
        again), UNAVAILABLE while this disk cannot be written."""
        code, problem = grpc.StatusCode.OK, ""
        try:
            await self._ship(context)
        except* GapError as errors:
            code, problem = grpc.StatusCode.ABORTED, str(errors.exceptions[0])
        except* ValueError as errors:
            code, problem = grpc.StatusCode.INVALID_ARGUMENT, str(errors.exceptions[0])
        except* OSError as errors:
            code, problem = grpc.StatusCode.UNAVAILABLE, f"the hub cannot write: {errors.exceptions[0]}"
        if problem:
            log.error("a journal of %s is refused: %s", self._writer_of(context), problem)
            await context.abort(code, problem)

    async def _ship(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        first = await context.read()
        if first is grpc.aio.EOF:
            return
        if first.WhichOneof("message") != "hello":
            raise ValueError("a stream begins with Hello")
        hello = first.hello
        key = Key(self._writer_of(context), hello.gate, hello.slot, hello.journal)
        replica = await self._replicas.open(key, hello.slots)
        if isinstance(replica, int):
            await self._answer_finished(context, replica)
            return
        await context.write(hub_pb2.ShipReply(durable_offset=replica.end))
        stream = _Stream(self._replicas, replica, context)
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.receive())
            group.create_task(stream.acknowledge())

    async def _answer_finished(self, context: grpc.aio.ServicerContext[Any, Any], end: int) -> None:
        """The gate missed that the hub has all of this journal: tell it again."""
        reply = hub_pb2.ShipReply(durable_offset=end)
        await context.write(reply)
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(reply)
            if request.frames.sealed:
                return


class _Stream:
    """Receives without waiting for the disk; one sync then acknowledges all that came meanwhile."""

    def __init__(self, replicas: Replicas, replica: Replica, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._replicas = replicas
        self._replica = replica
        self._context = context
        self._wake = asyncio.Event()
        self._watermark_us = 0
        self._sealed = False
        self._ended = False

    async def receive(self) -> None:
        while not self._sealed and (request := await self._context.read()) is not grpc.aio.EOF:
            frames = request.frames
            self._replica.append(frames.offset, frames.data)
            self._watermark_us = max(self._watermark_us, frames.watermark_us)
            self._sealed = frames.sealed
            self._wake.set()
        self._ended = True
        self._wake.set()

    async def acknowledge(self) -> None:
        while not self._ended or self._wake.is_set():
            await self._wake.wait()
            self._wake.clear()
            watermark_us, sealed = self._watermark_us, self._sealed
            end = await self._replica.persist()
            if sealed:
                await self._replica.seal()
            self._replicas.heard(self._replica.clock, watermark_us)
            self._replicas.on_data()
            await self._context.write(hub_pb2.ShipReply(durable_offset=end))
