"""How commands speak: Rich tables on a terminal, aligned text in a pipe, JSON lines with --json; errors on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from ext_proc.errors import ConfigError, DouaneError

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = {"allow": "green", "deny": "red", "hold": "yellow", "complete": "green"}
_ERROR = "error:"
_WHOLE = 26  # characters: a time with microseconds
_UUID = 36
_FOLDED = 20
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


def console(*, stderr: bool = False) -> Console:
    """A Rich console for this output; without a terminal it writes plain text and never wraps it."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, soft_wrap=not stream.isatty())


def error_lines(error: DouaneError) -> Iterator[str]:
    """`error: file:line: reason: message`, then the remedy, for each of what may be several."""
    from_many: Sequence[DouaneError] = getattr(error, "errors", (error,))
    for one in from_many:
        where = f"{one.where}: " if isinstance(one, ConfigError) and one.where else ""
        yield f"error: {where}{one.reason}: {one.message}"
        if one.remedy:
            yield f"  {one.remedy}"


def report(error: DouaneError) -> None:
    """Say what went wrong, without a traceback."""
    for line in error_lines(error):
        if line.startswith(_ERROR):
            typer.secho(_ERROR, err=True, fg="red", bold=True, nl=False)
        typer.echo(line.removeprefix(_ERROR), err=True)


def print_json(row: Mapping[str, Any]) -> None:
    """One object on one line, with the characters that could drive a terminal escaped."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    typer.echo(text if text.isprintable() else _UNPRINTABLE.sub(_escape, text))


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if character == "\x7f" else json.dumps(character)[1:-1]


def print_rows(rows: Iterable[Mapping[str, Any]], *, as_json: bool, columns: Sequence[str] = ()) -> int:
    """Print rows as they come (JSON) or as a table (all of them). `columns` chooses and orders; the first row's names
    otherwise. Returns how many there were."""
    count = 0
    if as_json:
        for row in rows:
            print_json(row)
            count += 1
        return count
    kept = list(rows)
    names = list(columns) or list(kept[0] if kept else ())
    table(names, [[cell(row.get(name)) for name in names] for row in kept])
    return len(kept)


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Rich table on a terminal, or a block of lines a row where it is too narrow for the columns; two spaces between
    aligned columns in a pipe, header first."""
    if not names:
        return
    if sys.stdout.isatty():
        _on_terminal(console(), names, rows)
        return
    widths = [max(len(row[n]) for row in (names, *rows)) for n in range(len(names))]
    for row in (names, *rows):
        typer.echo("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())


def _on_terminal(screen: Console, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Short values and ids are never folded: a folded id cannot be copied."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    widths = [max(cell_len(row[n]) for row in (names, *rows)) for n in range(len(names))]
    least = [width if width <= _WHOLE or width == _UUID else _FOLDED for width in widths]
    if rows and sum(least) + 2 * len(names) > screen.width:
        margin = max(map(cell_len, names))
        for number, row in enumerate(rows):
            if number:
                screen.print()
            for name, value in zip(names, row, strict=True):
                line = Text(f"{name:<{margin}}  ", style="dim") + Text(value, style=COLOURS.get(value, ""))
                screen.print(line, soft_wrap=True)
        return
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name, width, at_least in zip(names, widths, least, strict=True):
        shown.add_column(name, overflow="fold", min_width=at_least, no_wrap=width == at_least)
    for row in rows:
        shown.add_row(*(Text(value, style=COLOURS.get(value, "")) for value in row))
    screen.print(shown)


def few(items: Sequence[str], most: int = 3) -> str:
    """The first of a list, and how many more there are: packs look at dozens of requests."""
    more = len(items) - most
    return ", ".join(items if more < 2 else [*items[:most], f"and {more} more"])


def cell(value: Any) -> str:
    """One value on one line. Control characters are shown, not obeyed: the ledger holds what strangers sent."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return visible(", ".join(value))
    if isinstance(value, dict | list):
        return visible(json.dumps(value, ensure_ascii=False, default=str))
    return visible(str(value))


def visible(text: str, *, keep: str = "") -> str:
    """The text with control characters (but those in `keep`) as \\xNN, so that a terminal is not driven by data."""
    return "".join(c if c in keep or c.isprintable() else f"\\x{ord(c):02x}" for c in text)
