"""`douane policy suggest`: the least scopes that cover what was recorded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ext_proc.cli.ledger import Conditions, Ledger
from ext_proc.cli.options import (
    DEFAULT_CONFIG,
    AsJson,
    ConfigFile,
    OfSession,
    Until,
    load_config,
    parse_range,
)
from ext_proc.cli.output import print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ext_proc.backtest.suggestion import Suggestion


def register(group: typer.Typer) -> None:
    @group.command()
    def suggest(
        config: ConfigFile = DEFAULT_CONFIG,
        since: Annotated[
            str, typer.Option(metavar="AGE|TIME", help="From then on: 30m, 12h, 7d, or 2026-05-09T12:00 (UTC).")
        ] = "30d",
        until: Until = None,
        connection: Annotated[str | None, typer.Option(help="Only this connection.")] = None,
        session: OfSession = None,
        grant: Annotated[bool, typer.Option("--grant", help="Also grants: which claims the callers share.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Propose the least scopes that cover what was recorded as allowed, as YAML to paste into douane.yaml.

        Paths are grouped: `/api/v1/monitor/{monitor_id}` stands for what was asked of many monitors. Where a
        connection has `operations`, their names are used. Reads and writes are scopes of their own. With --grant, each
        project or workload gets a grant by its id, and by what else all its runs share (`ref`, `environment`).

        Comments say what each line covers, and what of the present configuration nothing used. Read it before you
        paste it: it allows what was done. `douane policy test` shows what it would change.

        ```console
        douane policy suggest --connection datadog --since 30d
        douane policy suggest --session 'infra run 7' --grant
        ```
        """
        from ext_proc.backtest.paste import yaml
        from ext_proc.backtest.suggestion import suggest as of
        from ext_proc.backtest.usage import usage
        from ext_proc.errors import ConfigError

        loaded = load_config(config)
        start, end = parse_range(since, until)
        where = Conditions()
        where.add(
            "ts >= toDateTime64({from:Int64}, 6, 'UTC') AND ts < toDateTime64({to:Int64}, 6, 'UTC')",
            **{"from": start, "to": end},
        )
        if connection is not None:
            where.add("connection = {connection:String}", connection=connection)
        if session is not None:
            where.session(session)
        ledger = Ledger(config)
        try:
            found = of(
                lambda: usage(ledger.query, where.where(), where.parameters, callers=grant),
                loaded.config,
                connection=connection,
            )
        except ConfigError as error:
            raise loaded.locate(error) from None
        if not found.count:
            typer.echo("Nothing was allowed in that time, so there is nothing to suggest.", err=True)
        if as_json:
            for row in _rows(found):
                print_json(row)
        elif found.count:
            typer.echo(yaml(found, since=_shown(start), until=_shown(end), grants=grant), nl=False)


def _rows(found: Suggestion) -> Iterator[dict[str, Any]]:
    for connection, scopes in found.scopes.items():
        for name, templates in scopes.items():
            for template in templates:
                use = {"exchanges": template.use.count, "last": template.use.last}
                yield {"connection": connection, "scope": name, "request": template.request, **use}
    for caller in found.callers:
        allow = {connection: sorted(scopes) for connection, scopes in sorted(caller.scopes.items())}
        yield {"issuer": caller.issuer, "caller": caller.called, "if": caller.condition, "allow": allow}
    for connection, scope in found.unused:
        yield {"connection": connection, "unused_scope": scope}
    for name in found.idle:
        yield {"unused_grant": name}


def _shown(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
