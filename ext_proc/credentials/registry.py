"""Which sources are open. Equal ones are one, so that a changed configuration does not mint everything anew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from ext_proc import config
from ext_proc.config.sources import Vault
from ext_proc.credentials.command import Command
from ext_proc.credentials.datadog import ApplicationKeys
from ext_proc.credentials.files import EnvSource, FileSource, KubernetesSource
from ext_proc.credentials.github import InstallationTokens
from ext_proc.credentials.leases import REVOKE_S, Leased
from ext_proc.credentials.oauth import CallerExchange, ClientCredentials, workload_exchange
from ext_proc.credentials.plugins import PluginMint
from ext_proc.credentials.source import Source
from ext_proc.credentials.vault import Login, Secret
from ext_proc.errors import ConfigError

log = logging.getLogger("douane.credentials")

S = TypeVar("S", bound=Source)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What sources need to know of the gate: its name, and the file with the workload's own token."""

    gate: str = "local"
    workload_token_file: str | None = None


class Sources:
    """Every open source of this process. One event loop."""

    def __init__(self) -> None:
        self._open: dict[object, Source] = {}
        self._needs: dict[int, list[Source]] = {}  # by the source's id: what it reads from
        self._opening: list[list[Source]] = []

    def open(self, settings: config.CredentialSource, around: Surroundings) -> Source:
        """The source, opened if it is not yet. ConfigError where it can never serve. No I/O."""
        key = (type(settings).__name__, settings.model_dump_json(), around)
        return self._share(key, lambda: self._make(settings, around))

    async def keep(self, used: Iterable[Source]) -> None:
        """Close all but these and what they read from."""
        kept = set()
        todo = list(used)
        while todo:
            source = todo.pop()
            if id(source) not in kept:
                kept.add(id(source))
                todo += self._needs.get(id(source), [])
        gone = {key: source for key, source in self._open.items() if id(source) not in kept}
        for key in gone:
            del self._open[key]
        await self._close(list(gone.values()))

    async def close(self) -> None:
        """Give back everything, within REVOKE_S."""
        try:
            async with asyncio.timeout(REVOKE_S):
                await self.keep(())
        except TimeoutError:
            log.warning("not every source took back its values within %g s", REVOKE_S)

    async def _close(self, gone: list[Source]) -> None:
        """What reads from others first: a lease is revoked with the token that it was got with."""
        while gone:
            needed = {id(source) for other in gone for source in self._needs.get(id(other), [])}
            first = [source for source in gone if id(source) not in needed]
            gone = [source for source in gone if id(source) in needed]
            await asyncio.gather(*(source.close() for source in first))
            for source in first:
                self._needs.pop(id(source), None)

    def _share(self, key: object, make: Callable[[], Source]) -> Source:
        source = self._open.get(key)
        if source is None:
            self._opening.append([])
            try:
                source = make()
            finally:
                needs = self._opening.pop()
            self._open[key] = source
            self._needs[id(source)] = needs
        if self._opening:
            self._opening[-1].append(source)
        return source

    def _make(self, settings: config.CredentialSource, around: Surroundings) -> Source:
        match settings:
            case config.SourceEnv():
                return EnvSource(settings.env)
            case config.SourceFile():
                return FileSource(settings.file)
            case config.SourceExec():
                return Leased(Command(settings))
            case config.SourceKubernetes():
                return KubernetesSource(settings.kubernetes.mount, settings.kubernetes.key)
            case config.SourceVault():
                return Leased(Secret(settings.vault, self._login(settings.vault, around)))
            case config.SourceOAuth2():
                of = settings.oauth2
                return Leased(
                    ClientCredentials(of, self._opt(of.client_secret, around), self._opt(of.private_key, around))
                )
            case config.SourceTokenExchange():
                to = settings.token_exchange
                secret, key = self._opt(to.client_secret, around), self._opt(to.private_key, around)
                if to.subject == "caller":
                    return CallerExchange(to, secret, key)
                return workload_exchange(to, secret, key, self._workload(around))
            case config.SourceGithubApp():
                return Leased(
                    InstallationTokens(settings.github_app, self.open(settings.github_app.private_key, around))
                )
            case config.SourceDatadog():
                dd = settings.datadog
                keys = self.open(dd.api_key, around), self.open(dd.app_key, around)
                return Leased(ApplicationKeys(dd, around.gate, *keys))
            case config.SourcePlugin():
                return Leased(PluginMint(settings.plugin))

    def _opt(self, settings: config.SecretSource | None, around: Surroundings) -> Source | None:
        return None if settings is None else self.open(settings, around)

    def _workload(self, around: Surroundings) -> Source:
        if around.workload_token_file is None:
            raise ConfigError(
                "config.workload_token",
                "a credential needs the workload's own token",
                remedy="Set gate.workload_token_file to the file that holds it.",
            )
        return self.open(config.SourceFile(file=around.workload_token_file), around)

    def _login(self, settings: Vault, around: Surroundings) -> Leased:
        """Secrets of one Vault that are read with the same login share it."""
        key = ("login", settings.url, settings.namespace, settings.ca_file, settings.auth.model_dump_json(), around)

        def make() -> Leased:
            auth, parts = settings.auth, dict[str, Source]()
            if auth.approle is not None:
                parts["role_id"] = self.open(auth.approle.role_id, around)
                if auth.approle.secret_id is not None:
                    parts["secret_id"] = self.open(auth.approle.secret_id, around)
            elif auth.jwt is not None:
                jwt = auth.jwt
                parts["jwt"] = self.open(jwt.token, around) if jwt.token is not None else self._workload(around)
            given = self._opt(auth.token, around)
            return Leased(Login(settings, given, parts), grace=None)

        login = self._share(key, make)
        assert isinstance(login, Leased)
        return login
