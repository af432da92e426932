"""`sessions`, `sql` and `schema`."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import typer

from ext_proc.cli.ledger import Conditions, Ledger
from ext_proc.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, Limit, Since, load_config
from ext_proc.cli.output import print_rows

_FORMAT = re.compile(r"\sFORMAT\s+\w+\s*;?\s*$", re.IGNORECASE)
_SESSIONS = ("first_ts", "label", "issuer", "subject", "exchanges", "writes", "denied", "connections", "session_id")


def register(app: typer.Typer, panel: str) -> None:
    @app.command(rich_help_panel=panel)
    def sessions(
        config: ConfigFile = DEFAULT_CONFIG,
        since: Since = None,
        connection: Annotated[str | None, typer.Option(help="Only runs that used this connection.")] = None,
        issuer: Annotated[str | None, typer.Option(help="Only runs of this issuer.")] = None,
        limit: Limit = 50,
        as_json: AsJson = False,
    ) -> None:
        """List runs, the latest first: who, when, how much, how much was refused.

        A run is one pipeline run (GitHub's run and attempt, GitLab's job, a pod ...), however many tokens it used.

        ```console
        douane sessions --since 1d
        douane sessions --json | jq 'select(.denied > 0)'
        ```
        """
        where = Conditions()
        where.since(since, "last_ts")
        if connection is not None:
            where.add("has(connections, {connection:String})", connection=connection)
        if issuer is not None:
            where.add("issuer = {issuer:String}", issuer=issuer)
        rows = Ledger(config).query(
            f"SELECT * FROM {{db}}.sessions WHERE {where.where()} ORDER BY last_ts DESC LIMIT {limit}",  # noqa: S608
            where.parameters,
        )
        if not print_rows(_short_times(rows, as_json), as_json=as_json, columns=_SESSIONS) and not as_json:
            typer.echo("No run yet. What passed through a connection is here within two seconds.", err=True)

    @app.command(rich_help_panel=panel)
    def sql(
        query: Annotated[str, typer.Argument(help="One SELECT, SHOW, DESCRIBE or EXPLAIN.")],
        config: ConfigFile = DEFAULT_CONFIG,
        as_json: AsJson = False,
    ) -> None:
        """Ask the ledger in SQL, read-only.

        Tables: exchanges, body_parts, configs; view: sessions. `douane schema` shows their columns.

        ```console
        douane sql 'SELECT subject, count() FROM exchanges GROUP BY subject'
        douane sql "SELECT * FROM exchanges WHERE decision = 'deny'" --json
        ```
        """
        if not query.strip():
            raise typer.BadParameter("there is nothing to ask", param_hint="QUERY")
        if found := _FORMAT.search(query):
            raise typer.BadParameter(f"leave {found[0].strip()} out: rows come as a table, or as JSON with --json")
        if not print_rows(Ledger(config).raw(query), as_json=as_json) and not as_json:
            typer.echo("No rows.", err=True)

    @app.command(rich_help_panel=panel)
    def schema(
        config: ConfigFile = DEFAULT_CONFIG,
        json_schema: Annotated[
            bool, typer.Option("--json-schema", help="The JSON Schema of douane.yaml, for editors.")
        ] = False,
    ) -> None:
        """Print the ledger's tables as SQL, as this configuration would have them made.

        ```console
        douane schema
        douane schema --json-schema > douane.schema.json
        ```
        """
        if json_schema:
            from ext_proc.config import json_schema as of_config

            typer.echo(json.dumps(of_config(), indent=2))
            return
        from ext_proc.config import Recording, Store
        from ext_proc.hub.schema import Layout, migrations

        store, recording = Store(), Recording()
        if config != DEFAULT_CONFIG or config.exists():
            loaded = load_config(config).config
            store, recording = loaded.store, loaded.recording
        database = "douane" if store.url.startswith("embedded:") else store.url.rpartition("/")[2]
        layout = Layout(database, recording.retention, store.cluster)
        for migration in migrations():
            typer.echo(f"-- {migration.version:04d} {migration.name}")
            for statement in migration.statements(layout):
                typer.echo(f"{statement};\n")


def _short_times(rows: Any, as_json: bool) -> Any:
    """Seconds are enough in a table."""
    for row in rows:
        yield row if as_json else {**row, "first_ts": str(row["first_ts"])[:19], "last_ts": str(row["last_ts"])[:19]}
