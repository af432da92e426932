"""`douane login`: who approves proves who they are."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ext_proc.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, load_config
from ext_proc.cli.output import print_json, visible

if TYPE_CHECKING:
    from ext_proc.cli.hub import Place
    from ext_proc.cli.provider import Prompt
    from ext_proc.cli.sign_in import Login

HubUrl = Annotated[
    str | None,
    typer.Option("--hub", metavar="URL", help="The hub's console, instead of the one of the configuration."),
]


def find(config: Path, hub: str | None) -> Place:
    """Which hub a command means."""
    from ext_proc.cli.hub import place

    return place(None if hub else load_config(config).config, hub)


def register(app: typer.Typer, panel: str) -> None:
    @app.command(rich_help_panel=panel)
    def login(
        config: ConfigFile = DEFAULT_CONFIG,
        hub: HubUrl = None,
        device: Annotated[
            bool | None,
            typer.Option(
                "--device/--browser",
                help="Sign in with a code on any device, or in this machine's browser.",
                show_default="what the provider offers",
            ),
        ] = None,
        status: Annotated[bool, typer.Option("--status", help="Only tell who is signed in.")] = False,
        logout: Annotated[bool, typer.Option("--logout", help="Forget the sign-in.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Sign in at the approvers' provider (`approvals.sign_in`), to decide held requests.

        The sign-in is kept for this hub alone, readable by you alone, in $XDG_CONFIG_HOME/douane/login, and renewed
        until the provider ends it. --status exits with 1 where nobody is signed in.

        ```console
        douane login
        douane login --hub https://douane.example --browser
        ```
        """
        from ext_proc.cli.sign_in import Login

        where = find(config, hub)
        kept = Login.of(where)
        if logout:
            typer.echo("Signed out." if kept.forget() else "Nobody was signed in.")
            return
        if not status:
            _sign_in(where, kept, device)
        _tell(where, kept, as_json)


def _sign_in(where: Place, login: Login, device: bool | None) -> None:
    from ext_proc.cli.provider import Provider

    issuer, client_id, scopes, user_claim = _settings(where)
    provider = Provider.discover(issuer, client_id, where.ca_file)
    by_device = provider.has_device_flow if device is None else device
    answer = provider.by_device(scopes, _show) if by_device else provider.by_browser(scopes, _open)
    login.keep(provider.kept(answer, where.url, user_claim))


def _settings(where: Place) -> tuple[str, str, str, str]:
    """(issuer, client, scopes, the claim that names people): from the configuration, or as the hub tells."""
    from ext_proc.cli.hub import Hub
    from ext_proc.errors import IdentityError

    if where.configured:
        found = where.sign_in.model_dump() if where.sign_in else {}
    else:
        found = Hub(where, None).get("/api/sign-in")
    if not found.get("issuer"):
        raise IdentityError(
            "login.no_provider",
            "nobody can sign in to this hub: approvals.sign_in is not configured",
            remedy="Configure it, or decide as the operator of the hub's machine: --as local.",
        )
    return str(found["issuer"]), str(found["client_id"]), " ".join(found["scopes"]), str(found["user_claim"])


def _show(prompt: Prompt) -> None:
    typer.echo(f"Sign in at  {visible(prompt.url)}", err=True)
    if prompt.code:
        typer.echo(f"with code   {visible(prompt.code)}", err=True)


def _open(prompt: Prompt) -> None:
    import webbrowser

    typer.echo(f"Your browser opens; if it does not, go to\n{visible(prompt.url)}", err=True)
    if not os.environ.get("DOUANE_NO_BROWSER"):
        webbrowser.open(prompt.url)


def _tell(where: Place, login: Login, as_json: bool) -> None:
    kept = login.kept()
    left = kept.expires - time.time() if kept else 0
    alive = kept is not None and (left > 0 or bool(kept.refresh_token))
    if as_json:
        until = datetime.fromtimestamp(kept.expires, UTC).isoformat() if kept else None
        row = {"hub": where.url, "user": kept.user if kept else None, "issuer": kept.issuer if kept else None}
        print_json({**row, "signed_in": alive, "token_expires_at": until})
    elif kept is None:
        typer.echo(f"Nobody is signed in to {where.url}.")
    else:
        state = "signed in" if alive else "expired: `douane login` again"
        typer.echo(f"{visible(kept.user)} at {where.url} ({visible(kept.issuer)}): {state}")
    if not alive:
        raise typer.Exit(1)
