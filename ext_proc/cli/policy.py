"""`douane policy`: what the policies of a configuration are, and what they would say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ext_proc.cli import policy_suggest, policy_test
from ext_proc.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, load_config
from ext_proc.cli.output import cell, few, print_json, print_rows, table, visible

if TYPE_CHECKING:
    from ext_proc.config import Loaded
    from ext_proc.rules import Facts, Policies
    from ext_proc.rules.rule import Rule

PRECEDENCE = (
    "1. A grant must allow the request; without one it is denied.",
    "2. A deny rule that matches denies; the first in the file names it.",
    "3. Otherwise all hold rules that match hold together.",
    "4. The obligations of all matching allow rules add up.",
    "A rule that cannot be judged denies (policy.uninspectable); one in observe mode is only recorded.",
)

app = typer.Typer(no_args_is_help=True, help="What the policies are, and what they would say.")


def register(root: typer.Typer, panel: str) -> None:
    root.add_typer(app, name="policy", rich_help_panel=panel)


@app.command()
def explain(
    method: Annotated[str | None, typer.Argument(help="A request's method ...", show_default=False)] = None,
    url: Annotated[str | None, typer.Argument(help="... and its URL or path, with its query.")] = None,
    connection: Annotated[str | None, typer.Option(help="The connection; by default the only one.")] = None,
    body: Annotated[Path | None, typer.Option(help="A file with the request's body; - is standard input.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="A header, as in 'Content-Type: application/json'.")] = None,
    claim: Annotated[list[str] | None, typer.Option(help="A claim of the caller's, as in ref=refs/heads/main.")] = None,
    session: Annotated[
        list[str] | None, typer.Option(help="What the hub has counted, this request included: window.writes=101.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show the policies in their order; with a request, which of them fit it, what they say, and why.

    Nothing is sent anywhere. Without --claim, the caller has no claims; without --session, it is the first request.

    ```console
    douane policy explain
    douane policy explain POST /api/v1/dashboard --connection datadog --body dashboard.json
    ```
    """
    from ext_proc.errors import ConfigError
    from ext_proc.rules import Grants, Policies, all_operations

    loaded = load_config(config)
    try:
        operations = all_operations(loaded.config)
        Grants(loaded.config, operations)
        policies = Policies(loaded.config, operations)
    except ConfigError as error:
        raise loaded.locate(error) from None
    if method is None:
        _show_rules(policies, as_json=as_json)
        return
    if url is None:
        raise typer.BadParameter("a request has a method and a URL, as in POST /api/v1/dashboard", param_hint="URL")
    name = _connection(loaded, connection)
    sent = _facts(policies, name, method, url, body, header or [], claim or [])
    facts = _seen(sent, session or [], loaded.config.recording.max_decoded)
    _show_request(policies, facts, sent.raw("request"), as_json=as_json)


@app.command()
def packs(
    name: Annotated[str | None, typer.Argument(help="A pack; by default all of them.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """List the packs of policies that come with Douane; of one, its settings and rules.

    `packs` in douane.yaml chooses them (docs/packs.md); `douane policy explain` shows what became of them.

    ```console
    douane policy packs
    douane policy packs datadog
    ```
    """
    from ext_proc.config.packs import names

    if name is None:
        _show_packs(as_json=as_json)
    elif name in names():
        _show_pack(name, as_json=as_json)
    else:
        raise typer.BadParameter(f"there is no pack {name!r}; known: {', '.join(names())}", param_hint="NAME")


def _show_packs(*, as_json: bool) -> None:
    from ext_proc.config.packs import names, pack

    rows = [{"pack": name, "about": pack(name).about, "rules": len(pack(name).rules)} for name in names()]
    print_rows(rows, as_json=as_json)


def _show_pack(name: str, *, as_json: bool) -> None:
    from ext_proc.config.packs import HOLD_SETTINGS, pack

    chosen = pack(name)
    settings = [
        {"setting": key, "type": one.type, "default": one.default, "about": one.about}
        for key, one in {**chosen.settings, **HOLD_SETTINGS}.items()
    ]
    print_rows(settings, as_json=as_json)
    if not as_json:
        typer.echo("")
    rules = [{"rule": r.name, "effect": r.effect, "mode": r.mode, "why": r.why} for r in chosen.rules]
    print_rows(rules, as_json=as_json)


def described(rule: Rule) -> dict[str, Any]:
    """A rule as a row: what it is, which requests it looks at, and what of them."""
    match = rule.policy.match
    return {
        "policy": rule.name,
        "digest": rule.digest,
        "effect": rule.policy.effect,
        "mode": rule.policy.mode,
        "connection": match.connection or "*",
        "match": list(match.operation) + [r for r in match.requests if r != "* /**" or not match.operation],
        "looks_at": sorted(rule.looks_at),
        "when": rule.policy.when or "always",
    }


def _show_rules(policies: Policies, *, as_json: bool) -> None:
    rows = [described(rule) for rule in policies.rules]
    if as_json:
        for row in rows:
            print_json(row)
        return
    rows = [{**row, "match": few(row["match"])} for row in rows]
    for line in PRECEDENCE:
        typer.echo(line)
    typer.echo("")
    names = ("policy", "digest", "effect", "mode", "connection", "match", "looks_at", "when")
    if rows:
        table(names, [[cell(row[name]) for name in names] for row in rows])
    else:
        typer.echo("There are no policies: what a grant allows passes.")


def _connection(loaded: Loaded, name: str | None) -> str:
    known = list(loaded.config.connections)
    if name is None and len(known) == 1:
        return known[0]
    if name not in known:
        raise typer.BadParameter(f"name one of: {', '.join(known) or 'there is none'}", param_hint="--connection")
    return name


def _facts(
    policies: Policies, connection: str, method: str, url: str, body: Path | None, headers: list[str], claims: list[str]
) -> Facts:
    from urllib.parse import urlsplit
    from uuid import UUID

    from ext_proc.errors import DouaneError
    from ext_proc.exchange import Caller, Exchange, Headers, SignedClaims, now_us
    from ext_proc.rules import Facts, Message

    parts = urlsplit(url)
    try:
        content = b"" if body is None else sys.stdin.buffer.read() if str(body) == "-" else body.read_bytes()
    except OSError as error:
        raise DouaneError("policy.unreadable", f"{body}: {(error.strerror or str(error)).lower()}") from None
    fields = Headers([(n.strip().lower(), v.strip().encode()) for n, _, v in (h.partition(":") for h in headers)])
    path = parts.path or "/"
    exchange = Exchange(
        exchange_id=UUID(int=0),
        connection=connection,
        method=method.upper(),
        scheme=parts.scheme or "https",
        authority=parts.netloc,
        path=path,
        query=parts.query,
        headers=fields,
        received_us=now_us(),
    )
    caller = Caller("", "", SignedClaims(dict(_pair(one) for one in claims)), UUID(int=0), "")
    operation = policies.operation(connection, exchange.method, path)
    return Facts(exchange, caller, operation=operation, request=Message(fields, content, len(content)))


def _seen(sent: Facts, session: list[str], max_decoded: int) -> Facts:
    """The facts as a gate would have them: the body without its codings, and a session of which this is the first
    request, but for what is told of it."""
    from ext_proc.rules import Facts, Message
    from ext_proc.stages.policy import decoded

    exchange, body = sent.exchange, sent.raw("request")
    write = int(exchange.method not in ("GET", "HEAD", "OPTIONS"))
    first = {"calls": 1, "writes": write, "targets": write, "bytes": len(body), "denied": 0}
    counters = {prefix + name: count for prefix in ("", "window.") for name, count in first.items()}
    for text in session:
        name, _, count = text.partition("=")
        if name not in counters or not count.isdecimal():
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(counters)}, and =N", param_hint="--session")
        counters[name] = int(count)
    request = Message(exchange.headers, decoded(exchange.headers, body, max_decoded), len(body))
    return Facts(exchange, sent.caller, operation=sent["operation"], request=request, counters=counters)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--claim")
    return name, value


def _show_request(policies: Policies, facts: Facts, body: bytes, *, as_json: bool) -> None:
    exchange = facts.exchange
    rows = []
    for rule in policies.fitting(exchange.connection, exchange.method, exchange.path):
        row = {name: value for name, value in described(rule).items() if name in ("policy", "digest", "effect", "mode")}
        if rule.for_responses:
            rows.append({**row, "says": "asked of the response", "values": {}})
            continue
        judgement = rule.judge(facts)
        says = "matches" if judgement.matched else judgement.uninspectable or "does not match"
        rows.append({**row, "says": says, "values": dict(judgement.values)})
    outcome = _outcome(policies, facts, body)
    if as_json:
        print_json({"operation": facts["operation"], **outcome, "rules": rows})
        return
    typer.echo(f"operation: {facts['operation'] or 'unknown'}")
    typer.echo(f"outcome:   {outcome['outcome']}" + (f" ({visible(outcome['why'])})" if outcome["why"] else ""))
    typer.echo("")
    names = ("policy", "digest", "effect", "mode", "says", "values")
    if rows:
        table(names, [[cell(row[name] or "") for name in names] for row in rows])
    else:
        typer.echo("No policy looks at this request.")


def _outcome(policies: Policies, facts: Facts, body: bytes) -> dict[str, str]:
    from ext_proc.decision import Deny
    from ext_proc.errors import ProtocolError
    from ext_proc.stages import protocol

    try:
        protocol.check(facts.exchange)
        protocol.check_body(facts.exchange, body)
    except ProtocolError as error:
        return {"outcome": "deny", "why": f"{error.reason}: {error.message}"}
    decision = policies.decide(facts)
    if isinstance(decision, Deny):
        return {"outcome": "deny", "why": f"{decision.reason}: {decision.message}"}
    if decision.hold is not None:
        wanted = [f"{r.policy}: {r.quorum} of {', '.join(r.approvers)}" for r in decision.hold.requirements]
        return {"outcome": "hold", "why": "; ".join(wanted)}
    return {"outcome": "passes, where a grant allows it", "why": ""}


policy_test.register(app)
policy_suggest.register(app)
