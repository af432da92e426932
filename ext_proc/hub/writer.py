"""Brings batches to ClickHouse, in order, one at a time, until it has them.

A batch that ClickHouse cannot read will not be read the next time either: it is set aside, for that alone must not
hold up all others, and `health` says so until a person has looked. Whatever else goes wrong is tried again for ever:
rows wait on disk, and `health` says for how long.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Protocol

from ext_proc.errors import StoreError
from ext_proc.hub.clickhouse import ClickHouseError
from ext_proc.hub.outbox import Batch, Outbox

log = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0
_LATE_S = 10.0
"""A batch that waits for longer than this is worth a person's attention."""

_UNREADABLE = frozenset(
    {6, 26, 27, 32, 33, 38, 41, 53, 69, 70, 72, 117, 128, 131, 321, 349, 376, 441, 469, 675, 676, 691}
)
"""ClickHouse's codes for rows that it cannot read, or that break a constraint: CANNOT_PARSE_..., ATTEMPT_TO_READ_
AFTER_EOF, CANNOT_READ_ALL_DATA, TYPE_MISMATCH, INCORRECT_DATA, TOO_LARGE_..., VIOLATED_CONSTRAINT, UNKNOWN_ELEMENT_OF_
ENUM (src/Common/ErrorCodes.cpp)."""
_TRIES = 3
"""How often a batch must be refused as unreadable: once might be the connection's fault."""


class Inserts(Protocol):
    """What is needed of `clickhouse.ClickHouse`."""

    def insert(self, table: str, columns: tuple[str, ...], data: bytes, token: str) -> None: ...


class Writer:
    """`wake` it when there are new batches; `run` it until cancelled."""

    def __init__(self, outbox: Outbox, clickhouse: Inserts) -> None:
        self._outbox = outbox
        self._clickhouse = clickhouse
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._quarantined = outbox.quarantined()
        self._trouble = ""
        self._oldest_us = 0
        self._refusals = 0
        self.inserted = 0

    def wake(self) -> None:
        """There is something to insert."""
        self._idle.clear()
        self._wake.set()

    @property
    def behind(self) -> bool:
        """True while ClickHouse does not take what is there."""
        return bool(self._trouble)

    async def idle(self) -> None:
        """Returns when ClickHouse has everything there was."""
        await self._idle.wait()

    async def run(self) -> None:
        """Insert for ever."""
        delay = _FIRST_DELAY_S
        while True:
            self._wake.clear()
            try:
                batch = await asyncio.to_thread(self._outbox.first)
                if batch is None:
                    self._oldest_us = 0
                    if not self._wake.is_set():
                        self._idle.set()
                    await self._wake.wait()
                    continue
                self._idle.clear()
                self._oldest_us = batch.made_us
                await asyncio.to_thread(self._insert, batch)
            except (StoreError, OSError) as error:
                if str(error) != self._trouble:
                    log.warning("rows wait on disk: %s", error)
                self._trouble = str(error)
                await asyncio.sleep(delay * random.uniform(0.7, 1.0))  # noqa: S311 (no secret)
                delay = min(delay * 2, _LONGEST_DELAY_S)
            else:
                if self._trouble:
                    log.info("ClickHouse takes rows again")
                self._trouble = ""
                delay = _FIRST_DELAY_S
                self.inserted += batch.rows

    def health(self) -> tuple[bool, str]:
        """(well, in words)."""
        if self._quarantined:
            return False, (
                f"{self._quarantined} batches that ClickHouse cannot read are set aside in the quarantine folder; "
                "the hub's log says why"
            )
        waits = time.time() - self._oldest_us / 1e6 if self._oldest_us else 0.0
        if waits > _LATE_S:
            return False, f"rows wait on disk for {waits:.0f} s: {self._trouble or 'ClickHouse is slow'}"
        return True, self._trouble or "ClickHouse has everything"

    def _insert(self, batch: Batch) -> None:
        try:
            data = batch.path.read_bytes()
        except FileNotFoundError:
            self._set_aside(batch, f"{batch.path} is gone")
            return
        try:
            self._clickhouse.insert(batch.table, batch.columns, data, self._outbox.token(batch))
        except ClickHouseError as error:
            # Code 252 is also what a server answers that has too many parts for now; this is the other meaning.
            if error.code in _UNREADABLE or (error.code == 252 and "partitions for single" in str(error)):
                self._refusals += 1
            if self._refusals < _TRIES:
                raise
            self._set_aside(batch, str(error))
            return
        self._refusals = 0
        self._outbox.done(batch)

    def _set_aside(self, batch: Batch, why: str) -> None:
        moved = self._outbox.quarantine(batch, why)
        self._refusals = 0
        self._quarantined += 1
        log.critical(
            "batch %d (%d rows of %s) is set aside in %s: %s. Nothing else waits for it; mend the cause and insert it.",
            batch.number,
            batch.rows,
            batch.table,
            moved,
            why,
        )
