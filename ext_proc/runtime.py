"""Compiles a configuration into what a stream needs, and swaps it atomically. A stream keeps what it began with."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ext_proc import config
from ext_proc.credentials import Credentials, Sources, Surroundings
from ext_proc.decision import Obligations
from ext_proc.errors import DouaneError
from ext_proc.exchange import Exchange
from ext_proc.hubclient.counters import HubCounters
from ext_proc.masking import ExchangeMasker, Known, Masker
from ext_proc.oidc import KeySets, Presented, Verifier
from ext_proc.rules import Grants, Policies, all_operations
from ext_proc.stages.approval import ApprovalStage
from ext_proc.stages.credential import CredentialStage, Target
from ext_proc.stages.identity import IdentityStage, WorkloadToken
from ext_proc.stages.policy import PolicyStage
from ext_proc.stages.session import SessionEndpoint
from ext_proc.xds.naming import route_name
from ext_proc.xds.upstream import upstream

if TYPE_CHECKING:
    from ext_proc.hubclient import Authority

log = logging.getLogger("douane.runtime")

_MASKERS = 64
"""Maskers kept: a job's requests have the same token, and to compile its forms takes a millisecond."""


@dataclass(frozen=True, slots=True)
class CompiledConnection:
    name: str
    route: str
    config: config.Connection
    credentials: Credentials
    approval: ApprovalStage
    credential: CredentialStage
    credential_headers: tuple[str, ...]
    upstream_host: str
    inspected: bool
    """Its responses are looked into: Envoy hands them over, and takes back what may pass."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One configuration, compiled. Immutable."""

    digest: str
    text: str
    identity: IdentityStage
    policy: PolicyStage
    sessions: SessionEndpoint
    masker: Masker
    masks_for_client: bool
    """Clients are spared what is masked in responses, as the ledger is."""
    max_decoded: int
    connections: dict[str, CompiledConnection]
    maskers: OrderedDict[Hashable, ExchangeMasker] = field(default_factory=OrderedDict, repr=False)

    def exchange_masker(
        self,
        connection: CompiledConnection,
        exchange: Exchange,
        presented: Presented,
        secrets: Sequence[tuple[str, bytes]],
        obligations: Obligations,
        own: Sequence[tuple[str, bytes]] = (),
    ) -> ExchangeMasker:
        """The masker of one exchange: the caller's tokens, what it sent in a credential's place, and the real ones;
        `secrets` (name, value) are others that must not be stored, `obligations` say what else is masked, `own`
        (label, value) are credentials of this exchange alone."""
        sent = [v for name in connection.credential_headers for v in exchange.headers.all(name)]
        known = (*connection.credentials.known(), *own) if own else connection.credentials.known()
        more = (obligations.mask_headers, obligations.mask_json)
        key = (known, presented.tokens, presented.placeholders, tuple(sent), tuple(secrets), more)

        def make() -> ExchangeMasker:
            rules = self.masker.also(*more) if any(more) else self.masker
            return self._new_masker(rules, known, sent, presented, secrets)

        return self._kept(key, make)

    def narrow_masker(self, connection: CompiledConnection, json_paths: tuple[str, ...]) -> ExchangeMasker:
        """Only for what is at these paths, and for the connection's credentials."""
        known = connection.credentials.known()
        return self._kept(
            ("narrow", known, json_paths),
            lambda: self.masker.only(json_paths).exchange(
                [Known(f"credential:{label}", value, redact=True) for label, value in known]
            ),
        )

    def _kept(self, key: Hashable, make: Callable[[], ExchangeMasker]) -> ExchangeMasker:
        masker = self.maskers.get(key)
        if masker is None:
            masker = self.maskers[key] = make()
            if len(self.maskers) > _MASKERS:
                self.maskers.popitem(last=False)
        return masker

    def credentials_masker(self) -> ExchangeMasker:
        """For a request that no worker saw: neither its headers are known nor, always, its connection."""
        known = [
            Known(f"credential:{label}", value, redact=True)
            for connection in self.connections.values()
            for label, value in connection.credentials.known()
        ]
        return self.masker.exchange(known)

    def _new_masker(
        self,
        rules: Masker,
        credentials: Sequence[tuple[str, bytes]],
        sent: Sequence[bytes],
        presented: Presented,
        secrets: Sequence[tuple[str, bytes]],
    ) -> ExchangeMasker:
        known = [Known(f"credential:{label}", value, redact=True) for label, value in credentials]
        known += [Known(name, value) for name, value in secrets]
        known += [Known("token", token) for token in presented.tokens]
        known += [Known("placeholder", value) for value in presented.placeholders]
        known += [Known("placeholder", value) for value in sent if value and value not in presented.tokens]
        return rules.exchange(known)


class Runtime:
    """The current snapshot and the one before it, for streams that Envoy routed by the former routes."""

    def __init__(self, authority: Authority, fingerprint_key: bytes, seal_key: bytes | None) -> None:
        self._authority = authority
        self._fingerprint_key = fingerprint_key
        self._seal_key = seal_key
        self._keysets = KeySets()
        self._sources = Sources()
        self._snapshots: tuple[Snapshot, ...] = ()

    @property
    def current(self) -> Snapshot:
        return self._snapshots[0]

    def apply(self, loaded: config.Loaded) -> Snapshot:
        """Compile and make current. Raises ConfigError and keeps the last good one."""
        snapshot = self._compile(loaded)
        self._snapshots = (snapshot, *self._snapshots[:1])
        return snapshot

    async def warm(self) -> None:
        """Fetch every credential once, so that it is masked even in requests that are refused before one is needed;
        and give back what no configuration that is in use needs any more."""
        for connection in self.current.connections.values():
            try:
                await connection.credentials.warm()
            except DouaneError as fault:
                log.warning("connection %s: %s", connection.name, fault)
        used = (c.credentials.sources for s in self._snapshots for c in s.connections.values())
        await self._sources.keep([source for sources in used for source in sources])

    async def close(self) -> None:
        """Stop asking issuers, and give back credentials where their source takes them."""
        await self._keysets.close()
        await self._sources.close()

    def lookup(self, route: str) -> tuple[Snapshot, CompiledConnection] | None:
        """The newest snapshot that has exactly this route: connection and upstream. A credential is thus never sent to
        an upstream that it was not configured with."""
        for snapshot in self._snapshots:
            connection = snapshot.connections.get(route)
            if connection is not None:
                return snapshot, connection
        return None

    def _compile(self, loaded: config.Loaded) -> Snapshot:
        settings = loaded.config
        verifier = Verifier(settings.issuers, self._keysets)
        operations = all_operations(settings)
        token_file = settings.gate.workload_token_file
        around = Surroundings(settings.gate.name, token_file)
        inspected = config.inspected(settings)
        connections = {}
        for name, connection in settings.connections.items():
            credentials = Credentials(connection.credentials, self._sources, around)
            target = upstream(name, connection)
            route = route_name(name, connection, inspected)
            # a client's own signature is made with a key that is none, and differs from request to request
            places = [c.place for c in connection.credentials if c.query is None and c.sigv4 is None]
            headers = [place.removeprefix("header:") for place in places]
            connections[route] = CompiledConnection(
                name=name,
                route=route,
                config=connection,
                credentials=credentials,
                approval=ApprovalStage(
                    self._authority,
                    connection,
                    settings.gate.name,
                    [c.label for c in connection.credentials],
                    upstream=connection.upstream,
                ),
                credential=CredentialStage(
                    credentials, connection.identity.headers, Target(target.authority, target.prefix)
                ),
                credential_headers=tuple(dict.fromkeys(headers)),
                upstream_host=urlsplit(connection.upstream).netloc,
                inspected=name in inspected,
            )
        return Snapshot(
            digest=loaded.digest,
            text=loaded.text,
            identity=IdentityStage(verifier, self._authority, WorkloadToken(Path(token_file)) if token_file else None),
            policy=PolicyStage(
                Grants(settings, operations),
                Policies(settings, operations),
                settings.recording.max_decoded,
                HubCounters(self._authority, settings.sessions.window),
            ),
            sessions=SessionEndpoint(self._authority),
            masker=Masker(
                settings.masking, self._fingerprint_key, settings.recording.max_decoded, seal_key=self._seal_key
            ),
            masks_for_client=settings.masking.response == "client",
            max_decoded=settings.recording.max_decoded,
            connections=connections,
        )
