"""The shape of douane.yaml: frozen, strict, without I/O.

Each field's description is what `docs/configuration.md` and the published JSON Schema show. Paths are as written,
unless validated with the context `{"base_dir": FOLDER}`, as `load` does: then every path is absolute.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ext_proc.config.approvals import Approvals, HoldAnswer
from ext_proc.config.base import Model
from ext_proc.config.credentials import Credential
from ext_proc.config.packs import PackUse
from ext_proc.config.policies import Operations, Policy, Sessions
from ext_proc.config.scalars import (
    Duration,
    HeaderName,
    Host,
    Listen,
    Name,
    PathText,
    ScopeName,
    Size,
    absolute_after,
)
from ext_proc.config.sources import LocalSource


class Store(Model):
    url: Annotated[str, absolute_after("embedded:")] = "embedded:./var/store"
    """Where the ledger lives: `embedded:FOLDER`, or `clickhouse+http(s)://USER@HOST:PORT/DATABASE`."""
    password: LocalSource | None = None
    """The writer's password on a ClickHouse server."""
    listen: Listen = "127.0.0.1:15123"
    """Where the embedded store answers ClickHouse's HTTP interface."""
    ca_file: PathText | None = None
    """Trust this CA bundle instead of the system's for the ClickHouse server."""
    cluster: str | None = None
    """Render the schema ON CLUSTER with Replicated engines, for this cluster name."""


class Console(Model):
    listen: Listen = "127.0.0.1:15000"
    """`/readyz` answers 200 here once traffic can flow; approvers decide here."""
    url: str | None = None
    """The console's address as people reach it, for links; by default `http://` and `listen`."""


class Tls(Model):
    """Files for mutual TLS between a gate and the hub, PEM."""

    cert_file: PathText
    """This side's certificate chain."""
    key_file: PathText
    """Its private key."""
    ca_file: PathText
    """The CA that signed the other side's certificate."""


class Hub(Model):
    path: PathText = "./var/hub"
    """What the hub received and has not yet handed to ClickHouse, and its state."""
    listen: Annotated[str, absolute_after("unix:")] = "unix:./var/run/hub.sock"
    """`unix:PATH`, or `HOST:PORT` with `tls`."""
    url: Annotated[str, absolute_after("unix:")] | None = None
    """Where a gate finds the hub; by default where `listen` says."""
    tls: Tls | None = None
    """Required for a hub that is not on a unix socket."""


class Gate(Model):
    name: str = "local"
    """This gate's name in the ledger."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """ext_proc processes, one unix socket each."""
    run_dir: PathText = "./var/run"
    """Sockets, Envoy's files, logs; private to this user."""
    tls_listen: Listen | None = None
    """TLS mode: one port that serves every connection's `hosts` by SNI."""
    health_listen: Listen | None = None
    """A gate alone answers `/readyz` here."""
    workload_token_file: PathText | None = None
    """The pod's own OIDC token, for connections with `require: workload` or `both`; re-read when it changes."""
    drain: Duration = timedelta(seconds=10)
    """How long a stop waits for open exchanges and for the spool to be shipped."""


class Issuer(Model):
    issuer: str
    """The issuer's URL, exactly as in the token's `iss`. Plain http is for loopback only."""
    audience: str | tuple[str, ...]
    """The audience that tokens must be made for; one of several suffices."""
    jwks_uri: str | None = None
    """Where the keys are; by default from the issuer's discovery document."""
    ca_file: PathText | None = None
    """Trust this CA bundle for the issuer, such as a Kubernetes API server's."""
    leeway: Duration = timedelta(seconds=30)
    """Tolerated clock difference."""
    algorithms: tuple[
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"], ...
    ] = ("RS256", "ES256")
    """Accepted signature algorithms; symmetric ones and `none` cannot be named."""
    max_stale: Duration = timedelta(hours=24)
    """How long known keys serve while the issuer is away."""


class ConnectionIdentity(Model):
    headers: Annotated[tuple[HeaderName, ...], Field(min_length=1)] = ("authorization",)
    """Headers that may hold the caller's token, `Bearer TOKEN`, Basic with the token as password, or bare."""
    require: Literal["caller", "workload", "both"] = "caller"
    """Whose identity is needed; there is no fallback from one to the other. With `both`, the pod's proves where the
    caller is, and grants look at the caller's claims."""
    max_session: Duration = timedelta(hours=1)
    """The longest life of a session key."""


class Connection(Model):
    listen: Listen | None = None
    """Base-URL mode: a port of its own, plain HTTP on loopback."""
    hosts: tuple[Host, ...] = ()
    """TLS mode: the host names clients call it by."""
    upstream: str
    """Where requests go, such as https://api.example.com. Plain http is for loopback only."""
    upstream_ca_file: PathText | None = None
    """Trust this CA bundle instead of the system's for the upstream."""
    upstream_http2: bool = False
    """Speak HTTP/2 to a plain-http upstream (with https, ALPN decides)."""
    identity: ConnectionIdentity = ConnectionIdentity()
    """How callers prove who they are."""
    credentials: tuple[Credential, ...] = ()
    """The real credentials, attached after a request was allowed; what the caller sent in their place is removed."""
    operations: Operations | None = None
    """Names for its calls, from an OpenAPI document or your own."""
    scopes: dict[ScopeName, tuple[str, ...]] = Field(default_factory=dict)
    """Named lists of `METHOD PATH` (`*` is any method, `{name}` one segment, `**` the rest) and of `operation NAME`."""
    body: Literal["inspect", "stream"] = "inspect"
    """`inspect` decides with the whole request body in hand; `stream` on the headers, recording chunk by chunk."""
    max_inspect: Size = 1 << 20
    """The largest request body that is awaited; a larger one is decided on headers unless a rule needs it."""
    max_inspect_response: Size = 1 << 20
    """The largest response body, decoded, that policies and `masking.response: client` look into; a larger one is
    withheld: `response.too_large`."""
    undecodable: Literal["refuse", "seal"] = "refuse"
    """A body that cannot be decoded to look for secrets is refused, or stored encrypted (`recording.seal_key`)."""
    timeout: Duration = timedelta(seconds=300)
    """How long the upstream may take to begin its answer."""
    hold: HoldAnswer = HoldAnswer()
    """What a client is told whose request waited for a person for as long as it may."""

    @model_validator(mode="after")
    def _reachable(self) -> Connection:
        if self.listen is None and not self.hosts:
            raise ValueError("a connection needs `listen` (base-URL mode), `hosts` (TLS mode), or both")
        return self


class Grant(Model):
    name: Name
    """What the ledger calls the grant that allowed a request."""
    issuer: Name
    """A name under `issuers`."""
    condition: Annotated[str, Field(alias="if", min_length=1)]
    """CEL over `claims`; true grants the scopes."""
    allow: dict[Name, tuple[ScopeName, ...]]
    """Scopes by connection."""


class Masking(Model):
    detectors: Literal["default", "none"] = "default"
    """Look for common secrets by their form. The caller's token and the credentials are always masked."""
    headers: tuple[HeaderName, ...] = ()
    """Mask these headers' values."""
    json_paths: Annotated[tuple[str, ...], Field(alias="json")] = ()
    """Mask the values at these JSON paths (`$.user.email`, `$.items[*].key`) in JSON bodies."""
    response: Literal["ledger", "client"] = "ledger"
    """Who is spared what is masked in responses: whoever reads the ledger, or the client, too. With `client`, responses
    are awaited (`max_inspect_response`)."""
    fingerprint_key: LocalSource | None = None
    """The key of the fingerprints; by default made once and kept in the hub's folder."""


class Spool(Model):
    path: PathText = "./var/spool"
    """Where a gate writes before anything passes."""
    max_size: Size = 1 << 30
    """New requests are refused when it holds more than this."""
    max_lag: Duration = timedelta(minutes=10)
    """New requests are refused when the oldest unshipped record is older than this."""


class Recording(Model):
    durability: Literal["process", "disk", "hub"] = "process"
    """What a record survives before its bytes pass: any process's death, the machine's (fsync), or the pod's."""
    retention: Duration = timedelta(days=400)
    """When ClickHouse deletes."""
    spool: Spool = Spool()
    """Where a gate keeps records until the hub has them."""
    max_decoded: Size = 64 << 20
    """The bomb limit: a compressed body may not decode to more than this."""
    seal_key: LocalSource | None = None
    """The key for `undecodable: seal`, 32 bytes in base64."""

    @model_validator(mode="after")
    def _kept(self) -> Recording:
        if self.retention < timedelta(days=1):
            raise ValueError("retention under a day would switch recording off; write at least 1d")
        return self


class Config(Model):
    """douane.yaml."""

    version: Literal[1]
    """The version of this format."""
    store: Store = Store()
    """Where the ledger is."""
    console: Console = Console()
    """Where the hub answers people and probes."""
    hub: Hub = Hub()
    """What takes records from gates, and hands them to the store."""
    gate: Gate = Gate()
    """What stands between clients and upstreams."""
    issuers: dict[Name, Issuer] = Field(default_factory=dict)
    """Whose OIDC tokens are believed."""
    connections: dict[Name, Connection] = Field(default_factory=dict)
    """The APIs that can be reached, each with its credentials and scopes."""
    grants: tuple[Grant, ...] = ()
    """Who may do what; everything else is denied."""
    policies: tuple[Policy, ...] = ()
    """What is refused, held or bound to obligations even where a grant allows it."""
    packs: tuple[PackUse, ...] = ()
    """Ready policies for an API, which come after your own (docs/packs.md)."""
    sessions: Sessions = Sessions()
    """What counts as a session's recent past."""
    approvals: Approvals = Approvals()
    """Who may approve held requests, and who is told of them."""
    masking: Masking = Masking()
    """What is made unreadable before anything is written."""
    recording: Recording = Recording()
    """How safely and how long records are kept."""
