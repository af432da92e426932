"""Sends a worker's journals to the hub, each on a stream of its own, until the hub has every byte.

The hub says what it has, and the shipper sends from there: whatever dies, nothing is lost and nothing counts twice.
Dead journals go one after the other, oldest first, beside the live one, which somebody may be waiting for. While any
of them is left, the live stream claims no watermark.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import grpc.aio

from ext_proc.errors import HubError
from ext_proc.pb import hub_pb2

if TYPE_CHECKING:
    from ext_proc.hubclient import HubClient
    from ext_proc.spool import Spool

log = logging.getLogger(__name__)

CHUNK = 1 << 20
BATCH_S = 0.1
"""How long events gather before they are sent, where nobody waits for the hub."""
WATERMARK_S = 1.0
"""How often the hub hears from an idle worker."""
SILENCE_S = 15.0
"""A hub that answers nothing for this long is taken for gone."""

_BACKOFF_S = (0.05, 1.0)


class Source(Protocol):
    """A journal to be sent: the live one, or a dead worker's."""

    slot: int
    journal: str

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    def recover(self) -> None: ...
    def read(self, offset: int, max_bytes: int) -> bytes: ...


class ShippingError(Exception):
    """A stream ended before the hub had everything."""


class Shipper:
    """One worker's. `run` until cancelled; `drain` to stop in an orderly way."""

    def __init__(self, spool: Spool, client: HubClient, *, gate: str) -> None:
        self._spool = spool
        self._client = client
        self._gate = gate
        self._acked = 0
        self._draining = False
        self._live_done = asyncio.Event()
        self._leftovers_done = asyncio.Event()

    async def run(self) -> None:
        """Ships until cancelled, through every failure of the hub."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ship_leftovers())
            group.create_task(self._ship_live())

    async def drain(self, deadline_s: float) -> int:
        """Call when nothing will be appended any more: ships what is left and seals the journal. `run` goes on
        meanwhile. Returns the bytes that the hub has not got by the deadline; the slot's next worker ships those."""
        self._draining = True
        self._spool.appended.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._leftovers_done.wait()
                await self._live_done.wait()
        live = 0 if self._live_done.is_set() else self._spool.end - self._acked
        return live + sum(leftover.size for leftover in self._spool.leftovers)

    async def _ship_live(self) -> None:
        def acknowledged(offset: int) -> None:
            self._acked = offset
            self._spool.acknowledge(offset)

        await self._persist(self._spool, acknowledged)
        self._spool.discard()
        self._live_done.set()

    async def _ship_leftovers(self) -> None:
        for leftover in list(self._spool.leftovers):
            await self._persist(leftover, partial(self._spool.acknowledge_leftover, leftover))
            self._spool.shipped(leftover)
        self._leftovers_done.set()

    async def _persist(self, source: Source, acknowledged: Callable[[int], None]) -> None:
        """Streams until the hub has the sealed journal."""
        wait, away = _BACKOFF_S[0], ""
        while True:
            began = time.monotonic()
            try:
                await self._stream(source, acknowledged)
            except grpc.aio.AioRpcError as error:
                problem = f"{error.code().name}: {error.details()}"
            except (ShippingError, HubError, OSError, ValueError, asyncio.InvalidStateError) as error:
                problem = str(error) or type(error).__name__  # InvalidStateError: the call ended before this write
            except Exception as error:
                log.exception("journal %s: shipping failed in an unforeseen way", source.journal)
                problem = repr(error)  # nothing must end the shipping while the worker records
            else:
                return
            if problem != away:
                log.warning("journal %s is not shipped: %s; trying again", source.journal, problem)
                away = problem
            if time.monotonic() - began > _BACKOFF_S[1]:
                wait, away = _BACKOFF_S[0], ""
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 (spreads the load only)
            wait = min(wait * 2, _BACKOFF_S[1])

    async def _stream(self, source: Source, acknowledged: Callable[[int], None]) -> None:
        call = self._client.ship()
        acks = _Acks(call, acknowledged, self._spool.appended if source is self._spool else asyncio.Event())
        try:
            hello = hub_pb2.Hello(gate=self._gate, slot=source.slot, slots=self._spool.slots, journal=source.journal)
            await call.write(hub_pb2.ShipRequest(hello=hello))
            async with asyncio.timeout(SILENCE_S):
                sent = await acks.first()
            await asyncio.to_thread(source.recover)
            if sent < source.start:
                if sent:
                    raise ShippingError(
                        f"the hub has {sent} bytes of journal {source.journal} and acknowledged {source.start} before; "
                        "restore the hub's folder, or move the journal's folder out of the spool"
                    )
                sent = source.start
            await self._send(call, source, sent, acks)
        finally:
            call.cancel()
            await acks.stop()

    async def _send(self, call: grpc.aio.StreamStreamCall[Any, Any], source: Source, sent: int, acks: _Acks) -> None:
        live = source is self._spool
        spoke = 0.0
        while True:
            if live:
                self._spool.appended.clear()
            data = source.read(sent, CHUNK) if sent < source.end else b""
            complete = sent + len(data) >= source.end
            now = time.monotonic()
            # Nothing ran since the read, so whatever has an earlier time is in the journal before its end.
            claim = self._spool.watermark_us if live and complete and not self._spool.leftovers else 0
            seal = complete and (not live or self._draining)
            if data or seal or now - spoke >= WATERMARK_S:
                frames = hub_pb2.Frames(offset=sent, data=data, watermark_us=claim, sealed=seal)
                await call.write(hub_pb2.ShipRequest(frames=frames))
                sent, spoke = sent + len(data), now
            if seal:
                await call.done_writing()
                async with asyncio.timeout(SILENCE_S):
                    await acks.finished()
                if acks.offset < source.end:
                    raise ShippingError(f"the hub ended the stream of journal {source.journal} early")
                return
            acks.check()
            if complete:
                await self._pause(spoke, acks)

    async def _pause(self, spoke: float, acks: _Acks) -> None:
        """Until there is something to send."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WATERMARK_S):
                await self._spool.appended.wait()
        gathering = BATCH_S - (time.monotonic() - spoke)
        if gathering > 0 and self._spool.durability != "hub" and not self._draining:
            await asyncio.sleep(gathering)
        acks.check()


class _Acks:
    """Reads a stream's answers beside the sending."""

    def __init__(
        self, call: grpc.aio.StreamStreamCall[Any, Any], acknowledged: Callable[[int], None], wake: asyncio.Event
    ) -> None:
        self.offset = 0
        self._call = call
        self._acknowledged = acknowledged
        self._wake = wake
        self._heard = time.monotonic()
        self._reading: asyncio.Task[None] | None = None

    async def first(self) -> int:
        """What the hub has; the reading begins."""
        reply = await self._call.read()
        if reply is grpc.aio.EOF:
            raise ShippingError("the hub ended the stream at once")
        self._take(reply)
        self._reading = asyncio.create_task(self._read())
        return self.offset

    async def finished(self) -> None:
        assert self._reading is not None
        await self._reading

    def check(self) -> None:
        """Raises what ended the stream, or TimeoutError when the hub fell silent."""
        assert self._reading is not None
        if self._reading.done():
            self._reading.result()
            raise ShippingError("the hub ended the stream")
        if time.monotonic() - self._heard > SILENCE_S:
            raise TimeoutError(f"the hub has not answered for {SILENCE_S:.0f} s")

    async def stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while (reply := await self._call.read()) is not grpc.aio.EOF:
                self._take(reply)
        finally:
            self._wake.set()

    def _take(self, reply: hub_pb2.ShipReply) -> None:
        self.offset = reply.durable_offset
        self._heard = time.monotonic()
        self._acknowledged(reply.durable_offset)
