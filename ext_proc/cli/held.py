"""One held request on a terminal, for the person who decides.

Everything in it was written by others, the sender of the request first: no line of theirs may look like one of ours,
and no character may drive the terminal.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from typing import Any

import typer

from ext_proc.cli.output import console, visible

_MARGIN = "  | "
_INDENT = 15
_BLANKS = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')


def print_held(one: dict[str, Any]) -> None:
    """As `GET /api/approvals/{id}` gives it."""
    from rich.text import Text

    screen = console()

    def line(name: str, value: object, style: str = "") -> None:
        if text := visible(str(value or "")).strip():
            screen.print(Text(f"  {name:<12}", style="dim") + Text(_indented(text), style=style), soft_wrap=True)

    query = f"?{one['query']}" if one["query"] else ""
    request = visible(f"{one['method']} {one['path']}{query}")
    screen.print(Text(_indented(request), style="bold"), soft_wrap=True)
    line("state", _state(one), {"requested": "yellow", "denied": "red"}.get(one["state"], ""))
    line("approval", one["id"])
    line("operation", one["operation"])
    line("connection", f"{one['connection']}  to {one['upstream']}")
    line("who", f"{one['subject']} ({one['issuer']})")
    line("acts for", one["acts_for"] or "nobody: a machine")
    line("run", f"{one['session_label']}  {one['session_id']}")
    line("gate", f"{one['gate']} ({one['writer']})")
    for need in one["requirements"]:
        missing = f", {need['missing']} missing" if need["missing"] else ""
        line("needs", f"{need['policy']}: {need['quorum']} of {', '.join(need['approvers'])}{missing}")
    line("why", one["message"])
    for rule in one["rules"]:
        if isinstance(rule, dict):
            values = json.dumps(rule.get("values"), ensure_ascii=False) if rule.get("values") else ""
            line("policy", f"{rule.get('policy')} {str(rule.get('digest', ''))[:12]}  {values}")
    for event in one["events"]:
        said = f": {event['comment']}" if event["comment"] else ""
        line(event["event"], f"{event['at']}  {event['approver']}{said}")
    line("claims", json.dumps(one["claims"], ensure_ascii=False))
    screen.print("\nRequest", style="bold underline")
    for header in one["headers"]:
        if isinstance(header, list) and len(header) == 2:
            name, value = (visible(str(part)) for part in header)
            screen.print(Text(f"  {name}: ", style="cyan") + Text(_indented(value, len(name) + 4)), soft_wrap=True)
    _print_body(one)


def _state(one: dict[str, Any]) -> str:
    match one["state"]:
        case "requested":
            return f"waits since {one['requested_at']}, until {one['expires_at']}"
        case "approved":
            return f"approved by {', '.join(one['approved_by'])}, and not used yet; until {one['expires_at']}"
        case state:
            return f"{state} at {one['closed_at']}"


def _print_body(one: dict[str, Any]) -> None:
    body, size, shown = one["body"], int(one["body_size"]), int(one["body_shown"])
    if not size:
        typer.echo("  (no body)")
        return
    if not shown:
        typer.secho(f"  (a body of {size} bytes that cannot be decoded, so it is not shown)", fg="red")
        return
    typer.echo()
    for row in visible(_laid_out(body), keep="\n\t").split("\n"):
        for piece in _folded(row.expandtabs(), len(_MARGIN)):
            typer.echo(_MARGIN + piece)
    cut = f"; the first {shown} are shown" if shown < size else ""
    typer.secho(f"  ({size} bytes{cut})", fg="red" if cut else None)


def _laid_out(body: str) -> str:
    """JSON on lines of its own, where that changes nothing but blanks: of a name that occurs twice, the upstream may
    take the one that Python drops."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(body)
        plain = _BLANKS.sub(r"\1", body)
        if plain in (json.dumps(value, ensure_ascii=escaped, separators=(",", ":")) for escaped in (False, True)):
            return json.dumps(value, indent=2, ensure_ascii=False)
    return body


def _indented(text: str, first: int = _INDENT) -> str:
    """Folded where the terminal would fold it; `first` is how far the first line begins from the left."""
    head, *rest = _folded(" " * max(first - _INDENT, 0) + text, _INDENT)
    return f"\n{' ' * _INDENT}".join([head[max(first - _INDENT, 0) :], *rest])


def _folded(text: str, margin: int) -> list[str]:
    """In pieces that the terminal need not fold: it would begin the next line without our margin."""
    if not sys.stdout.isatty():
        return [text]
    from rich.cells import chop_cells

    return chop_cells(text, max(console().width - margin, 10)) or [""]
