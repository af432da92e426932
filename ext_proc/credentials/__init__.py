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
        self._sources = tuple((credential, open_source(credential.source)) for credential in credentials)

    async def resolve(self) -> tuple[Injection, ...]:
        """Every credential, in the order of douane.yaml; all or none.

        CredentialError `credential.unavailable` (503, or 502 where a command refuses), `credential.timeout` (503) or
        `credential.invalid` (502); it names the credential and its source, never the value.
        """
        injections = []
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
            injections.append(inject(credential, secret, source.place))
            self._remember(credential.label, secret)
        return tuple(injections)

    def known(self) -> tuple[tuple[str, bytes], ...]:
        """(label, secret) of what was resolved last, and before it was replaced: what must be masked wherever it is."""
        return tuple((label, secret) for label, secrets in self._known.items() for secret in secrets)

    def _remember(self, label: str, secret: bytes) -> None:
        secrets = self._known.get(label, ())
        if secret not in secrets:
            self._known[label] = (secret, *secrets[:1])


def read_once(source: CredentialSource) -> bytes:
    """A value needed once at start (a key of ours). CredentialError as in `Credentials.resolve`."""
    return asyncio.run(open_source(source).read())
