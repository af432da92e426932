"""Where secrets come from, as douane.yaml writes it: what is at hand on this machine (`LocalSource`), that or a vault
(`SecretSource`). `sources` adds what is made with them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, StringConstraints, Tag, model_validator

from ext_proc.config.base import Model
from ext_proc.config.scalars import ENV_PATTERN, Duration, PathText, absolute_command

FORMS = {
    "env": "`env: NAME`",
    "file": "`file: PATH`",
    "exec": "`exec: [PROGRAM, ...]`",
    "kubernetes": "`kubernetes: {mount: FOLDER, key: NAME}`",
    "vault": "`vault: {url: ..., path: ...}`",
    "oauth2": "`oauth2: {token_url: ...}`",
    "token_exchange": "`token_exchange: {token_url: ...}`",
    "github_app": "`github_app: {app_id: ...}`",
    "datadog": "`datadog: {service_account: ...}`",
    "plugin": "`plugin: {name: ...}`",
}
"""Every form of a source by the key that names it, in the words of errors."""

_TAG = "source-"
Text = Annotated[str, StringConstraints(min_length=1)]


def one_of(*forms: str) -> Discriminator:
    """Which form a source is written in, so that only its own faults are reported."""

    def form(value: Any) -> str | None:
        keys = value.__class__.model_fields if isinstance(value, BaseModel) else value
        named = [key for key in forms if isinstance(keys, dict) and key in keys]
        return _TAG + named[0] if len(named) == 1 else None

    shown = [FORMS[name] for name in forms]
    return Discriminator(
        form,
        custom_error_type="source_form",
        custom_error_message=f"name one source; write {', '.join(shown[:-1])} or {shown[-1]}",
    )


# --- at hand ---------------------------------------------------------------------------------------------------------


class SourceEnv(Model):
    env: Annotated[str, StringConstraints(pattern=ENV_PATTERN)]
    """The environment variable of the gate that holds the value."""


class SourceFile(Model):
    file: PathText
    """A file that holds the value; a final line break is dropped; re-read when it changes."""


class SourceExec(Model):
    exec: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(absolute_command)]
    """A command that prints the value."""
    lifetime: Duration = timedelta(minutes=5)
    """How long a printed value is used."""
    timeout: Duration = timedelta(seconds=10)
    """How long the command may take."""


class KubernetesKey(Model):
    mount: PathText
    """The folder where the Secret is mounted."""
    key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
    """One of its keys. Several keys of one mount always come from one version of the Secret."""


class SourceKubernetes(Model):
    kubernetes: KubernetesKey
    """A key of a Kubernetes Secret that is mounted as a folder; read again when the kubelet swaps it."""


LocalSource = Annotated[
    Annotated[SourceEnv, Tag("source-env")]
    | Annotated[SourceFile, Tag("source-file")]
    | Annotated[SourceExec, Tag("source-exec")]
    | Annotated[SourceKubernetes, Tag("source-kubernetes")],
    one_of("env", "file", "exec", "kubernetes"),
]


# --- a vault ---------------------------------------------------------------------------------------------------------


class VaultAppRole(Model):
    role_id: LocalSource
    """The role's id."""
    secret_id: LocalSource | None = None
    """The secret id; none where the role does not bind one."""
    mount: Text = "approle"
    """Where the method is enabled."""


class VaultJwt(Model):
    role: Text
    """The role to log in as."""
    mount: Text = "jwt"
    """Where the method is enabled; for Vault's `kubernetes` method its path, such as `kubernetes`."""
    token: LocalSource | None = None
    """The JWT to log in with; by default the workload's own (`gate.workload_token_file`)."""


class VaultAuth(Model):
    token: LocalSource | None = None
    """A token that already exists. It is renewed while it can be, and never revoked."""
    approle: VaultAppRole | None = None
    """Log in with AppRole."""
    jwt: VaultJwt | None = None
    """Log in with a JWT: the methods `jwt`, `oidc` and `kubernetes`."""

    @model_validator(mode="after")
    def _one_method(self) -> VaultAuth:
        if sum(method is not None for method in (self.token, self.approle, self.jwt)) != 1:
            raise ValueError("name exactly one way to log in; write `token`, `approle` or `jwt`")
        return self


class Vault(Model):
    url: str
    """The server, such as https://vault.example:8200. Plain http is for loopback only."""
    engine: Literal["kv2", "kv1", "dynamic"] = "kv2"
    """Key/value secrets of either version, or a secrets engine that makes credentials with a lease."""
    mount: Text = "secret"
    """Where the engine is mounted."""
    path: Text
    """The secret's path below the mount, without `data/`; for `dynamic` such as `creds/ROLE`."""
    field: Text | None = None
    """The field that is the value. Without it the value is all fields as JSON, for `sigv4`."""
    auth: VaultAuth
    """How to log in."""
    namespace: Text | None = None
    """The namespace of the secret and of the login."""
    lifetime: Duration = timedelta(minutes=5)
    """How long a key/value secret is used before it is read again. A lease says so itself."""
    ca_file: PathText | None = None
    """Trust this CA bundle instead of the system's."""
    timeout: Duration = timedelta(seconds=10)
    """How long a login and a read may take together."""


class SourceVault(Model):
    vault: Vault
    """A secret in HashiCorp Vault or OpenBao."""


SecretSource = Annotated[
    Annotated[SourceEnv, Tag("source-env")]
    | Annotated[SourceFile, Tag("source-file")]
    | Annotated[SourceExec, Tag("source-exec")]
    | Annotated[SourceKubernetes, Tag("source-kubernetes")]
    | Annotated[SourceVault, Tag("source-vault")],
    one_of("env", "file", "exec", "kubernetes", "vault"),
]


def models_in(model: BaseModel) -> Iterator[tuple[tuple[str | int, ...], BaseModel]]:
    """(path as written, model) of a model and of every one within it."""
    yield (), model
    for name, field in type(model).model_fields.items():
        written = field.alias or name
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            inner: list[tuple[tuple[str | int, ...], Any]] = [((written,), value)]
        elif isinstance(value, tuple):
            inner = [((written, n), one) for n, one in enumerate(value)]
        elif isinstance(value, dict):
            inner = [((written, key), one) for key, one in value.items()]
        else:
            inner = []
        for path, one in inner:
            if isinstance(one, BaseModel):
                yield from ((path + below, found) for below, found in models_in(one))
