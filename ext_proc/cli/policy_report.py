"""How `douane policy test` shows what it found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from ext_proc.cli.output import cell, print_json, table, visible

if TYPE_CHECKING:
    from ext_proc.backtest.judge import Judge
    from ext_proc.backtest.tally import Row, Tally

_ALWAYS = ("newly_denied", "newly_held", "newly_allowed", "unchanged", "uncertain")


def print_report(what: str, judge: Judge, tally: Tally, notes: list[str], *, as_json: bool) -> None:
    """A table of rules with examples below it; or an object for each rule, and one for all of it at the end."""
    rows = list(_rows(judge, tally))
    notes = notes + _left_out(tally)
    if as_json:
        for row in rows:
            print_json(row)
        print_json({"summary": _summary(what, tally, notes)})
        return
    typer.echo(what)
    typer.echo(_sentence(tally))
    typer.echo("")
    shown = [name for name in _counts() if name in _ALWAYS or any(row[name] for row in rows)]
    names = ["rule", "effect", *(name.replace("_", " ") for name in shown)]
    table(names, [[row["rule"], _effect(row), *(f"{row[name]:,}" for name in shown)] for row in rows])
    for row in rows:
        for change, examples in row["examples"].items():
            typer.echo("")
            typer.secho(f"{row['rule']}: {change.replace('_', ' ')}, {row[change]:,}", bold=True)
            for example in examples:
                _print_example(example)
    if notes:
        typer.echo("")
    for note in notes:
        typer.echo(note)


def _counts() -> tuple[str, ...]:
    from ext_proc.backtest.tally import COUNTS

    return COUNTS


def _rows(judge: Judge, tally: Tally) -> Iterator[dict[str, Any]]:
    """The rules of the file in its order, whether or not they did something; then what else decided."""
    from ext_proc.backtest.tally import Row

    known = {rule.name: rule for rule in judge.rules}
    for name, rule in known.items():
        effect, mode = rule.policy.effect, rule.policy.mode
        yield _row(name, {"effect": effect, "mode": mode, "digest": rule.digest}, tally.rows.get(name, Row()))
    for name in sorted(tally.rows.keys() - known.keys()):
        yield _row(name, {"effect": "", "mode": "", "digest": ""}, tally.rows[name])


def _row(name: str, about: dict[str, str], row: Row) -> dict[str, Any]:
    counts = {count: row.counts.get(count, 0) for count in _counts()}
    examples = {change: [e.row() for e in row.examples[change]] for change in _counts() if row.examples.get(change)}
    return {"rule": name, **about, **counts, "examples": examples}


def _effect(row: dict[str, Any]) -> str:
    if not row["effect"]:
        return ""
    return f"{row['effect']} (observe)" if row["mode"] == "observe" else str(row["effect"])


def _print_example(example: dict[str, Any]) -> None:
    session = f"  {visible(example['session'])}" if example["session"] else ""
    typer.echo(
        f"  {example['ts'][:19].replace('T', ' ')}  {example['exchange_id']}{session}  "
        f"{visible(example['request'])}  {example['was']} -> {example['now']}"
    )
    values = example["values"]
    for name, value in values.items() if isinstance(values, dict) else [("values", values)]:
        if value != "" and value is not None:
            typer.echo(f"      {visible(str(name))}: {cell(value)}")


def _sentence(tally: Tally) -> str:
    if not tally.seen:
        return "No exchange was recorded there."
    first, last = (_time(us)[:19].replace("T", " ") for us in (tally.first_us, tally.last_us))
    return (
        f"{tally.seen:,} exchanges from {first} to {last} (UTC): {tally.changed:,} would change, "
        f"{tally.uncertain:,} uncertain."
    )


def _summary(what: str, tally: Tally, notes: list[str]) -> dict[str, Any]:
    from ext_proc.backtest.tally import CHANGES

    return {
        "tried": what,
        "exchanges": tally.seen,
        "changed": tally.changed,
        "uncertain": tally.uncertain,
        **{change: tally.changes.get(change, 0) for change in CHANGES},
        "left_out": dict(sorted(tally.left_out.items())),
        "from": _time(tally.first_us) if tally.seen else None,
        "to": _time(tally.last_us) if tally.seen else None,
        "notes": notes,
    }


def _left_out(tally: Tally) -> list[str]:
    if not tally.left_out:
        return []
    reasons = ", ".join(f"{visible(reason)} {count:,}" for reason, count in tally.left_out.most_common(5))
    return [f"Left out, because they were refused before any rule was asked: {tally.left_out.total():,} ({reasons})."]


def _time(at_us: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
