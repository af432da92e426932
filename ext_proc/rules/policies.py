"""Deny rules over the request and its JSON body. A rule that cannot see what it must judge denies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ext_proc.config import Config
from ext_proc.config.json_path import JsonPath, JsonPathError
from ext_proc.config.json_path import parse as parse_path
from ext_proc.decision import Deny
from ext_proc.errors import ConfigError
from ext_proc.exchange import Exchange
from ext_proc.rules.scopes import Scopes
from ext_proc.rules.strict_json import StrictJsonError
from ext_proc.rules.strict_json import parse as parse_json

_IDENTITY = b"identity"


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    message: str
    path: JsonPath | None
    any_of: tuple[str | int | bool, ...]

    def may_match(self, body: bytes) -> bool:
        """False where no value of `any_of` is in the text, so that the walk through the document can be spared. The
        body is strict JSON in UTF-8 here, where only an escape could spell a string in another way."""
        if b"\\" in body:
            return True
        return not all(isinstance(value, str) and value.encode() not in body for value in self.any_of)


class Policies:
    """The policies of one configuration. ConfigError where one of them can never work.

    Requests are matched by what they could mean to a lenient server (`Scopes.resembling`): letter case, a final
    slash, `;parameters` or needless percent-encoding do not lead around a rule.
    """

    def __init__(self, config: Config) -> None:
        self._rules = {policy.name: _compile(policy.name, config, n) for n, policy in enumerate(config.policies)}
        for policy in config.policies:
            connection = policy.match.connection
            if connection is not None and connection not in config.connections:
                raise ConfigError(
                    "config.unknown_connection", f"policies.{policy.name}.match: there is no connection {connection!r}"
                )
        self._matches = {
            connection: Scopes(
                {p.name: p.match.requests for p in config.policies if p.match.connection in (None, connection)},
                place="policies",
            )
            for connection in config.connections
        }

    def needs_body(self, connection: str, method: str, path: str) -> bool:
        """Whether a rule that looks into the body fits, so that the decision must await all of it."""
        return any(rule.path is not None for rule in self._fitting(connection, method, path))

    def decide(self, exchange: Exchange, decoded: bytes | None) -> Deny | None:
        """The first rule, in the order of douane.yaml, that denies; None where none does.

        `decoded` is the request body without its content codings. No body at hand (None), or one that is not strict
        JSON, is `policy.uninspectable` for every rule with a JSON path that fits; an empty body holds nothing, and
        passes.
        """
        document: Any = None
        body: bytes | None = None
        for rule in self._fitting(exchange.connection, exchange.method, exchange.path):
            if rule.path is None:
                return _denied(rule)
            if body is None:
                body = decoded
                if body is None:
                    return _uninspectable(rule, "it did not arrive in a form that can be read before the decision")
                if body:
                    try:
                        document = parse_json(body)
                    except StrictJsonError as error:
                        return _uninspectable(rule, str(error))
            if body and rule.may_match(body) and any(_among(v, rule.any_of) for _, v in rule.path.find(document)):
                return _denied(rule)
        return None

    def _fitting(self, connection: str, method: str, path: str) -> Iterator[_Rule]:
        matches = self._matches.get(connection)
        if matches is not None:
            for name in matches.resembling(method, path):
                yield self._rules[name]


def _compile(name: str, config: Config, n: int) -> _Rule:
    policy = config.policies[n]
    if policy.json_body is None:
        return _Rule(name, policy.message, None, ())
    try:
        path = parse_path(policy.json_body.path)
    except JsonPathError as error:
        raise ConfigError(
            "config.json_path", f"policies.{name}.json.path: {policy.json_body.path!r}: {error}"
        ) from None
    return _Rule(name, policy.message, path, policy.json_body.any_of)


def _among(value: Any, any_of: tuple[str | int | bool, ...]) -> bool:
    """Equality as JSON has it: 1 and 1.0 are one number, and neither is `true`."""
    if isinstance(value, bool):
        return any(other is value for other in any_of)
    if isinstance(value, str):
        return any(isinstance(other, str) and other == value for other in any_of)
    if isinstance(value, int | float):
        return any(isinstance(other, int) and not isinstance(other, bool) and other == value for other in any_of)
    return False


def _denied(rule: _Rule) -> Deny:
    return Deny("policy.denied", rule.message or f"the policy {rule.name} does not allow this", policy=rule.name)


def _uninspectable(rule: _Rule, why: str) -> Deny:
    return Deny(
        "policy.uninspectable",
        f"the policy {rule.name} must look into the body as JSON: {why}",
        policy=rule.name,
        remedy="Send plain UTF-8 JSON, within the connection's max_inspect.",
    )
