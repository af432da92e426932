"""The shape of approvals in douane.yaml: who may approve, how they sign in, who is told, what a client hears."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from ext_proc.config.base import Model
from ext_proc.config.scalars import Duration, HeaderName, Name, PathText
from ext_proc.config.secret_sources import LocalSource

OPERATOR_SOCKET = "approvals.sock"
"""In gate.run_dir: where the operator of the hub's machine decides."""


class HoldAnswer(Model):
    status: Annotated[int, Field(ge=400, le=599)] = 409
    """The status, with `Retry-After`, the approval's id and its URL."""
    reset_header: HeaderName | None = None
    """A header that repeats the seconds of `Retry-After`, such as x-ratelimit-reset for Datadog's clients with 429."""
    retry_after: Duration = timedelta(seconds=10)
    """When the client should ask again."""


class SignIn(Model):
    """The OpenID provider of approvers. Its tokens approve; those under `issuers` never do."""

    issuer: str
    """The provider's URL, exactly as in the token's `iss`. Plain http is for loopback only."""
    client_id: str
    """The public client that `douane login` signs in as: the audience of its ID tokens."""
    scopes: tuple[str, ...] = ("openid", "email", "profile", "offline_access")
    """What `douane login` asks for."""
    user_claim: str = "email"
    """The claim that names the person; `user:NAME` in a policy compares with it. An `email` that is not
    `email_verified` names nobody."""
    groups_claim: str = "groups"
    """The claim that lists the person's groups, for `group:NAME`."""
    ca_file: PathText | None = None
    """Trust this CA bundle for the provider."""
    algorithms: tuple[
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"], ...
    ] = ("RS256", "ES256")
    """Accepted signature algorithms."""


class Actors(Model):
    """Which person a caller acts for, so that nobody approves their own request."""

    claim: str
    """The claim that names the actor, such as `actor_id` (GitHub) or `user_id` (GitLab)."""
    people: dict[str, Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)] | None] = Field(
        default_factory=dict
    )
    """The person (as in `sign_in.user_claim`) of each value; null for a machine that acts for nobody."""
    same: bool = False
    """The claim's value itself is the person's name, where `people` does not say otherwise."""


class Slack(Model):
    slack: LocalSource
    """The URL of a Slack-compatible incoming webhook, which is a secret."""


class Webhook(Model):
    webhook: LocalSource
    """The URL that gets JSON."""
    secret: LocalSource
    """The key of its signature (standardwebhooks.com: `whsec_` and base64, or text)."""


class Email(Model):
    smtp: Annotated[str, StringConstraints(pattern=r"^smtps?(\+starttls)?://[^\s/@]+(:\d+)?$")]
    """The mail server: smtp+starttls://HOST:PORT, smtps://HOST:PORT; smtp://HOST:PORT is for loopback only."""
    user: str | None = None
    """The user name, where the server wants one."""
    password: LocalSource | None = None
    """Its password."""
    sender: Annotated[str, Field(alias="from")]
    """The sender's address."""
    to: Annotated[tuple[str, ...], Field(min_length=1)]
    """Who is told."""


Notification = Slack | Webhook | Email


class Approvals(Model):
    sign_in: SignIn | None = None
    """How approvers prove who they are (`douane login`)."""
    actors: dict[Name, Actors] = Field(default_factory=dict)
    """By issuer, which person a caller acts for. A hold that people approve is refused at load for callers of an
    issuer without it."""
    notify: tuple[Notification, ...] = ()
    """Who is told of a request that waits."""

    @property
    def by_email(self) -> bool:
        """Whether approvers are known by their addresses."""
        return self.sign_in is not None and self.sign_in.user_claim == "email"

    @model_validator(mode="after")
    def _named(self) -> Approvals:
        for name, actors in self.actors.items():
            if not actors.people and not actors.same:
                raise ValueError(f"actors.{name} maps nobody; write `people`, or `same: true`")
        return self
