"""`douane policy test`: what a changed configuration would have decided about recorded exchanges."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ext_proc.cli.ledger import Conditions, Ledger
from ext_proc.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, OfSession, Until, parse_range
from ext_proc.cli.output import console

if TYPE_CHECKING:
    from ext_proc.backtest.candidate import Candidate
    from ext_proc.backtest.har import Har
    from ext_proc.backtest.judge import Judge
    from ext_proc.backtest.tally import Tally
    from ext_proc.backtest.usage import Query
    from ext_proc.config import Config
    from ext_proc.exchange import Caller

_WORTH_A_BAR = 2_000
_MOST_PROCESSES = 4


class FailOn(StrEnum):
    """What makes the exit code 1."""

    change = "change"
    hold = "hold"
    deny = "deny"
    never = "never"


_FAILS = {
    FailOn.hold: {"newly_denied", "newly_held", "newly_withheld"},
    FailOn.deny: {"newly_denied", "newly_withheld"},
    FailOn.never: set[str](),
}


def register(group: typer.Typer) -> None:
    @group.command()
    def test(
        file: Annotated[
            Path, typer.Argument(help="The changed douane.yaml; or a file with `policies` alone.", show_default=False)
        ],
        config: ConfigFile = DEFAULT_CONFIG,
        since: Annotated[
            str, typer.Option(metavar="AGE|TIME", help="From then on: 30m, 12h, 7d, or 2026-05-09T12:00 (UTC).")
        ] = "7d",
        until: Until = None,
        session: OfSession = None,
        connection: Annotated[str | None, typer.Option(help="Only this connection; with --har, which it is.")] = None,
        har: Annotated[Path | None, typer.Option(help="Exchanges from a HAR 1.2 file, instead of the ledger.")] = None,
        claims: Annotated[
            Path | None, typer.Option(help="With --har: the caller's claims, a JSON object as in a token.")
        ] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="About so many of the newest exchanges.")] = None,
        examples: Annotated[int, typer.Option(min=0, max=100, help="At most so many of each kind for a rule.")] = 3,
        fail_on: Annotated[FailOn, typer.Option(help="Exit with 1 on any change, on less (see below), or never.")] = (
            FailOn.change
        ),
        processes: Annotated[
            int, typer.Option(min=0, max=64, help="Processes that share the work; 0 is one a core, at most 4.")
        ] = 0,
        as_json: AsJson = False,
    ) -> None:
        """Run a changed configuration over what was recorded, and show what would change, by rule.

        FILE is a whole douane.yaml: its scopes, grants and policies are tried. Or it has only `policies`: they are
        tried in the place of the present ones. Nothing is sent, and nothing is changed.

        What the ledger says was decided is held against what FILE decides. A rule that must look at what the record
        does not have (a masked value, a sealed body) is counted as *uncertain*. Requests refused before any rule was
        asked (no identity, say) are left out and counted. Counters of sessions and rates begin at zero where the range
        begins.

        Exit code 0: nothing would change; 1: something would. `--fail-on hold` minds only what would be denied, held
        or withheld from now on, `--fail-on deny` only what would be denied or withheld.

        ```console
        douane policy test douane.yaml --since 30d
        douane policy test new-policies.yaml --session 'infra run 7' --json
        douane policy test douane.yaml --har session.har --connection datadog --claims claims.json
        ```
        """
        from ext_proc.backtest.candidate import candidate
        from ext_proc.backtest.judge import Judge
        from ext_proc.cli.policy_report import print_report
        from ext_proc.errors import ConfigError

        if claims is not None and har is None:
            raise typer.BadParameter("it goes with --har; the ledger knows who called", param_hint="--claims")
        tried = candidate(file, config)
        try:
            judge = Judge(tried.loaded.config)
        except ConfigError as error:
            raise tried.loaded.locate(error) from None
        if har is not None:
            tally, notes = _over_har(tried, judge, har, connection, claims, examples)
        else:
            where = Conditions()
            if connection is not None:
                where.add("connection = {connection:String}", connection=connection)
            if session is not None:
                where.session(session)
            tally, notes = _over_ledger(tried.loaded.config, judge, config, where, parse_range(since, until), limit,
                                        examples, processes or min(os.cpu_count() or 1, _MOST_PROCESSES))  # fmt: skip
        if judge.counts_sessions:
            notes.append("Counters of sessions and rates begin at zero where the range begins.")
        print_report(tried.said, judge, tally, notes, as_json=as_json)
        counted = set(tally.changes) if fail_on == FailOn.change else set(tally.changes) & _FAILS[fail_on]
        if counted:
            raise typer.Exit(1)


def open_ledger(config: Path) -> Query:
    """A connection to the ledger of its own: what each process of a test does."""
    return Ledger(config).query


def _over_ledger(
    config: Config,
    judge: Judge,
    present: Path,
    where: Conditions,
    times: tuple[int, int],
    limit: int | None,
    examples: int,
    processes: int,
) -> tuple[Tally, list[str]]:
    from ext_proc.backtest.ledger import Selection, Wanted, newest, windows
    from ext_proc.backtest.run import over_ledger

    query = functools.partial(open_ledger, present)
    asking = query()
    selection = Selection(where.where(), where.parameters, *times)
    if limit is not None:
        selection = Selection(where.where(), where.parameters, newest(asking, selection, limit), times[1])
    wanted = Wanted.by(judge.looks_at, responses=judge.looks_at_responses)
    cut = windows(asking, selection, wanted)
    with _progress(sum(window.count for window in cut)) as done:
        tally = over_ledger(config, query, selection, cut, examples=examples, processes=processes, done=done)
    return tally, []


def _over_har(
    tried: Candidate, judge: Judge, file: Path, connection: str | None, claims: Path | None, examples: int
) -> tuple[Tally, list[str]]:
    from ext_proc.backtest.har import Har
    from ext_proc.backtest.run import over
    from ext_proc.backtest.tally import Tally
    from ext_proc.backtest.values import Shown

    config = tried.loaded.config
    if connection is None or connection not in config.connections:
        known = ", ".join(config.connections) or "there is none"
        raise typer.BadParameter(f"with --har, name one of: {known}", param_hint="--connection")
    found = Har(file, connection, _hosts(config, connection), _caller(config, claims) if claims is not None else None)
    tally = over(found, judge, Shown(config), Tally(examples))
    notes = ["A HAR file says nothing of decisions: each entry counts as allowed."]
    if claims is None:
        notes.append("Without --claims nobody knows who called: grants are not asked.")
    return tally, notes + _others(found)


def _others(har: Har) -> list[str]:
    if not har.others:
        return []
    shown = ", ".join(f"{host} ({count})" for host, count in har.others.most_common(5))
    return [f"Left out, because they went elsewhere: {har.others.total()} entries, for {shown}."]


def _hosts(config: Config, name: str) -> list[str]:
    """Everything that clients may call the connection, and its upstream."""
    from urllib.parse import urlsplit

    connection = config.connections[name]
    listen = [connection.listen] if connection.listen is not None else []
    return [host.lower() for host in (*connection.hosts, urlsplit(connection.upstream).netloc, *listen)]


def _caller(config: Config, file: Path) -> Caller:
    import json

    from ext_proc.errors import DouaneError
    from ext_proc.exchange import SignedClaims
    from ext_proc.oidc import caller

    try:
        claims: Any = json.loads(file.read_bytes())
    except OSError as error:
        raise DouaneError("har.claims", f"{file}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict) or not isinstance(claims.get("sub"), str):
        raise DouaneError(
            "har.claims", f"{file} is no JSON object with `iss` and `sub`", remedy="See docs/backtest.md."
        )
    for name, issuer in config.issuers.items():
        if issuer.issuer == claims.get("iss"):
            return caller(name, SignedClaims(claims))
    raise DouaneError(
        "har.claims", f"{file}: its `iss` is none of the configuration's issuers", remedy="Set it to one of them."
    )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, where it takes a while; nothing in a pipe."""
    screen = console(stderr=True)
    if not screen.is_terminal or total < _WORTH_A_BAR:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("exchanges"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda more: bar.advance(task, more)
