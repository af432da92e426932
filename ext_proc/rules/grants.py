"""Who may do what: a grant ties an issuer and a condition over claims to scopes. What no grant allows is denied."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ext_proc.config import Config
from ext_proc.config.policies import OPERATION_PREFIX
from ext_proc.decision import Deny
from ext_proc.errors import ConfigError
from ext_proc.exchange import Caller, SignedClaims
from ext_proc.expressions import BudgetExceeded, EvaluationError, Expression
from ext_proc.rules.conditions import CLAIMS, condition
from ext_proc.rules.operations import Operations, all_operations
from ext_proc.rules.paths import is_plain
from ext_proc.rules.scopes import Scopes

_log = logging.getLogger(__name__)
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Granted:
    """What allows a request: the first grant, in the order of douane.yaml, with a scope that fits."""

    grant: str
    scope: str


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    issuer: str
    condition: Expression
    allow: dict[str, frozenset[str]]


class Grants:
    """The grants and scopes of one configuration. ConfigError where one of them can never work."""

    def __init__(self, config: Config, operations: Mapping[str, Operations] | None = None) -> None:
        known = all_operations(config) if operations is None else operations
        self._scopes = {
            name: ConnectionScopes(connection.scopes, known[name], f"connections.{name}.scopes")
            for name, connection in config.connections.items()
        }
        self._rules = tuple(
            _Rule(
                grant.name,
                grant.issuer,
                condition(grant.condition, f"grants.{grant.name}.if", CLAIMS),
                {connection: frozenset(scopes) for connection, scopes in grant.allow.items()},
            )
            for grant in config.grants
        )
        for rule in self._rules:
            _check_names(rule, config)
        # Claims are the same object as long as their token is remembered, so most requests evaluate nothing.
        self._held: OrderedDict[tuple[str, int], tuple[SignedClaims, frozenset[str]]] = OrderedDict()

    def allow(self, connection: str, method: str, path: str, caller: Caller) -> Granted | Deny:
        """Whether a grant of the caller's allows the request. `path` is without the query."""
        scopes = self._scopes.get(connection)
        if scopes is None:
            return _deny(f"there is no connection {connection}", "Register it in douane.yaml.")
        fitting = scopes.matching(method, path)
        if not fitting:
            if not is_plain(path):
                return _deny("the path can be read in more than one way", "Send it without encoded slashes or dots.")
            return _deny(
                f"no scope of the connection {connection} covers this method and path",
                f"Add one under connections.{connection}.scopes, and a grant for it.",
            )
        held = self._grants_of(caller)
        for rule in self._rules:
            if rule.name in held:
                allowed = rule.allow.get(connection, frozenset())
                for scope in fitting:
                    if scope in allowed:
                        return Granted(rule.name, scope)
        return _deny(
            f"no grant allows this request on the connection {connection} to {caller.session_label}",
            f"A grant with one of these scopes would: {', '.join(fitting)}.",
        )

    def _grants_of(self, caller: Caller) -> frozenset[str]:
        key = (caller.issuer, id(caller.claims))
        known = self._held.get(key)
        if known is not None and known[0] is caller.claims:
            return known[1]
        claims = dict(caller.claims)
        held = frozenset(r.name for r in self._rules if r.issuer == caller.issuer and _holds(r, claims))
        self._held[key] = (caller.claims, held)
        while len(self._held) > _REMEMBERED:
            self._held.popitem(last=False)
        return held


class ConnectionScopes:
    """A connection's scopes: `METHOD PATH` patterns, and `operation NAME`."""

    def __init__(self, scopes: Mapping[str, Sequence[str]], operations: Operations, place: str) -> None:
        self._names = tuple(scopes)
        patterns: dict[str, list[str]] = {}
        self._by_operation: dict[str, list[str]] = {}
        self._operations = operations
        for scope, requests in scopes.items():
            patterns[scope] = [request for request in requests if not request.startswith(OPERATION_PREFIX)]
            for request in requests:
                if request.startswith(OPERATION_PREFIX):
                    operation = request.removeprefix(OPERATION_PREFIX).strip()
                    operations.require(operation, f"{place}.{scope}")
                    self._by_operation.setdefault(operation, []).append(scope)
        self._patterns = Scopes(patterns, place=place)

    def matching(self, method: str, path: str) -> tuple[str, ...]:
        """The scopes that fit the request exactly as sent, in the order of the file."""
        found = self._patterns.matching(method, path)
        if not self._by_operation:
            return found
        more = self._by_operation.get(self._operations.of(method, path), ())
        return tuple(name for name in self._names if name in found or name in more)


def _holds(rule: _Rule, claims: dict[str, object]) -> bool:
    try:
        return rule.condition.holds({"claims": claims})
    except (EvaluationError, BudgetExceeded) as error:
        # A claim that some tokens lack is the usual case; it grants nothing either way.
        _log.info("grant.error: grant %s does not apply: %s", rule.name, error or "it took too many steps")
        return False


def _check_names(rule: _Rule, config: Config) -> None:
    if rule.issuer not in config.issuers:
        raise ConfigError("config.unknown_issuer", f"grants.{rule.name}: there is no issuer {rule.issuer!r}")
    for connection, scopes in rule.allow.items():
        if connection not in config.connections:
            raise ConfigError("config.unknown_connection", f"grants.{rule.name}: there is no connection {connection!r}")
        unknown = sorted(scopes - config.connections[connection].scopes.keys())
        if unknown:
            raise ConfigError(
                "config.unknown_scope", f"grants.{rule.name}: the connection {connection} has no scope {unknown[0]!r}"
            )


def _deny(message: str, remedy: str) -> Deny:
    return Deny("grant.none", message, remedy=remedy)
