"""Sources of one's own: entry points in the group `douane.credentials` (docs/credentials.md has an example).

An entry point names a callable that takes `options` (what douane.yaml says, a mapping) and returns an object with

    async def mint(self, held: Lease | None) -> Lease     a value, see `Lease`; `held` is the one it takes the place of
    async def revoke(self, lease: Lease) -> None           optional: give a value back that has a `handle`
    def known(self) -> tuple[bytes, ...]                   optional: secrets of its own that must be masked

`mint` may raise CredentialError with a reason of its own; anything else it raises is `credential.unavailable` (502),
and what it says is shown to nobody, as it may hold the value.
"""

from __future__ import annotations

import inspect
import logging
from importlib.metadata import EntryPoint, entry_points

from ext_proc.config.sources import Plugin
from ext_proc.credentials.leases import Lease
from ext_proc.credentials.source import MAX_VALUE, invalid
from ext_proc.errors import ConfigError

log = logging.getLogger("douane.credentials")

GROUP = "douane.credentials"


class PluginMint:
    """What a plugin makes, checked. ConfigError `config.plugin` where it cannot be used at all."""

    def __init__(self, settings: Plugin) -> None:
        self.place = f"plugin {settings.name}"
        self.timeout = settings.timeout.total_seconds()
        self._theirs = _make(settings)
        self._known: tuple[bytes, ...] = ()

    async def mint(self, held: Lease | None) -> Lease:
        lease = await self._theirs.mint(held)  # type: ignore[attr-defined]  # looked for in _make
        if not isinstance(lease, Lease) or not isinstance(lease.value, bytes):
            raise invalid(self.place, "makes what is no Lease with bytes as its value")
        if len(lease.value) > MAX_VALUE:
            raise invalid(self.place, f"makes more than {MAX_VALUE >> 10} KiB")
        if not isinstance(lease.secrets, tuple) or not all(isinstance(secret, bytes) for secret in lease.secrets):
            raise invalid(self.place, "makes a Lease whose secrets are no tuple of bytes")
        self._known = self._ask()  # before the value is used: what cannot be known is not masked
        return lease

    async def revoke(self, lease: Lease) -> None:
        revoke = getattr(self._theirs, "revoke", None)
        if revoke is not None:
            await revoke(lease)

    def known(self) -> tuple[bytes, ...]:
        """What the plugin says; where it fails, what it said before, so that no other request fails with it."""
        try:
            self._known = self._ask()
        except Exception as error:
            log.warning("%s cannot say what it knows (%s)", self.place, type(error).__name__)
        return self._known

    def _ask(self) -> tuple[bytes, ...]:
        known = getattr(self._theirs, "known", None)
        values = known() if known is not None else ()
        return tuple(value for value in values if isinstance(value, bytes))


def _make(settings: Plugin) -> object:
    entry = _entry(settings.name)
    try:
        factory = entry.load()
        made: object = factory(settings.options)
    except Exception as error:
        # the options may hold what should be secret, so nothing of the message is shown
        raise ConfigError(
            "config.plugin",
            f"the plugin {settings.name} ({entry.value}) cannot be started: {type(error).__name__}",
            remedy="Its own tests can tell more; correct it or its `options`.",
        ) from None
    if not inspect.iscoroutinefunction(getattr(made, "mint", None)):
        raise ConfigError(
            "config.plugin",
            f"the plugin {settings.name} ({entry.value}) has no `async def mint(self, held)`",
            remedy="docs/credentials.md shows one.",
        )
    return made


def _entry(name: str) -> EntryPoint:
    found = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            "config.plugin",
            f"{len(found)} installed packages offer a plugin {name}",
            remedy=f"Uninstall all but one of: {', '.join(sorted(entry.value for entry in found))}.",
        )
    names = sorted({entry.name for entry in entry_points(group=GROUP)})
    raise ConfigError(
        "config.plugin",
        f"no installed package offers a plugin {name}",
        remedy=f"Install it beside Douane. Known: {', '.join(names) or 'none'}.",
    )
