"""The shape of credentials in douane.yaml: where in a request a value goes, and to which hosts it may."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ext_proc.config.base import Model
from ext_proc.config.scalars import HeaderName, Name
from ext_proc.config.sources import CredentialSource, SecretSource

_UpstreamHost = Annotated[
    str,
    StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])$", to_lower=True),
    AfterValidator(lambda host: host.strip("[]")),
]


SIGNATURE_HEADERS = (
    "authorization",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-content-sha256",
    "x-amz-region-set",
)
"""What belongs to a client's own AWS signature, which was made with a key that is none."""


class SigV4(Model):
    service: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$")]
    """The service's name in the signature, such as `s3`, `dynamodb` or `execute-api`."""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$")]
    """The region in the signature, such as `eu-central-1`."""
    access_key_id: SecretSource | None = None
    """The access key's id; or all keys at once from the credential's own `from`."""
    secret_access_key: SecretSource | None = None
    """The secret key."""
    session_token: SecretSource | None = None
    """The session token of temporary keys."""
    streamed: Literal["chunks", "unsigned"] = "chunks"
    """How S3 is told of a body that passes while it arrives: signed chunk by chunk, or `UNSIGNED-PAYLOAD` (https)."""

    @model_validator(mode="after")
    def _pair(self) -> SigV4:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("a key has two parts; write `access_key_id` and `secret_access_key`, or neither")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("`session_token` belongs to a key; write `access_key_id` and `secret_access_key` too")
        return self


class Credential(Model):
    name: Name | None = None
    """What the ledger calls it; by default the place it goes to."""
    header: HeaderName | None = None
    """Put the value in this header."""
    query: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    """Put the value in this query parameter."""
    bearer: bool = False
    """Put `Bearer VALUE` in `authorization`."""
    basic: str | None = None
    """Put `Basic` of this user name and the value in `authorization`."""
    sigv4: SigV4 | None = None
    """Sign the request as AWS asks (Signature Version 4)."""
    source: Annotated[CredentialSource | None, Field(alias="from")] = None
    """Where the value comes from. Required, unless `sigv4` names its keys."""
    hosts: tuple[_UpstreamHost, ...] = ()
    """The upstream hosts that it may go to; an upstream that is not among them is an error. By default any."""

    @model_validator(mode="after")
    def _one_place(self) -> Credential:
        places = [self.header is not None, self.query is not None, self.bearer, self.basic is not None]
        if sum(places) + (self.sigv4 is not None) != 1:
            raise ValueError("name exactly one place for the credential: header, query, bearer, basic or sigv4")
        named = self.sigv4 is not None and self.sigv4.access_key_id is not None
        if named and self.source is not None:
            raise ValueError("the keys are named twice; write either `from` or `access_key_id` and `secret_access_key`")
        if not named and self.source is None:
            raise ValueError("`from` is missing; write where the value comes from, such as `from: {env: NAME}`")
        return self

    @property
    def place(self) -> str:
        """`header:NAME` or `query:NAME`: where the value goes, and what is removed there first."""
        if self.query is not None:
            return f"query:{self.query}"
        return f"header:{self.header or 'authorization'}"

    @property
    def replaced(self) -> tuple[str, ...]:
        """The headers that are removed from what the client sent."""
        if self.sigv4 is not None:
            return SIGNATURE_HEADERS
        return () if self.query is not None else (self.header or "authorization",)

    @property
    def label(self) -> str:
        return self.name or ("sigv4" if self.sigv4 is not None else self.place.partition(":")[2])
