"""Issuers' keys in memory: fetched once for many waiters, refreshed, served stale while an issuer is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from ext_proc.config import Issuer
from ext_proc.errors import IdentityError
from ext_proc.oidc.fetch import DEADLINE, FetchError, Source, fetch_keys
from ext_proc.oidc.keys import Key, select

_log = logging.getLogger(__name__)


class KeySets:
    """Key sets by source (issuer, jwks_uri, ca_file); lives as long as the process, across reloads. One event loop.

    An unknown key id makes it ask the issuer again, at most once in `cooldown` seconds; keys are asked for anew after
    `refresh_after`, in the background; after a failure there is a pause of `retry`.
    """

    def __init__(
        self,
        *,
        cooldown: float = 10.0,
        refresh_after: float = 300.0,
        retry: float = 1.0,
        fetch: Callable[[Source], tuple[Key, ...]] = fetch_keys,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cooldown = cooldown
        self._refresh_after = refresh_after
        self._retry = retry
        self._fetch = fetch
        self._clock = clock
        self._sets: dict[Source, _KeySet] = {}

    async def keys(self, issuer: Issuer, kid: str | None, algorithm: str) -> tuple[Key, ...]:
        """The keys that may have signed a token, mostly one, perhaps none.

        IdentityError `identity.issuer_unavailable` (503) where that cannot be known now: there are no keys younger
        than `max_stale`, or the one asked for is new and the issuer is away.
        """
        keyset = self._of(issuer)
        now = self._clock()
        if not keyset.serves(now, issuer):
            if keyset.idle(now, self._retry):
                await keyset.refresh()
            if not keyset.serves(self._clock(), issuer):
                raise _unavailable(issuer, keyset.failure)
        elif keyset.age(now) > self._refresh_after and keyset.idle(now, self._cooldown):
            keyset.begin_refresh()
        found = select(keyset.keys, kid, algorithm)
        if not found and keyset.idle(self._clock(), self._cooldown):
            await keyset.refresh()
            found = select(keyset.keys, kid, algorithm)
        if not found and keyset.failure:
            raise _unavailable(issuer, keyset.failure)
        return found

    def generation(self, issuer: Issuer) -> int | None:
        """A number that changes with the issuer's keys; None where they are due to be looked at again."""
        keyset = self._of(issuer)
        now = self._clock()
        due = keyset.age(now) > self._refresh_after and keyset.idle(now, self._cooldown)
        return None if due or not keyset.serves(now, issuer) else keyset.generation

    async def close(self) -> None:
        """Stop refreshing."""
        tasks = [keyset.task for keyset in self._sets.values() if keyset.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _of(self, issuer: Issuer) -> _KeySet:
        source = Source(issuer.issuer, issuer.jwks_uri, issuer.ca_file)
        keyset = self._sets.get(source)
        if keyset is None:
            keyset = self._sets[source] = _KeySet(source, self._fetch, self._clock)
        return keyset


class _KeySet:
    def __init__(self, source: Source, fetch: Callable[[Source], tuple[Key, ...]], clock: Callable[[], float]) -> None:
        self.keys: tuple[Key, ...] = ()
        self.generation = 0
        self.failure = ""
        self.task: asyncio.Task[None] | None = None
        self._source = source
        self._fetch = fetch
        self._clock = clock
        self._fetched: float | None = None
        self._attempted: float | None = None

    def age(self, now: float) -> float:
        return float("inf") if self._fetched is None else now - self._fetched

    def serves(self, now: float, issuer: Issuer) -> bool:
        return self.age(now) <= issuer.max_stale.total_seconds()

    def idle(self, now: float, pause: float) -> bool:
        """Whether the last attempt is over and at least `pause` ago; one under way may always be joined."""
        return self.task is not None or self._attempted is None or now - self._attempted >= pause

    async def refresh(self) -> None:
        """Ask the issuer, or wait for the one who does. A waiter that leaves does not end it for the others."""
        await asyncio.shield(self.begin_refresh())

    def begin_refresh(self) -> asyncio.Task[None]:
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._run())
        return self.task

    async def _run(self) -> None:
        try:
            keys = await asyncio.wait_for(asyncio.to_thread(self._fetch, self._source), 2 * DEADLINE)
        except FetchError as error:
            self._failed(str(error))
        except TimeoutError:
            self._failed(f"{self._source.issuer} took more than {2 * DEADLINE:g} s")
        except Exception as error:
            _log.exception("identity.issuer_unavailable: unexpected")
            self._failed(type(error).__name__)
        else:
            # An issuer that lists no key any more has withdrawn them all; that is an answer, not a failure.
            if keys != self.keys or self._fetched is None:
                self.generation += 1
            self.keys, self.failure, self._fetched = keys, "", self._clock()
        finally:
            self._attempted = self._clock()
            self.task = None

    def _failed(self, why: str) -> None:
        self.failure = why
        _log.warning("identity.issuer_unavailable: %s", why)


def _unavailable(issuer: Issuer, detail: str) -> IdentityError:
    return IdentityError(
        "identity.issuer_unavailable",
        f"the keys of the issuer {issuer.issuer} cannot be had at the moment",
        remedy="Try again shortly; the gate's log says why.",
        http_status=503,
        retryable=True,
        detail=detail,
    )
