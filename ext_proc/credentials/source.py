"""What every source of a credential is to the rest: something that can be read, and tells what must be masked.

No message, log line or repr of a source holds a value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

from ext_proc.errors import CredentialError

MAX_VALUE = 64 * 1024
"""Bytes that a value may have at most."""

_AGAIN = "Try again shortly; the operator of the gate can correct it."
ATTEMPTS = 5
"""How often values that must belong together are read before it is given up."""


class Source(Protocol):
    """Where one value comes from. `place` names it in messages: `env DD_KEY`.

    `per_caller`: the value belongs to the caller whose token `read` was given. `generation`: (whole, version) that the
    value read last is a part of; the sources of one whole (the keys of a mounted Secret) must agree on it.
    """

    place: str
    per_caller: bool
    generation: tuple[str, object] | None

    async def read(self, token: bytes | None = None) -> bytes:
        """The value as it is now; `token` is the caller's own. CredentialError `credential.unavailable`,
        `credential.timeout`, `credential.refused`, `credential.invalid` or `credential.no_token`."""
        ...

    async def warm(self) -> None:
        """Read what can be read before any caller is there, so that it is known."""
        ...

    def known(self) -> tuple[bytes, ...]:
        """Every secret it holds: what it yielded last and before, and what it needs itself. The same object while
        nothing changed."""
        ...

    async def close(self) -> None:
        """Give back what was got, as far as the source can take it. It is not read any more."""
        ...


class Recent:
    """The values last seen and those before them, which may still be on their way."""

    def __init__(self) -> None:
        self.values: tuple[bytes, ...] = ()
        self._now: tuple[bytes, ...] = ()

    def note(self, *values: bytes) -> None:
        if values != self._now:
            self.values = tuple(dict.fromkeys(value for value in (*values, *self._now) if value))
            self._now = values


class PlainSource(ABC):
    """A source that has nothing to give back, and the same value for every caller."""

    per_caller = False
    generation: tuple[str, object] | None = None

    def __init__(self, place: str) -> None:
        self.place = place
        self._recent = Recent()

    @abstractmethod
    async def read(self, token: bytes | None = None) -> bytes:
        """As `Source.read`."""

    async def warm(self) -> None:
        await self.read()

    def known(self) -> tuple[bytes, ...]:
        return self._recent.values

    async def close(self) -> None:
        return


def agree(sources: Iterable[Source]) -> bool:
    """Whether the values read last that are parts of one whole are of one generation."""
    seen: dict[str, object] = {}
    return all(
        seen.setdefault(source.generation[0], source.generation) == source.generation
        for source in sources
        if source.generation is not None
    )


async def read_together(sources: Sequence[Source], token: bytes | None = None) -> list[bytes]:
    """Every value, those that are parts of one whole from one generation of it. CredentialError as in `read`."""
    for _ in range(ATTEMPTS):
        values = [await source.read(token) for source in sources]
        if agree(sources):
            return values
    raise changing(sources[0].place)


def without_line_break(value: bytes) -> bytes:
    return value.removesuffix(b"\n").removesuffix(b"\r")


def unavailable(place: str, why: str, http_status: int = 503, detail: str = "") -> CredentialError:
    """The source is away or cannot serve."""
    return CredentialError(
        "credential.unavailable",
        f"{place} {why}",
        remedy=_AGAIN,
        http_status=http_status,
        retryable=True,
        detail=detail,
    )


def changing(place: str) -> CredentialError:
    return unavailable(place, "changes while it is read")


def timed_out(place: str, seconds: float) -> CredentialError:
    return CredentialError("credential.timeout", f"{place} took more than {seconds:g} s", remedy=_AGAIN, retryable=True)


def refused(place: str, why: str) -> CredentialError:
    """The source answers, and says no."""
    return CredentialError(
        "credential.refused",
        f"{place} {why}",
        remedy="The operator of the gate must correct its configuration, or the right it needs there.",
        http_status=502,
    )


def invalid(place: str, why: str) -> CredentialError:
    """The source answers what cannot be used."""
    return CredentialError("credential.invalid", f"{place} {why}", remedy="Correct it at its source.", http_status=502)
