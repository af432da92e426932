"""Where credentials come from, as douane.yaml writes it under `from:`; never what they are.

Three tiers, so that nothing can depend on itself: what is at hand on this machine (`LocalSource`), that or a vault
(`SecretSource`: what other sources need), and everything that may be a credential (`CredentialSource`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, Tag, model_validator

from ext_proc.config.base import Model
from ext_proc.config.scalars import Duration, Name, PathText
from ext_proc.config.secret_sources import (
    FORMS,
    KubernetesKey,
    LocalSource,
    SecretSource,
    SourceEnv,
    SourceExec,
    SourceFile,
    SourceKubernetes,
    SourceVault,
    Text,
    Vault,
    VaultAppRole,
    VaultAuth,
    VaultJwt,
    models_in,
    one_of,
)

__all__ = [
    "WEB_SOURCES",
    "CredentialSource",
    "Datadog",
    "GithubApp",
    "KubernetesKey",
    "LocalSource",
    "OAuth2",
    "Plugin",
    "SecretSource",
    "SourceDatadog",
    "SourceEnv",
    "SourceExec",
    "SourceFile",
    "SourceGithubApp",
    "SourceKubernetes",
    "SourceOAuth2",
    "SourcePlugin",
    "SourceTokenExchange",
    "SourceVault",
    "TokenExchange",
    "Vault",
    "VaultAppRole",
    "VaultAuth",
    "VaultJwt",
    "models_in",
]

ClientAuth = Literal["basic", "post", "private_key_jwt", "none"]
_Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class _TokenEndpoint(Model):
    """What every grant of OAuth 2.0 says of the server and of how the client proves itself there."""

    token_url: str
    """The token endpoint. Plain http is for loopback only."""
    client_secret: SecretSource | None = None
    """The client's secret, for `basic` and `post`."""
    private_key: SecretSource | None = None
    """The client's private key in PEM, for `private_key_jwt`."""
    key_id: Text | None = None
    """The `kid` of the assertion."""
    algorithm: _Algorithm = "RS256"
    """The assertion's signature algorithm."""
    assertion_audience: Text | None = None
    """The assertion's `aud`; by default the token endpoint."""
    scope: Text | None = None
    """The scopes to ask for, separated by blanks."""
    audience: Text | None = None
    """The audience to ask for, where the server knows this parameter."""
    resource: Text | None = None
    """The resource to ask for (RFC 8707)."""
    revoke_url: str | None = None
    """The revocation endpoint (RFC 7009): tokens are revoked when they are replaced, and at the gate's end."""
    lifetime: Duration = timedelta(minutes=5)
    """How long a token is used whose answer does not say how long it lives."""
    ca_file: PathText | None = None
    """Trust this CA bundle instead of the system's."""
    timeout: Duration = timedelta(seconds=10)
    """How long an answer may take."""


class OAuth2(_TokenEndpoint):
    client_id: Text
    """The client's id."""
    auth: Literal["basic", "post", "private_key_jwt"] = "basic"
    """How the client proves itself: its secret in the header or in the form, or a signed assertion (RFC 7523)."""

    @model_validator(mode="after")
    def _proof(self) -> OAuth2:
        _check_client(self.auth, self.client_id, self.client_secret, self.private_key)
        return self


class SourceOAuth2(Model):
    oauth2: OAuth2
    """An access token by OAuth 2.0's client credentials grant (RFC 6749, 4.4)."""


class TokenExchange(_TokenEndpoint):
    subject: Literal["caller", "workload"] = "caller"
    """Whose token is exchanged: the one the caller presented, or the gate's own (`gate.workload_token_file`)."""
    subject_token_type: Text = "urn:ietf:params:oauth:token-type:jwt"  # noqa: S105 (a kind, not a token)
    """What the subject token is."""
    requested_token_type: Text | None = None
    """What to ask for; by default an access token."""
    client_id: Text | None = None
    """The client's id, where the server asks for one."""
    auth: ClientAuth = "none"
    """How the client proves itself, as in `oauth2`; `none` names it at most."""

    @model_validator(mode="after")
    def _proof(self) -> TokenExchange:
        _check_client(self.auth, self.client_id, self.client_secret, self.private_key)
        return self


class SourceTokenExchange(Model):
    token_exchange: TokenExchange
    """A token got in exchange for the caller's or the workload's own (RFC 8693)."""


def _check_client(auth: str, client_id: object, secret: object, key: object) -> None:
    needs = {"basic": "client_secret", "post": "client_secret", "private_key_jwt": "private_key"}.get(auth)
    given = {"client_secret": secret, "private_key": key}
    if needs is not None and (client_id is None or given[needs] is None):
        raise ValueError(f"auth: {auth} needs a client; add `client_id` and `{needs}`")
    unused = [name for name, value in given.items() if value is not None and name != needs]
    if unused:
        raise ValueError(f"`{unused[0]}` is of no use with auth: {auth}; remove it, or change `auth`")


class GithubApp(Model):
    app_id: Annotated[str | int, Field(union_mode="left_to_right")]
    """The App's id, or its client id."""
    private_key: SecretSource
    """The App's private key, PEM as GitHub hands it out."""
    installation_id: int | None = None
    """The installation; or let it be looked up by `owner` or `repository`."""
    owner: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    """The organisation or user that installed the App."""
    repository: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+/[A-Za-z0-9._-]+$")] | None = None
    """`OWNER/NAME` of a repository that the App is installed on."""
    repositories: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")], ...] = ()
    """Names (without the owner) that the token may reach; by default all of the installation."""
    permissions: dict[Annotated[str, StringConstraints(pattern=r"^[a-z_]+$")], Literal["read", "write", "admin"]] = (
        Field(default_factory=dict)
    )
    """What the token may do, such as `contents: read`; by default all that the App may."""
    api_url: str = "https://api.github.com"
    """The API's base URL; for GitHub Enterprise Server https://HOST/api/v3."""
    ca_file: PathText | None = None
    """Trust this CA bundle instead of the system's."""
    timeout: Duration = timedelta(seconds=10)
    """How long a look-up and a token may take together."""

    @model_validator(mode="after")
    def _one_installation(self) -> GithubApp:
        if sum(one is not None for one in (self.installation_id, self.owner, self.repository)) != 1:
            raise ValueError("name one installation; write `installation_id`, `owner` or `repository`")
        return self


class SourceGithubApp(Model):
    github_app: GithubApp
    """An installation token of a GitHub App."""


class Datadog(Model):
    service_account: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F-]{36}$")]
    """The id of the service account that the keys belong to."""
    scopes: Annotated[tuple[Text, ...], Field(min_length=1)]
    """What the keys may do, such as `dashboards_read`. A key without scopes could do all the account may."""
    api_key: SecretSource
    """An API key of the organisation."""
    app_key: SecretSource
    """An application key that may manage this service account's keys (`service_account_write`)."""
    site: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]+$")] = "datadoghq.com"
    """Datadog's site; the API is at https://api.SITE."""
    api_url: str | None = None
    """The API's base URL, where it is not the site's."""
    lifetime: Duration = timedelta(hours=1)
    """How long a key is used. Then it is replaced and deleted."""
    prefix: Name = "douane"
    """Keys are named `PREFIX-GATE-END-RANDOM`; expired ones of this prefix and gate are deleted as leftovers."""
    ca_file: PathText | None = None
    """Trust this CA bundle instead of the system's."""
    timeout: Duration = timedelta(seconds=10)
    """How long an answer may take."""

    @model_validator(mode="after")
    def _lives(self) -> Datadog:
        if self.lifetime < timedelta(minutes=1):
            raise ValueError("keys that live under a minute would use up Datadog's rate limit; write at least 1m")
        return self


class SourceDatadog(Model):
    datadog: Datadog
    """A scoped application key of a Datadog service account, made for this gate and deleted by it."""


class Plugin(Model):
    name: Text
    """The entry point's name, in the group `douane.credentials`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Handed to the plugin as they are."""
    timeout: Duration = timedelta(seconds=10)
    """How long it may take to make a value."""


class SourcePlugin(Model):
    plugin: Plugin
    """A source of your own, installed beside Douane: see docs/credentials.md."""


CredentialSource = Annotated[
    Annotated[SourceEnv, Tag("source-env")]
    | Annotated[SourceFile, Tag("source-file")]
    | Annotated[SourceExec, Tag("source-exec")]
    | Annotated[SourceKubernetes, Tag("source-kubernetes")]
    | Annotated[SourceVault, Tag("source-vault")]
    | Annotated[SourceOAuth2, Tag("source-oauth2")]
    | Annotated[SourceTokenExchange, Tag("source-token_exchange")]
    | Annotated[SourceGithubApp, Tag("source-github_app")]
    | Annotated[SourceDatadog, Tag("source-datadog")]
    | Annotated[SourcePlugin, Tag("source-plugin")],
    one_of(*FORMS),
]


WEB_SOURCES = (Vault, OAuth2, TokenExchange, GithubApp, Datadog)
"""What asks a server of someone else's."""
