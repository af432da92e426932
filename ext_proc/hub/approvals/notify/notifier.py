"""From events of approvals to channels."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ext_proc.errors import DouaneError
from ext_proc.exchange import now_us
from ext_proc.hub.approvals.notify.channels import Channel, NotSentError
from ext_proc.hub.approvals.notify.notice import Notice, notice
from ext_proc.hub.approvals.notify.queue import Queue, Waiting

if TYPE_CHECKING:
    from ext_proc.hub.approvals.rows import Event, Summary
    from ext_proc.hub.approvals.states import Approval
    from ext_proc.hub.approvals.waiting import Approvals

log = logging.getLogger(__name__)

MOST_A_MINUTE = 20
"""Notices of new requests of one run; those beyond wait for people without telling them each."""
_AT_ONCE = 200
_AGAIN_S = 5.0
_PAUSE_S = 1.0
_LOOK_S = 60.0


class Notifier:
    """`run` it until cancelled. Approvals never wait for it."""

    def __init__(
        self, path: Path, approvals: Approvals, channels: Sequence[Channel], page: Callable[[str], str]
    ) -> None:
        """`page` makes the address of an approval's page from its id. Blocking; OSError, sqlite3.Error."""
        self._approvals = approvals
        self._channels = channels
        self._page = page
        self._queue = Queue(path)
        self._added = {one.name: asyncio.Event() for one in channels}
        self._told: dict[bytes, deque[int]] = {}

    async def run(self) -> None:
        if not self._channels:
            await self._queue.reset()
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            for channel in self._channels:
                group.create_task(self._send(channel))

    def close(self) -> None:
        self._queue.close()

    async def _follow(self) -> None:
        """Queue notices of what happens."""
        names = [one.name for one in self._channels]
        while True:
            try:
                await self._queue.keep_only(names)
                registry, after = await self._begin()
                while True:
                    news = self._approvals.news
                    found = await self._approvals.registry.events(after, _AT_ONCE)
                    if found:
                        after = found[-1][0].number
                        notices = [made for one in found if (made := self._notice(registry, *one)) is not None]
                        await self._queue.add(names, notices, (registry, after), now_us())
                        for added in self._added.values():
                            added.set()
                    else:
                        await news.wait()
            except sqlite3.Error as error:
                log.error("notices cannot be written: %s", error)
                await asyncio.sleep(_AGAIN_S)

    async def _begin(self) -> tuple[str, int]:
        """From where the last life stopped; what was before the first one is not told."""
        registry = await self._approvals.registry.identity()
        position = await self._queue.position()
        if position is not None and position[0] == registry:
            return position
        last = await self._approvals.registry.last_event()
        await self._queue.add([], [], (registry, last), now_us())
        return registry, last

    async def _send(self, channel: Channel) -> None:
        """One after the other; what fails is tried again later, and the others meanwhile."""
        added = self._added[channel.name]
        while True:
            added.clear()
            try:
                waiting = await self._queue.next(channel.name)
                delay = (waiting.due_us - now_us()) / 1e6 if waiting is not None else _LOOK_S
                if waiting is None or delay > 0:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(delay, _LOOK_S)):
                            await added.wait()
                    continue
                try:
                    await channel.send(waiting.notice)
                except (NotSentError, DouaneError) as error:
                    await self._failed(channel, waiting, str(error))
                except Exception as error:
                    log.exception("%s fails", channel.name)  # no channel may end the hub
                    await self._failed(channel, waiting, type(error).__name__)
                else:
                    await self._queue.sent(waiting.number)
            except sqlite3.Error as error:
                log.error("notices cannot be read: %s", error)
                await asyncio.sleep(_AGAIN_S)

    async def _failed(self, channel: Channel, waiting: Waiting, why: str) -> None:
        again = await self._queue.failed(waiting, now_us())
        log.warning("%s is not told%s: %s", channel.name, "" if again else ", and will not be", why)
        await asyncio.sleep(_PAUSE_S)

    def _notice(self, registry: str, event: Event, approval: Approval, about: Summary) -> Notice | None:
        if event.event == "requested" and not self._may_tell(about.session_id, event.at_us):
            return None
        return notice(registry, self._page(approval.id), event, approval, about)

    def _may_tell(self, session_id: bytes, at_us: int) -> bool:
        """A run that asks for ever must not bury the channel, and with it what others ask."""
        told = self._told.setdefault(session_id, deque())
        while told and told[0] < at_us - 60_000_000:
            told.popleft()
        for other in [one for one, times in self._told.items() if not times and one != session_id]:
            del self._told[other]
        if len(told) >= MOST_A_MINUTE:
            return False
        told.append(at_us)
        return True
