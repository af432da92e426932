"""Several children: started in order, each when the former are ready; stopped in the opposite order in time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from ext_proc.supervisor.child import Child

log = logging.getLogger("douane.supervisor")

START_S = 60.0


class Group:
    """`stages` lists what starts together, in order: store, hub, workers, Envoy."""

    def __init__(self, stages: Sequence[Sequence[Child]]) -> None:
        self.stages = [list(stage) for stage in stages if stage]
        self.confirmed = True  # set to False until what the children serve has been looked at from outside
        self._hurry = asyncio.Event()

    @property
    def children(self) -> list[Child]:
        return [child for stage in self.stages for child in stage]

    @property
    def ready(self) -> bool:
        return self.confirmed and bool(self.children) and all(child.state == "ready" for child in self.children)

    async def start(self) -> None:
        """Return when all are ready. The first that fails is raised, after everything was stopped again."""
        try:
            for stage in self.stages:
                tasks = [asyncio.create_task(child.start(START_S)) for child in stage]
                try:
                    await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        except BaseException:
            await self.stop(lambda _: 2.0)
            raise

    def hurry(self) -> None:
        """Stop waiting for what is being stopped: kill the present stage and give the next ones little time."""
        self._hurry.set()

    async def stop(
        self, deadline_s: Callable[[Child], float], before: Callable[[], Awaitable[None]] | None = None
    ) -> bool:
        """Stop all, last started first; `before` runs first (draining Envoy). True when every child went by itself."""
        began = time.monotonic()
        clean = True
        if before is not None:
            await self._unless_hurried(before())
        for stage in reversed(self.stages):
            limits = [min(deadline_s(child), 2.0) if self._hurry.is_set() else deadline_s(child) for child in stage]
            stopping = asyncio.gather(*(child.stop(limit) for child, limit in zip(stage, limits, strict=True)))
            hurried = asyncio.create_task(self._kill_when_hurried(stage)) if not self._hurry.is_set() else None
            try:
                clean = all(await stopping) and clean
            finally:
                if hurried is not None:
                    hurried.cancel()
        log.info("everything is stopped", extra={"seconds": round(time.monotonic() - began, 2)})
        return clean

    async def _kill_when_hurried(self, stage: list[Child]) -> None:
        await self._hurry.wait()
        for child in stage:
            child.kill()

    async def _unless_hurried(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        hurried = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({task, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(task, hurried, return_exceptions=True)
