"""The shape of `policies`, `sessions` and a connection's `operations`. What belongs together is checked in
`check_policies`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema

from ext_proc.config.base import Model
from ext_proc.config.scalars import Duration, HeaderName, Name, PathText

OPERATION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_:./-]{0,199}$"
APPROVER_PATTERN = r"^(group:\S{1,200}|user:\S{1,200}|local)$"

OPERATION_PREFIX = "operation "
"""In a scope, what stands before an operation's name, where `METHOD PATH` would."""

OperationName = Annotated[str, StringConstraints(pattern=OPERATION_PATTERN)]
Approver = Annotated[str, StringConstraints(pattern=APPROVER_PATTERN)]


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


OperationNames = Annotated[
    tuple[OperationName, ...],
    BeforeValidator(_one_or_more),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string", "pattern": OPERATION_PATTERN}}]}
    ),
]


class Operations(Model):
    """Names for a connection's calls, for scopes, policies and searches."""

    openapi: PathText | None = None
    """An OpenAPI 3 document, JSON or YAML; its `operationId`s are the names."""
    patterns: dict[OperationName, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Names of your own: lists of `METHOD PATH`, as in scopes. They go before the document's."""


class PackedOperations(Operations):
    """With the names that packs bring, for what neither a document nor `patterns` name. Not for douane.yaml."""

    fallback: dict[OperationName, tuple[str, ...]]
    """Names of packs: lists of `METHOD PATH`."""


class RuleMatch(Model):
    """Which requests a rule looks at; every key given must fit."""

    connection: Name | None = None
    """Only this connection; otherwise all."""
    operation: OperationNames = ()
    """Only these operations (`CreateDashboard`), which the connection's `operations` name."""
    requests: tuple[str, ...] = ("* /**",)
    """`METHOD PATH` patterns, as in scopes."""


class RuleMask(Model):
    """What is masked more in the record, for what a rule matches."""

    headers: tuple[HeaderName, ...] = ()
    """Mask these headers' values."""
    json_paths: Annotated[tuple[str, ...], Field(alias="json")] = ()
    """Mask the values at these JSON paths (`$.user.email`)."""


class RateLimit(Model):
    """How many requests that a rule matches one session may make."""

    limit: Annotated[int, Field(ge=1, le=100_000)]
    """So many requests ..."""
    per: Duration
    """... in this time."""


class Policy(Model):
    name: Name
    """What the ledger and the refused client are told."""
    match: RuleMatch = RuleMatch()
    """Which requests it looks at; by default all."""
    effect: Literal["deny", "hold", "allow", "flag", "mask", "withhold"]
    """`deny` refuses, `hold` waits for approval, `allow` adds obligations to what a grant allows. `flag`, `mask` and
    `withhold` are for responses."""
    when: Annotated[str, Field(min_length=1)] | None = None
    """CEL over the request (docs/policies.md); without it, whatever matches."""
    mode: Literal["enforce", "observe"] = "enforce"
    """`observe` records what it would have done, and does nothing."""
    message: str = ""
    """What the caller is told."""
    approvers: tuple[Approver, ...] = ()
    """hold: who may approve: `group:NAME`, `user:NAME`, or `local`, the operator of this machine."""
    quorum: Annotated[int, Field(ge=1, le=100)] = 1
    """hold: how many of them must."""
    wait: Duration = timedelta(seconds=50)
    """hold: how long the request waits for it; then the client is told to come back."""
    validity: Duration = timedelta(minutes=15)
    """hold: how long an approval may be used."""
    expires: Duration = timedelta(hours=1)
    """hold: how long approval may be given."""
    mask: RuleMask | None = None
    """allow: what is masked more. mask: what of the response is hidden; by default what detectors find."""
    rate: RateLimit | None = None
    """allow: how often it may happen in one session."""


class Sessions(Model):
    window: Duration = timedelta(minutes=10)
    """What `session.window` counts over."""
