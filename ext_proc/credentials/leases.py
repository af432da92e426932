"""Values that expire: minted once for many waiters, minted anew while the old one still lives, given back at the end.

A `Mint` makes values; a `Leased` is the source that keeps one of them:

    lifetime   |------------------- used --------------------|---- used, and a new one is minted ----|-- not used --|
               0                                        four fifths                             nine tenths       end

The last fifth is at most five minutes, the last tenth at most ten seconds. A mint that fails is not asked again for a
second (five while the old value still serves). A value that was replaced is given back after `GRACE_S`, since requests
that carry it may be on their way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ext_proc.credentials.source import Recent, invalid, timed_out, unavailable
from ext_proc.errors import CredentialError, DouaneError

log = logging.getLogger("douane.credentials")

GRACE_S = 30.0
"""Seconds that a replaced value still lives, for the requests that carry it."""
PAUSE_S, REFRESH_PAUSE_S = 1.0, 5.0
"""Seconds until a mint that failed is asked again: when nothing serves, and when the old value still does."""
REVOKE_S = 5.0
"""Seconds that giving values back may take at the end."""

_EARLY, _MOST_EARLY = 0.2, 300.0
_MARGIN, _MOST_MARGIN = 0.1, 10.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A value and how long it may be used.

    `lifetime` is in seconds from when it was asked for. `secrets` came with it and must be masked as well. `handle` is
    what the mint needs to renew it or give it back; None where it cannot be given back.
    """

    value: bytes = field(repr=False)
    lifetime: float
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    handle: object = field(default=None, repr=False)


class Mint(Protocol):
    """Makes values that expire. `place` names it in messages; `timeout`: how many seconds making one may take."""

    place: str
    timeout: float

    async def mint(self, held: Lease | None) -> Lease:
        """A new value, or a longer life for the one `held` (then with the same `handle`). CredentialError."""
        ...

    async def revoke(self, lease: Lease) -> None:
        """Give a value back. CredentialError where that failed; nobody waits for it but the log."""
        ...

    def known(self) -> tuple[bytes, ...]:
        """Secrets that it needs itself."""
        ...


class Leased:
    """The source of what a mint makes. One event loop."""

    per_caller = False
    generation: tuple[str, object] | None = None

    def __init__(
        self, mint: Mint, clock: Callable[[], float] = time.monotonic, *, grace: float | None = GRACE_S
    ) -> None:
        """`grace`: seconds that a replaced value still lives; None: until its own end."""
        self.place = mint.place
        self._mint = mint
        self._clock = clock
        self._grace = grace
        self._lease: Lease | None = None
        self._refresh_at = self._until = float("-inf")
        self._minting: asyncio.Task[Lease] | None = None
        self._fault: CredentialError | None = None
        self._pause_until = float("-inf")
        self._recent = Recent()
        self._known: tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]] = ((), (), ())
        self._retiring: dict[asyncio.Task[None], Lease] = {}
        self._closed = False

    async def read(self, token: bytes | None = None) -> bytes:  # noqa: ARG002
        lease, now = self._lease, self._clock()
        if lease is not None and now < self._until:
            if now >= self._refresh_at and now >= self._pause_until and not self._closed:
                self._begin()
            return lease.value
        return (await self._fresh()).value

    @property
    def serves(self) -> bool:
        """Whether a value is at hand."""
        return self._lease is not None and self._clock() < self._until

    async def lease(self) -> tuple[Lease, float]:
        """What `read` reads, and until when (in the clock's time) it may be used."""
        await self.read()
        assert self._lease is not None
        return self._lease, self._until

    def forget(self) -> None:
        """The value turned out not to be accepted any more: the next reader gets a new one."""
        self._lease = None

    async def warm(self) -> None:
        await self.read()

    def known(self) -> tuple[bytes, ...]:
        mine, needed = self._recent.values, self._mint.known()
        if self._known[0] is not mine or self._known[1] != needed:
            self._known = (mine, needed, tuple(dict.fromkeys((*mine, *needed))))
        return self._known[2]

    async def close(self) -> None:
        """Wait for what is being minted, then give everything back, within REVOKE_S."""
        self._closed = True
        try:
            async with asyncio.timeout(REVOKE_S):
                if self._minting is not None:
                    await asyncio.wait({self._minting})
                held = [lease for lease in (self._lease, *self._retiring.values()) if lease is not None]
                for task in self._retiring:
                    task.cancel()
                self._lease = None
                await asyncio.gather(*(self._revoke(lease) for lease in held if lease.handle is not None))
        except TimeoutError:
            log.warning("%s did not take back its values within %g s", self.place, REVOKE_S)

    async def _fresh(self) -> Lease:
        if self._minting is None:
            if self._closed:
                raise unavailable(self.place, "is not used any more: the configuration changed")
            if self._fault is not None and self._clock() < self._pause_until:
                raise again(self._fault)
            self._begin()
        assert self._minting is not None
        # A request that leaves does not end the mint for the others.
        return await asyncio.shield(self._minting)

    def _begin(self) -> None:
        if self._minting is None:
            self._minting = asyncio.get_running_loop().create_task(self._run())
            self._minting.add_done_callback(_retrieved)

    async def _run(self) -> Lease:
        held, began = self._lease, self._clock()
        try:
            try:
                async with asyncio.timeout(self._mint.timeout):
                    lease = await self._mint.mint(held)
            except TimeoutError:
                raise timed_out(self.place, self._mint.timeout) from None
            self._take(lease, began)
        except CredentialError as fault:
            self._failed(fault)
            raise
        except Exception as error:
            # Neither the message nor the traceback of what is not ours: either may hold what it was working with.
            unforeseen = unavailable(self.place, f"failed ({type(error).__name__})", http_status=502)
            self._failed(unforeseen)
            raise unforeseen from None
        finally:
            self._minting = None
        return lease

    def _take(self, lease: Lease, began: float) -> None:
        if not lease.lifetime > 0:
            raise invalid(self.place, "answers a value that has expired already")
        old, old_until, self._lease = self._lease, self._until, lease
        self._recent.note(lease.value, *lease.secrets)
        self._refresh_at = began + lease.lifetime - min(lease.lifetime * _EARLY, _MOST_EARLY)
        self._until = began + lease.lifetime - min(lease.lifetime * _MARGIN, _MOST_MARGIN)
        self._fault = None
        if old is not None and old.handle is not None and old.handle != lease.handle:
            left = max(old_until - self._clock(), 0) + GRACE_S
            self._retire(old, left if self._grace is None else self._grace)
        if lease.handle is not None:
            self._retire_unused(lease)

    def _failed(self, fault: CredentialError) -> None:
        now = self._clock()
        self._fault = fault
        self._pause_until = now + (REFRESH_PAUSE_S if self.serves else PAUSE_S)
        if self.serves:
            log.warning("%s: %s; the present value serves %.0f s more", fault.reason, fault.message, self._until - now)

    def _retire_unused(self, lease: Lease) -> None:
        """Where nobody asks any more, nobody replaces it either, and not every source ends a value by itself."""
        delay = max(self._until - self._clock(), 0)
        asyncio.get_running_loop().call_later(delay, self._end_of, lease)

    def _end_of(self, lease: Lease) -> None:
        if self._lease is lease and self._minting is None and not self._closed:
            self._lease = None
            self._retire(lease, GRACE_S if self._grace is None else self._grace)

    def _retire(self, lease: Lease, delay: float) -> None:
        async def later() -> None:
            await asyncio.sleep(delay)
            await self._revoke(lease)

        task = asyncio.get_running_loop().create_task(later())
        self._retiring[task] = lease
        task.add_done_callback(lambda done: self._retiring.pop(done, None))

    async def _revoke(self, lease: Lease) -> None:
        try:
            await self._mint.revoke(lease)
        except DouaneError as fault:
            log.warning("%s could not take back a value: %s", self.place, fault.message)
        except Exception as error:
            log.warning("%s could not take back a value (%s)", self.place, type(error).__name__)


def again(fault: CredentialError) -> CredentialError:
    """The fault once more, as an object of its own: a traceback grows with each time that one is raised."""
    return CredentialError(
        fault.reason,
        fault.message,
        remedy=fault.remedy,
        http_status=fault.http_status,
        retryable=fault.retryable,
    )


def _retrieved(task: asyncio.Task[Lease]) -> None:
    """Where every waiter left, nobody else would look at the failure."""
    if not task.cancelled():
        task.exception()
