"""Credentials: the real values, fetched when a request needs them and formed for their place."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ext_proc.config import Credential, CredentialSource, LocalSource, SigV4
from ext_proc.credentials.injection import Injection, check_place, inject
from ext_proc.credentials.leases import Lease
from ext_proc.credentials.registry import Sources, Surroundings
from ext_proc.credentials.sigv4 import Leaving, Signer, keys_of
from ext_proc.credentials.source import ATTEMPTS, Recent, Source, agree, changing
from ext_proc.errors import CredentialError

__all__ = [
    "Credentials",
    "Injection",
    "Lease",
    "Leaving",
    "Signature",
    "Sources",
    "Surroundings",
    "read_once",
]

_REMEMBERED = 64
"""Sets of values that are kept formed: more than one where they depend on the caller."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A credential that signs the request."""

    label: str
    signer: Signer = field(repr=False)


Resolved = tuple[Injection | Signature, ...]


class Credentials:
    """The credentials of one connection. ConfigError where one can never be formed."""

    def __init__(
        self,
        credentials: Sequence[Credential],
        sources: Sources | None = None,
        around: Surroundings = Surroundings(),  # noqa: B008 (immutable)
    ) -> None:
        opened = sources if sources is not None else Sources()
        for credential in credentials:
            check_place(credential)
        self._parts = tuple((one, tuple(opened.open(s, around) for s in _settings(one))) for one in credentials)
        self.sources: tuple[Source, ...] = tuple(source for _, of in self._parts for source in of)
        self._made: OrderedDict[tuple[bytes, ...], Resolved] = OrderedDict()
        self._keys = {credential.label: Recent() for credential in credentials if credential.sigv4 is not None}
        self._held: list[tuple[bytes, ...]] = []
        self._known: tuple[tuple[str, bytes], ...] = ()

    async def resolve(self, token: bytes | None = None) -> Resolved:
        """Every credential, in the order of douane.yaml; all or none. The same object while nothing changed. `token`
        is the caller's own, for a source that depends on it.

        CredentialError `credential.unavailable` (503, or 502 where a command refuses), `credential.timeout` (503),
        `credential.refused` or `credential.invalid` (502); it names the credential and its source, never the value.
        """
        for _ in range(ATTEMPTS):
            values = await self._read(token)
            if agree(self.sources):
                break
        else:
            raise changing(self.sources[0].place)
        made = self._made.get(values)
        if made is None:
            left = iter(values)
            made = self._made[values] = tuple(self._form(one, of, [next(left) for _ in of]) for one, of in self._parts)
            if len(self._made) > _REMEMBERED:
                self._made.popitem(last=False)
        return made

    async def warm(self) -> None:
        """Fetch what does not depend on a caller, so that it is known. CredentialError of the first that cannot be
        had, after all were tried."""
        faults: list[CredentialError] = []
        for credential, of in self._parts:
            for source in of:
                try:
                    await source.warm()
                except CredentialError as fault:
                    faults.append(_named(credential, fault))
        if faults:
            raise faults[0]
        if not any(source.per_caller for source in self.sources):
            await self.resolve()

    def known(self) -> tuple[tuple[str, bytes], ...]:
        """(label, secret) of all that the sources hold now and held before: what must be masked wherever it is."""
        held = [source.known() for source in self.sources]
        held += [recent.values for recent in self._keys.values()]
        if held != self._held:
            self._held = held
            labels = [credential.label for credential, of in self._parts for _ in of] + list(self._keys)
            known = ((label, value) for label, values in zip(labels, held, strict=True) for value in values if value)
            self._known = tuple(dict.fromkeys(known))
        return self._known

    async def _read(self, token: bytes | None) -> tuple[bytes, ...]:
        values = []
        credential = None
        try:
            for credential, of in self._parts:  # noqa: B007 (named in the fault)
                for source in of:
                    values.append(await source.read(token))  # noqa: PERF401 (one after the other)
        except CredentialError as fault:
            assert credential is not None
            raise _named(credential, fault) from None
        return tuple(values)

    def _form(self, credential: Credential, of: Sequence[Source], values: list[bytes]) -> Injection | Signature:
        if credential.sigv4 is None:
            return inject(credential, values[0], of[0].place, own=of[0].per_caller)
        try:
            keys = keys_of(values, of[0].place)
        except CredentialError as fault:
            raise _named(credential, fault) from None
        self._keys[credential.label].note(*keys.secrets())
        return Signature(credential.label, Signer(credential.sigv4, keys))


def _settings(credential: Credential) -> tuple[CredentialSource, ...]:
    """The sources of a credential's values, in the order of `sigv4.keys_of`."""
    if credential.source is not None:
        return (credential.source,)
    assert isinstance(credential.sigv4, SigV4)
    parts = (credential.sigv4.access_key_id, credential.sigv4.secret_access_key, credential.sigv4.session_token)
    return tuple(part for part in parts if part is not None)


def _named(credential: Credential, fault: CredentialError) -> CredentialError:
    return CredentialError(
        fault.reason,
        f"the credential {credential.label}: {fault.message}",
        remedy=fault.remedy,
        http_status=fault.http_status,
        retryable=fault.retryable,
        detail=fault.detail,
    )


def read_once(source: LocalSource) -> bytes:
    """A value needed once at start (a key of ours). CredentialError as in `Credentials.resolve`."""
    return asyncio.run(Sources().open(source, Surroundings()).read())
