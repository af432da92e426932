"""`douane search`: full text over paths, queries and bodies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ext_proc.cli.ledger import Conditions, Ledger
from ext_proc.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, Limit, OfSession, Since
from ext_proc.cli.output import print_json, table, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

# Each has a text index over its lower-case words (migrations/0001_ledger.sql); `query` is short and has none.
_INDEXED = ("path", "req_body", "resp_body", "req_text", "resp_text")
_PLACES = {
    "path": "path",
    "query": "query",
    "req_body": "request",
    "req_text": "request",
    "resp_body": "response",
    "resp_text": "response",
}
_WORD = re.compile(r"[A-Za-z0-9]+")  # ClickHouse's splitByNonAlpha, for ASCII; other letters belong to words as well
_AROUND = 40


def register(app: typer.Typer, panel: str) -> None:
    @app.command(rich_help_panel=panel)
    def search(
        text: Annotated[
            str, typer.Argument(help="What to look for, in any letter case; optional with --operation.")
        ] = "",
        config: ConfigFile = DEFAULT_CONFIG,
        since: Since = None,
        connection: Annotated[str | None, typer.Option(help="Only this connection.")] = None,
        session: OfSession = None,
        operation: Annotated[str | None, typer.Option(help="Only this operation, such as CreateDashboard.")] = None,
        decision: Annotated[str | None, typer.Option(help="allow, deny or hold.")] = None,
        limit: Limit = 50,
        as_json: AsJson = False,
    ) -> None:
        """Find exchanges by what is in their path, query or bodies.

        Whole words come from the text index, in milliseconds. Where no exchange has the words, any part of a word is
        looked for, which reads everything: give --since then. Masked values are not in the ledger, so not found.

        ```console
        douane search iframe --decision deny
        douane search 'abc-def-ghi' --since 7d --json
        douane search --operation DeleteDashboard --since 30d
        douane show $(douane search abc-def-ghi --json | head -1 | jq -r .exchange_id)
        ```
        """
        if not text.strip() and operation is None:
            raise typer.BadParameter("there is nothing to look for", param_hint="TEXT")
        if decision not in (None, "allow", "deny", "hold"):
            raise typer.BadParameter("must be allow, deny or hold", param_hint="--decision")
        where = Conditions()
        where.since(since, "ts")
        if connection is not None:
            where.add("connection = {connection:String}", connection=connection)
        if operation is not None:
            where.add("operation = {operation:String}", operation=operation)
        if decision is not None:
            where.add("decision = {decision:String}", decision=decision)
        if session is not None:
            where.session(session)
        ledger = Ledger(config)
        rows = _find(ledger, text, where, limit)
        for row in rows:
            if as_json:
                print_json(row)
        if as_json:
            return
        columns: tuple[str, ...] = ("ts", "connection", "method", "path", "status", "decision", "reason", "found")
        columns = (*(name for name in columns if text or name != "found"), "exchange_id")
        table(columns, [[_cell(row, name) for name in columns] for row in rows])
        if not rows:
            typer.echo("Nothing found.", err=True)
        elif len(rows) == limit:
            typer.echo(f"The latest {limit}; --limit shows more.", err=True)


def _find(ledger: Ledger, text: str, where: Conditions, limit: int) -> list[dict[str, Any]]:
    words = [word.lower() for word in _WORD.findall(text)]
    where.add("1", text=text, limit=limit)
    if words and text.isascii():
        # The indexes narrow down to rows that have all words; the substring then wants them as they were written.
        # `query` has no index, and one column without in an OR would make ClickHouse read every row: so it is asked
        # by itself (40 ms together, against 150 ms, for 300,000 rows).
        indexed = " OR ".join([*(f"({_all_words(column, words)})" for column in _INDEXED), _in_parts(words)])
        written = " OR ".join([*(_contains(column) for column in _INDEXED), _in_parts(words)])
        by_words = where.copy()
        by_words.add(indexed, **{f"w{n}": word for n, word in enumerate(words)})
        by_words.add(written)
        by_query = where.copy()
        by_query.add(_contains("query"))
        found = {row["exchange_id"]: row for one in (by_words, by_query) for row in _select(ledger, one)}
        if found:
            return sorted(found.values(), key=lambda row: str(row["ts"]), reverse=True)[:limit]
    anywhere = where.copy()
    parts = f"exchange_id IN (SELECT exchange_id FROM {{db}}.body_parts WHERE {_contains('data')})"  # noqa: S608
    if text:
        anywhere.add(" OR ".join([*(_contains(column) for column in _PLACES), parts]))
    return _select(ledger, anywhere)


def _in_parts(words: Sequence[str]) -> str:
    return f"exchange_id IN (SELECT exchange_id FROM {{db}}.body_parts WHERE {_all_words('data', words)})"  # noqa: S608


def _select(ledger: Ledger, where: Conditions) -> list[dict[str, Any]]:
    found = ", ".join(f"({_contains(column)}) AS in_{column}" for column in _PLACES)
    snippet = "multiIf(" + ", ".join(f"in_{c}, {_snippet(c)}" for c in _PLACES) + ", '')"
    sql = (
        "SELECT exchange_id, ts, connection, operation, method, host, path, status, decision, reason, "  # noqa: S608
        f"session_label, subject, {found}, {snippet} AS snippet "
        f"FROM {{db}}.exchanges WHERE {where.where()} ORDER BY ts DESC LIMIT {{limit:UInt32}}"
    )
    rows = []
    for row in ledger.query(sql, where.parameters):
        places = [place for column, place in _PLACES.items() if row.pop(f"in_{column}")]
        row["found"] = list(dict.fromkeys(places)) or ["large body"]
        if not where.parameters["text"]:
            row["found"], row["snippet"] = [], ""
        rows.append(row)
    return rows


def _all_words(column: str, words: Sequence[str]) -> str:
    return " AND ".join(f"hasToken({column}, {{w{n}:String}})" for n in range(len(words)))


def _contains(column: str) -> str:
    return f"positionCaseInsensitive({column}, {{text:String}}) > 0"


def _snippet(column: str) -> str:
    start = f"greatest(1, toInt64(positionCaseInsensitive({column}, {{text:String}})) - {_AROUND})"
    return f"substring({column}, {start}, {2 * _AROUND} + length({{text:String}}))"


def _cell(row: dict[str, Any], name: str) -> str:
    if name == "found":
        return visible(f"{'+'.join(row['found'])}: {' '.join(row['snippet'].split())}")
    return visible(str(row[name])[:19] if name == "ts" else str(row[name]))
