"""Credentials: the real values, fetched when a request needs them and formed for their place."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ext_proc.config import Credential, CredentialSource
from ext_proc.credentials.injection import Injection, check_place, inject
from ext_proc.credentials.sources import open_source
from ext_proc.errors import CredentialError

__all__ = ["Credentials", "Injection", "read_once"]


class Credentials:
    """The credentials of one connection. ConfigError where one can never be formed."""

    def __init__(self, credentials: Sequence[Credential]) -> None:
        for credential in credentials:
            check_place(credential)
        self._known: dict[str, tuple[bytes, ...]] = {}
        self._all_known: tuple[tuple[str, bytes], ...] = ()
        self._current: tuple[list[bytes], tuple[Injection, ...]] | None = None
        self._sources = tuple((credential, open_source(credential.source)) for credential in credentials)

    async def resolve(self) -> tuple[Injection, ...]:
        """Every credential, in the order of douane.yaml; all or none. The same object while nothing changed.

        CredentialError `credential.unavailable` (503, or 502 where a command refuses), `credential.timeout` (503) or
        `credential.invalid` (502); it names the credential and its source, never the value.
        """
        secrets: list[tuple[bytes, Credential, str]] = []
        for credential, source in self._sources:
            try:
                secret = await source.read()
            except CredentialError as error:
                raise CredentialError(
                    error.reason,
                    f"the credential {credential.label}: {error.message}",
                    remedy=error.remedy,
                    http_status=error.http_status,
                    retryable=error.retryable,
                ) from None
            secrets.append((secret, credential, source.place))
        values = [secret for secret, _, _ in secrets]
        if self._current is None or self._current[0] != values:
            injections = tuple(inject(credential, secret, place) for secret, credential, place in secrets)
            self._current = (values, injections)
            for secret, credential, _ in secrets:
                self._remember(credential.label, secret)
        return self._current[1]

    def known(self) -> tuple[tuple[str, bytes], ...]:
        """(label, secret) of what was resolved last, and before it was replaced: what must be masked wherever it is."""
        return self._all_known

    def _remember(self, label: str, secret: bytes) -> None:
        secrets = self._known.get(label, ())
        if secret not in secrets:
            self._known[label] = (secret, *secrets[:1])
            self._all_known = tuple((name, value) for name, values in self._known.items() for value in values)


def read_once(source: CredentialSource) -> bytes:
    """A value needed once at start (a key of ours). CredentialError as in `Credentials.resolve`."""
    return asyncio.run(open_source(source).read())
