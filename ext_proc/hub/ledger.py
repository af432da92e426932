"""From the gates' journals to rows of ClickHouse.

The replicas are read as they grow, events joined into exchanges, and these written to the outbox as rows; the writer
brings them to ClickHouse. Nothing is kept in memory that is not in a replica or in the outbox as well: whatever goes
wrong here, the answer is to begin again from what is on disk, and a kill is no different.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ext_proc.errors import StoreError
from ext_proc.hub import schema
from ext_proc.hub.approvals.history import History
from ext_proc.hub.clickhouse import ClickHouse
from ext_proc.hub.entries import Entries
from ext_proc.hub.outbox import Outbox
from ext_proc.hub.writer import Writer

if TYPE_CHECKING:
    from ext_proc.config.models import Config
    from ext_proc.hub.approvals import Approvals
    from ext_proc.hub.replica import Replicas

log = logging.getLogger(__name__)

_TICK_S = 0.2
"""How often time is looked at when nothing comes."""
_ANEW_S = 2.0


@dataclass(frozen=True, slots=True)
class _Run:
    outbox: Outbox
    entries: Entries
    writer: Writer


class Ledger:
    """`run` it until cancelled. It hears of new data by `replicas.on_data`."""

    def __init__(
        self, replicas: Replicas, config: Config, *, password: str = "", approvals: Approvals | None = None
    ) -> None:
        """`password` is the value of `store.password`, for a ClickHouse server. The history of `approvals` is entered,
        too."""
        self._replicas = replicas
        self._path = Path(config.hub.path)
        self._max_decoded = config.recording.max_decoded
        self._clickhouse = ClickHouse(config.store, password=password)
        self._layout = schema.Layout(self._clickhouse.database, config.recording.retention, config.store.cluster)
        self._woken = asyncio.Event()
        replicas.on_data = self.wake
        self._approvals = approvals
        if approvals is not None:
            approvals.on_event = self.wake
        self._draining = False
        self._drained = asyncio.Event()
        self._trouble = "starting"
        self._run: _Run | None = None
        self._migrated = False

    def wake(self) -> None:
        """There is something to read. From the event loop's thread."""
        self._woken.set()

    async def run(self) -> None:
        """Reads, joins and inserts until cancelled. What fails on this disk is begun again from what is on it."""
        started_us = time.time_ns() // 1000
        while True:
            try:
                outbox = await asyncio.to_thread(Outbox, self._path)
                try:
                    await self._live(outbox, started_us)
                finally:
                    self._run = None
                    await asyncio.to_thread(outbox.close)
            except* (OSError, sqlite3.Error) as group:
                self._trouble = f"the hub's folder {self._path} cannot be used: {_first(group)}"
                log.error("%s; trying again", self._trouble)
            except* Exception as group:
                # Ingest must go on: what a gate has sent stays in its journals, and every start tries anew.
                self._trouble = f"the ledger fails: {_first(group)!r}"
                log.exception("the ledger fails; trying again")
            await asyncio.sleep(_ANEW_S)

    async def drain(self, deadline_s: float) -> int:
        """Enter and insert all that has arrived. The number of batches that ClickHouse does not have by then."""
        self._drained.clear()
        self._draining = True
        try:
            async with asyncio.timeout(deadline_s):
                self.wake()
                await self._drained.wait()
                if self._run is not None:
                    await self._run.writer.idle()
        except TimeoutError:
            log.warning("stopping before ClickHouse has everything; the rest is on disk and follows at the next start")
        finally:
            self._draining = False
        run = self._run
        return 0 if run is None else await asyncio.to_thread(run.outbox.waiting)

    @property
    def migrated(self) -> bool:
        """Whether the schema is there, once since the start."""
        return self._run is not None and self._migrated

    def healthy(self) -> tuple[bool, str]:
        """(well, in words)."""
        run = self._run
        if run is None or not self.migrated:
            return False, self._trouble
        if run.entries.damaged:
            return False, f"journals are damaged in {self._path}: {', '.join(sorted(run.entries.damaged))}"
        return run.writer.health()

    async def _live(self, outbox: Outbox, started_us: int) -> None:
        history = None
        if self._approvals is not None:
            history = History(self._approvals)
            await history.begin(await asyncio.to_thread(outbox.approvals))
        entries = await asyncio.to_thread(Entries, self._replicas, outbox, self._max_decoded, history)
        run = self._run = _Run(outbox, entries, Writer(outbox, self._clickhouse))
        run.writer.wake()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._insert(run.writer))
            while True:
                self._woken.clear()
                draining = self._draining
                if await entries.turn(started_us, behind=run.writer.behind, now=draining):
                    run.writer.wake()
                if draining and self._draining:
                    self._drained.set()
                try:
                    async with asyncio.timeout(_TICK_S):
                        await self._woken.wait()
                except TimeoutError:
                    pass

    async def _insert(self, writer: Writer) -> None:
        while not self._migrated:
            try:
                await asyncio.to_thread(schema.migrate, self._clickhouse, self._layout, log=log.info)
                self._migrated = True
            except StoreError as error:
                if str(error) != self._trouble:
                    log.warning("the ledger is not ready: %s", error)
                self._trouble = str(error)
                await asyncio.sleep(0.25 if error.retryable else _ANEW_S)
        await writer.run()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
