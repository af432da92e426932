"""A suggestion as YAML to paste into douane.yaml, with what each line covers beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ext_proc.backtest.callers import Caller
from ext_proc.backtest.suggestion import Suggestion
from ext_proc.backtest.templates import Template, Use

_NO_NAME = re.compile(r"[^a-z0-9_]+")
_LONGEST_NAME = 60


def yaml(suggestion: Suggestion, *, since: str, until: str, grants: bool) -> str:
    """Ends with a newline. `since` and `until` are times as people read them."""
    return "".join(f"{line}\n" for line in _lines(suggestion, since, until, grants=grants))


def _lines(suggestion: Suggestion, since: str, until: str, *, grants: bool) -> Iterator[str]:
    yield f"# What was allowed from {since} to {until} (UTC): {_exchanges(suggestion.count)}, {suggestion.lines} lines."
    yield "# Read it before you paste it: it allows what was done, whether or not that was right. It replaces the"
    yield "# `scopes` of these connections" + (" and, with names of your liking, `grants`." if grants else ".")
    if suggestion.left_out_count:
        yield f"# Not covered, because no scope can have such a path: {_exchanges(suggestion.left_out_count)}, such as"
        yield from (f"#   {_safe(request)}" for request in suggestion.left_out)
    if suggestion.scopes:
        yield "connections:"
    for connection, scopes in suggestion.scopes.items():
        yield f"  {connection}:"
        yield "    scopes:"
        for name, templates in scopes.items():
            yield f"      {_quoted(name)}:"
            yield from _aligned([(f"        - {_quoted(t.request)}", _covers(t)) for t in templates])
    if grants and suggestion.callers:
        yield "grants:"
        names: set[str] = set()
        for caller in suggestion.callers:
            yield from _grant(caller, names)
    yield from _unused(suggestion)


def _grant(caller: Caller, names: set[str]) -> Iterator[str]:
    name = stem = _NO_NAME.sub("-", f"{caller.issuer}-{caller.called}".lower()).strip("-_")[:_LONGEST_NAME].rstrip("-_")
    n = 1
    while not name or name in names:
        n += 1
        name = f"{stem}-{n}".lstrip("-")
    names.add(name)
    yield f"  # {_safe(caller.called)}: {_used(caller.use)}"
    yield f"  - name: {name}"
    yield f"    issuer: {caller.issuer or 'UNKNOWN'}"
    yield f"    if: {_quoted(caller.condition)}"
    yield "    allow:"
    for connection, scopes in sorted(caller.scopes.items()):
        yield f"      {connection}: [{', '.join(map(_quoted, sorted(scopes)))}]"


def _unused(suggestion: Suggestion) -> Iterator[str]:
    if not suggestion.unused and not suggestion.idle:
        return
    yield "# Nothing used these in that time; they can be removed:"
    yield from (f"#   connections.{connection}.scopes.{scope}" for connection, scope in suggestion.unused)
    yield from (f"#   grants.{name}" for name in suggestion.idle)


def _aligned(lines: list[tuple[str, str]]) -> Iterator[str]:
    width = min(max(len(line) for line, _ in lines), 90)
    yield from (f"{line:<{width}}  # {comment}" for line, comment in lines)


def _covers(template: Template) -> str:
    words = f"; also {', '.join(map(_safe, template.words))}" if template.words else ""
    return _used(template.use) + words


def _used(use: Use) -> str:
    return f"{_exchanges(use.count)}, last {use.last}"


def _exchanges(count: int) -> str:
    return f"{count:,} exchange{'' if count == 1 else 's'}"


def _quoted(text: str) -> str:
    """JSON's strings are YAML's; ASCII, because YAML takes some other characters for line breaks."""
    return json.dumps(text)


def _safe(text: str) -> str:
    """For a comment: nothing in it can end the line."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
