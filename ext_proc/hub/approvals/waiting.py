"""Requests that wait for people, and what makes them go on: a decision, or the clock.

A waiting request is one call of a gate and one entry here; nothing looks at it until something happens to its
approval.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sqlite3
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from ext_proc.exchange import now_us
from ext_proc.hub.approvals.registry import Asked, Registry
from ext_proc.hub.approvals.states import Approval, Approver, State

log = logging.getLogger(__name__)

_LONGEST_SLEEP_S = 60.0
_AGAIN_S = 1.0


class TakenOverError(Exception):
    """The same exchange asked again on another call; this one is over."""


@dataclass(frozen=True, slots=True)
class Heard:
    """`granted`: it was approved, and is used up by this very exchange now."""

    approval: Approval
    granted: bool = False


class _Call:
    __slots__ = ("latest", "replaced", "woken")

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self.latest: Approval | None = None
        self.replaced = False

    def tell(self, approval: Approval) -> None:
        if self.latest is None or approval.version > self.latest.version:
            self.latest = approval
            self.woken.set()


class Approvals:
    """The hub's approvals while it runs. `run` it until cancelled. `on_event` is called when there is a new event."""

    def __init__(self, registry: Registry, on_event: Callable[[], None] = lambda: None) -> None:
        self.registry = registry
        self.on_event = on_event
        self.entered = 0
        """Events up to this number are in the history, so that they need not be kept here."""
        self._calls: dict[int, _Call] = {}
        self._tickets = itertools.count(1)
        self._deadline_us: int | None = None
        self._sooner = asyncio.Event()
        self._news = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many requests wait now."""
        return len(self._calls)

    async def hold(self, asked: Asked) -> AsyncGenerator[Heard, None]:
        """What becomes of the request, until it is granted or over, for as long as it waits. Leaving early leaves the
        approval open.

        ApprovalError `approval.too_many`; TakenOverError; sqlite3.Error while this disk cannot be written.
        """
        until = asyncio.get_running_loop().time() + asked.wait_s
        ticket = next(self._tickets)
        call = self._calls[ticket] = _Call()
        ended = False
        try:
            attached = await self.registry.attach(asked, ticket)
            if attached.replaced in self._calls:
                former = self._calls[attached.replaced]
                former.replaced = True
                former.woken.set()
            if attached.new or not attached.approval.state.open:
                self._changed(attached.approval)
            call.tell(attached.approval)
            while not ended:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await call.woken.wait()
                if not call.woken.is_set():
                    return
                call.woken.clear()
                if call.replaced:
                    raise TakenOverError
                assert call.latest is not None
                if call.latest.state is State.APPROVED:
                    call.tell(await self.registry.use(call.latest.id, ticket, asked.exchange_id, asked.about.gate))
                    self._changed(call.latest)
                ended = not call.latest.state.open
                if call.latest.state is not State.APPROVED:
                    yield Heard(call.latest, granted=call.latest.state is State.USED)
        finally:
            del self._calls[ticket]
            if not ended:
                self.registry.detach(ticket)

    async def decide(self, approval_id: str, approver: Approver, *, approve: bool, comment: str) -> Approval:
        """One person's yes or no. ApprovalError says why it does not count; KeyError where there is no such approval;
        sqlite3.Error."""
        approval, ticket = await self.registry.decide(approval_id, approver, approve=approve, comment=comment)
        self._tell(approval, ticket)
        return approval

    async def run(self) -> None:
        """Let expire what does, and forget what is long over."""
        while True:
            try:
                over, self._deadline_us = await self.registry.expire()
                for approval, ticket in over:
                    self._tell(approval, ticket)
                if over:
                    continue
                await self.registry.forget(self.entered)
            except sqlite3.Error as error:
                log.error("approvals cannot be written: %s", error)
                await asyncio.sleep(_AGAIN_S)
                continue
            wait_s = _LONGEST_SLEEP_S
            if self._deadline_us is not None:
                wait_s = min(wait_s, max(0.0, (self._deadline_us - now_us()) / 1e6) + 0.001)
            self._sooner.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._sooner.wait()
            except TimeoutError:
                pass

    @property
    def news(self) -> asyncio.Event:
        """Set once something has happened to any approval from now on."""
        return self._news

    def close(self) -> None:
        self.registry.close()

    def _tell(self, approval: Approval, ticket: int | None) -> None:
        self._changed(approval)
        call = self._calls.get(ticket) if ticket is not None else None
        if call is not None:
            call.tell(approval)

    def _changed(self, approval: Approval) -> None:
        deadline = approval.deadline_us
        if deadline is not None and (self._deadline_us is None or deadline < self._deadline_us):
            self._deadline_us = deadline
            self._sooner.set()
        news, self._news = self._news, asyncio.Event()
        news.set()
        self.on_event()
