"""The shape of policies in douane.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ext_proc.config.base import Model
from ext_proc.config.scalars import Name


class RuleMatch(Model):
    """Which requests a rule looks at; every key given must fit."""

    connection: Name | None = None
    """Only this connection; otherwise all."""
    requests: tuple[str, ...] = ("* /**",)
    """`METHOD PATH` patterns, as in scopes."""


class JsonCondition(Model):
    path: str
    """A JSON path: `$.widgets[*].definition.type`; `$..type` finds `type` at any depth."""
    any_of: Annotated[tuple[str | int | bool, ...], Field(min_length=1)]
    """True when any value found there is one of these."""


class Policy(Model):
    name: Name
    """What the ledger and the refused client are told."""
    match: RuleMatch = RuleMatch()
    """Which requests it looks at; by default all."""
    effect: Literal["deny"]
    """What happens to them."""
    json_body: Annotated[JsonCondition | None, Field(alias="json")] = None
    """Deny only when the JSON body says so. A body that cannot be read as JSON is denied: `policy.uninspectable`."""
    message: str = ""
    """What the caller is told."""
