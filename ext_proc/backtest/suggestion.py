"""The least scopes, and grants, that cover what was recorded as allowed; and what of the present ones nothing used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ext_proc.backtest.callers import Caller, Callers
from ext_proc.backtest.scopes import scopes
from ext_proc.backtest.templates import Template, Templates, Use
from ext_proc.backtest.usage import Used
from ext_proc.config import Config
from ext_proc.rules import ConnectionScopes, Operations, all_operations
from ext_proc.rules.scopes import parse

_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Suggestion:
    """`scopes` by connection and name. `left_out` are some requests that no scope of it has, `left_out_count` all of
    them; `unused` are the configuration's scopes (connection, name), `idle` its grants, that nothing used."""

    scopes: Mapping[str, Mapping[str, list[Template]]]
    callers: list[Caller]
    unused: list[tuple[str, str]]
    idle: list[str]
    count: int
    left_out: list[str] = field(default_factory=list)
    left_out_count: int = 0

    @property
    def lines(self) -> int:
        return sum(len(templates) for found in self.scopes.values() for templates in found.values())


def suggest(rows: Callable[[], Iterable[Used]], config: Config, *, connection: str | None = None) -> Suggestion:
    """`rows` is called twice: first to find the scopes, then to see who used them, and that they cover everything.

    With `connection`, only its scopes and grants count as unused.
    """
    operations = all_operations(config)
    suggested = _scopes(rows(), operations)
    compiled = {
        name: _compiled({scope: [t.request for t in templates] for scope, templates in found.items()}, operations, name)
        for name, found in suggested.items()
    }
    present = {name: _compiled(one.scopes, operations, name) for name, one in config.connections.items()}
    callers = Callers()
    used: set[tuple[str, str]] = set()
    grants: set[str] = set()
    count = left_out_count = 0
    left_out: list[str] = []
    for row in rows():
        count += row.count
        grants.add(row.grant)
        if row.connection in present:
            used |= {(row.connection, name) for name in present[row.connection].matching(row.method, row.path)}
        fitting = compiled[row.connection].matching(row.method, row.path) if row.connection in compiled else ()
        if not fitting:
            left_out_count += row.count
            if len(left_out) < _MOST_SHOWN:
                left_out.append(f"{row.method} {row.path}")
        elif row.claims:
            callers.add(row.issuer, row.claims, row.connection, fitting, row.count, row.last)
    asked = [name for name in config.connections if connection in (None, name)]
    unused = [(name, scope) for name in asked for scope in config.connections[name].scopes]
    idle = [grant.name for grant in config.grants if grant.name not in grants and any(n in asked for n in grant.allow)]
    return Suggestion(
        suggested, callers.found(), [u for u in unused if u not in used], idle, count, left_out, left_out_count
    )


def _scopes(rows: Iterable[Used], operations: Mapping[str, Operations]) -> dict[str, dict[str, list[Template]]]:
    """By connection. Where its document names a request, the name is what is allowed."""
    paths: dict[str, Templates] = {}
    named: dict[str, dict[str, Template]] = {}
    for row in rows:
        known = operations.get(row.connection)
        operation = known.of(row.method, row.path) if known is not None else ""
        if not operation or known is None:
            paths.setdefault(row.connection, Templates()).add(row.method, row.path, row.count, row.last)
            continue
        found = named.setdefault(row.connection, {})
        if operation not in found:
            _, segments = parse(known.names[operation][0], operation)
            found[operation] = Template(row.method, tuple(segments), Use(), operation=operation)
        found[operation].use.add(row.count, row.last)
    return {
        name: scopes(
            [
                *sorted(named.get(name, {}).values(), key=lambda t: t.operation),
                *(paths[name].found() if name in paths else ()),
            ]
        )
        for name in sorted({*paths, *named})
    }


def _compiled(
    of: Mapping[str, Iterable[str]], operations: Mapping[str, Operations], connection: str
) -> ConnectionScopes:
    known = operations.get(connection) or Operations(None, connection)
    return ConnectionScopes(
        {name: list(requests) for name, requests in of.items()}, known, f"connections.{connection}.scopes"
    )
