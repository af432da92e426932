"""`douane approvals`: what waits for a person, and the person's yes or no."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from ext_proc.cli.login import HubUrl, find
from ext_proc.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, Limit
from ext_proc.cli.output import print_json, table, visible

if TYPE_CHECKING:
    from ext_proc.cli.hub import Hub, Who

As = Annotated[
    str,
    typer.Option(
        "--as",
        metavar="local|signed-in",
        help="As this machine's operator over the hub's own socket, or signed in.",
        show_default="local where nobody can sign in",
    ),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="The approval's id, or its first digits.")]
Comment = Annotated[
    str, typer.Option("--comment", "-m", metavar="TEXT", help="Why; the client is told, and it is kept.")
]

_STATES = ("open", "all", "requested", "approved", "used", "denied", "expired", "withdrawn")
_ID = re.compile(r"[0-9a-fA-F]{4,24}")
_SHORT = 12
_AGAIN_S = 2.0


def register(app: typer.Typer, panel: str) -> None:
    group = typer.Typer(no_args_is_help=True, help="Held requests: look at them, approve or deny them.")
    app.add_typer(group, name="approvals", rich_help_panel=panel)

    @group.command("list")
    def list_(
        config: ConfigFile = DEFAULT_CONFIG,
        hub: HubUrl = None,
        who: As = "auto",
        state: Annotated[str, typer.Option(help=f"Which: {', '.join(_STATES)}.")] = "open",
        limit: Limit = 100,
        as_json: AsJson = False,
    ) -> None:
        """List held requests that you may decide, the newest first.

        ```console
        douane approvals list
        douane approvals list --state all --json | jq -r 'select(.state == "denied") | .comment'
        ```
        """
        if state not in _STATES:
            raise typer.BadParameter(f"must be one of {', '.join(_STATES)}", param_hint="--state")
        found = _hub(config, hub, who).get(f"/api/approvals?state={state}&limit={min(limit, 1000)}")
        if as_json:
            for one in found["approvals"]:
                print_json(one)
            return
        columns = ("id", "state", "since", "who", "connection", "request", "policy", "missing")
        table(columns, [_row(one) for one in found["approvals"]])
        if not found["approvals"]:
            typer.echo(f"Nothing waits for {visible(found['you'])}.", err=True)

    @group.command()
    def show(
        approval_id: Id,
        config: ConfigFile = DEFAULT_CONFIG,
        hub: HubUrl = None,
        who: As = "auto",
        as_json: AsJson = False,
    ) -> None:
        """Show a held request as those who decide must see it: who, what, why it is held.

        Secrets are masked. What the sender wrote cannot drive your terminal: control characters are shown, not obeyed.
        """
        from ext_proc.cli.held import print_held

        found = _one(_hub(config, hub, who), approval_id)
        if as_json:
            print_json(found)
        else:
            print_held(found)

    @group.command()
    def approve(
        approval_id: Id,
        config: ConfigFile = DEFAULT_CONFIG,
        hub: HubUrl = None,
        who: As = "auto",
        comment: Comment = "",
        as_json: AsJson = False,
    ) -> None:
        """Say yes. The request passes once, when everybody who must has said so.

        ```console
        douane approvals approve 5f0c2a9e41bb --comment "checked with the owner"
        ```
        """
        _decide(_hub(config, hub, who), approval_id, "approve", comment, as_json)

    @group.command()
    def deny(
        approval_id: Id,
        config: ConfigFile = DEFAULT_CONFIG,
        hub: HubUrl = None,
        who: As = "auto",
        comment: Comment = "",
        as_json: AsJson = False,
    ) -> None:
        """Say no. One no is enough; of what was approved and not used yet, it takes the approval back."""
        _decide(_hub(config, hub, who), approval_id, "deny", comment, as_json)

    @group.command()
    def watch(
        config: ConfigFile = DEFAULT_CONFIG,
        hub: HubUrl = None,
        who: As = "auto",
        exit_after: Annotated[
            int | None, typer.Option(min=1, metavar="N", help="End when so many requests were printed.")
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Print requests that wait, those of now and those to come.

        ```console
        douane approvals watch --json | jq -r .id
        ```
        """
        _watch(_hub(config, hub, who), exit_after, as_json)


def _hub(config: Path, hub: str | None, who: str) -> Hub:
    from ext_proc.cli.hub import connect

    if who not in ("auto", "local", "signed-in"):
        raise typer.BadParameter("must be local or signed-in", param_hint="--as")
    return connect(find(config, hub), cast("Who", who))


def _one(hub: Hub, approval_id: str) -> dict[str, Any]:
    if not _ID.fullmatch(approval_id):
        raise typer.BadParameter(f"{approval_id!r} is not an approval's id", param_hint="ID")
    return hub.get(f"/api/approvals/{approval_id.lower()}")


def _decide(hub: Hub, approval_id: str, what: Literal["approve", "deny"], comment: str, as_json: bool) -> None:
    asked = _one(hub, approval_id)
    decided = hub.decide(asked["id"], what, comment)
    if as_json:
        print_json(decided)
        return
    missing = sum(one["missing"] for one in decided["requirements"])
    words = decided["state"]
    if words == "requested":
        words = f"your yes counts; {missing} more {'person is' if missing == 1 else 'people are'} needed"
    typer.echo(f"{decided['id'][:_SHORT]}  {visible(_request(decided))}: {words} ({visible(decided['you'])})")


def _watch(hub: Hub, exit_after: int | None, as_json: bool) -> None:
    from ext_proc.errors import HubError

    found = hub.get("/api/approvals?state=requested&limit=1000")
    printed, last = set(), int(found["last_event"])
    waiting = list(reversed(found["approvals"]))
    while True:
        for one in waiting:
            if one["id"] not in printed:
                printed.add(one["id"])
                _announce(one, as_json)
                if exit_after is not None and len(printed) >= exit_after:
                    return
        waiting = []
        try:
            for number, happened in hub.events(last):
                last = number
                if happened is not None and happened["event"] == "requested":
                    waiting = [happened["approval"]]
                    break
        except HubError:
            time.sleep(_AGAIN_S)  # it restarts; what was waiting still is


def _announce(one: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(one)
    else:
        since, policies = one["requested_at"][:19], ", ".join(r["policy"] for r in one["requirements"])
        who = one["session_label"] or one["subject"]
        typer.echo(f"{one['id'][:_SHORT]}  {since}  {visible(who)}  {visible(_request(one))}  ({visible(policies)})")


def _row(one: dict[str, Any]) -> list[str]:
    missing = [f"{r['missing']} of {'/'.join(r['approvers'])}" for r in one["requirements"] if r["missing"]]
    cells = [
        one["id"][:_SHORT],
        one["state"],
        one["requested_at"][:19],
        one["session_label"] or one["subject"],
        one["connection"],
        _request(one),
        ", ".join(r["policy"] for r in one["requirements"]),
        ", ".join(missing),
    ]
    return [visible(cell) for cell in cells]


def _request(one: dict[str, Any]) -> str:
    operation = f" ({one['operation']})" if one["operation"] else ""
    return f"{one['method']} {one['path']}{operation}"
