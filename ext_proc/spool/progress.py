"""An offset that only grows, and those who wait for it."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class Progress:
    """Many tasks of one event loop wait until an offset is reached. `advance` wakes exactly those that may go on."""

    def __init__(self) -> None:
        self.offset = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @property
    def awaited(self) -> bool:
        return bool(self._waiting)

    def advance(self, offset: int) -> None:
        if offset <= self.offset:
            return
        self.offset = offset
        while self._waiting and self._waiting[0][0] <= offset:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    def fail(self, error: Exception) -> None:
        """End every wait with the error; the next wait begins anew."""
        waiting, self._waiting = self._waiting, []
        for _, _, future in waiting:
            if not future.done():
                future.set_exception(error)

    def reached(self, offset: int) -> asyncio.Future[None]:
        """Done when `offset` is reached; a cancelled future is forgotten when its turn comes."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if offset <= self.offset:
            future.set_result(None)
        else:
            heapq.heappush(self._waiting, (offset, next(self._order), future))
        return future
