"""Options that several commands share."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ext_proc.config import Loaded

ConfigFile = Annotated[Path, typer.Option("-c", "--config", metavar="FILE", help="The configuration.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Since = Annotated[
    str | None,
    typer.Option(metavar="AGE|TIME", help="Only from then on: 30m, 12h, 7d, or 2026-05-09T12:00 (UTC)."),
]
Until = Annotated[
    str | None, typer.Option(metavar="AGE|TIME", help="Only up to then, in the form of --since; by default now.")
]
OfSession = Annotated[str | None, typer.Option(help="Only this run: its id, or a part of its label.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")]
DEFAULT_CONFIG = Path("douane.yaml")

_AGE = re.compile(r"(\d+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def load_config(path: Path) -> Loaded:
    """The configuration, checked. ConfigError says what is wrong with it and where."""
    from ext_proc.config import load

    return load(path)


def parse_since(text: str | None, now: datetime | None = None, *, option: str = "--since") -> str | None:
    """`7d` or a time as `YYYY-MM-DD HH:MM:SS` in UTC, as ClickHouse reads it. BadParameter when it is neither."""
    if text is None:
        return None
    if match := _AGE.fullmatch(text):
        when = (now or datetime.now(UTC)) - timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
    else:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is neither an age (30m, 7d) nor a time", param_hint=option) from None
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return when.strftime("%Y-%m-%d %H:%M:%S")


def parse_range(since: str, until: str | None) -> tuple[int, int]:
    """Seconds since the epoch, the end not included. BadParameter where there is nothing between them."""
    times = [parse_since(since), parse_since(until or "0s", option="--until")]
    start, end = (int(datetime.fromisoformat(f"{text}+00:00").timestamp()) for text in times)
    if until is None:
        end += 1  # this second has begun
    if start >= end:
        raise typer.BadParameter("it is not before --until", param_hint="--since")
    return start, end
