"""`douane run`: a job's command with session keys in the place of its short-lived token."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from ext_proc.cli.options import DEFAULT_CONFIG, ConfigFile, load_config


def register(app: typer.Typer, panel: str) -> None:
    @app.command(
        rich_help_panel=panel, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
    )
    def run(
        command: Annotated[list[str], typer.Argument(help="The program and its arguments, after `--`.")],
        config: ConfigFile = DEFAULT_CONFIG,
        connection: Annotated[
            list[str] | None, typer.Option(help="Only this connection (may be repeated).", show_default="all")
        ] = None,
        assign: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="NAME=CONNECTION", help="Put a connection's session key into this variable."),
        ] = None,
        token_file: Annotated[
            Path | None, typer.Option(help="The file that holds the token.", show_default=False)
        ] = None,
        token_env: Annotated[str | None, typer.Option(help="The variable that holds the token.")] = None,
        audience: Annotated[
            str | None, typer.Option(help="The audience to ask GitHub for; by default the configured issuer's.")
        ] = None,
    ) -> None:
        """Run COMMAND with session keys: a job may then outlive its five-minute token.

        The token is exchanged once for a key per connection, which is revoked when COMMAND ends. COMMAND finds
        `DOUANE_SESSION_<CONNECTION>` (the key) and `DOUANE_URL_<CONNECTION>` (where to send traffic), in capitals and
        with _ for -; `--set` puts a key where the program looks for its API key.

        The token comes from --token-file, --token-env, $DOUANE_TOKEN, GitHub Actions (`permissions: id-token: write`),
        $DOUANE_ID_TOKEN (GitLab's `id_tokens:`) or $CI_JOB_JWT_V2, whichever is there first. COMMAND does not see the
        variable that the token came from. The exit code is COMMAND's.

        ```console
        douane run --set DD_API_KEY=datadog -- terraform apply
        douane run -- sh -c 'curl -H "authorization: Bearer $DOUANE_SESSION_GITHUB" $DOUANE_URL_GITHUB/user'
        ```
        """
        from ext_proc.cli.exchange import Keys
        from ext_proc.cli.token import find_token

        loaded = load_config(config)
        names = _connections(list(loaded.config.connections), connection)
        variables = _assignments(assign or [], names)
        token = find_token(loaded.config, os.environ, file=token_file, variable=token_env, audience=audience)
        environment = {n: v for n, v in os.environ.items() if n != token.variable}
        with Keys(loaded.config, names, token.value, explicit=connection is not None) as keys:
            environment |= keys.environment()
            for variable, name in variables.items():
                environment[variable] = keys.key(name)
            code = _run(command, environment)
        raise typer.Exit(code)


def _connections(known: list[str], wanted: list[str] | None) -> list[str]:
    for name in wanted or []:
        if name not in known:
            raise typer.BadParameter(f"there is no connection {name!r}; known: {', '.join(known)}")
    return wanted or known


def _assignments(given: list[str], names: list[str]) -> dict[str, str]:
    out = {}
    for one in given:
        variable, equals, name = one.partition("=")
        if not equals or not variable or name not in names:
            raise typer.BadParameter(
                f"{one!r} is not NAME=CONNECTION with a connection of {', '.join(names)}", param_hint="--set"
            )
        out[variable] = name
    return out


def _run(command: list[str], environment: dict[str, str]) -> int:
    """The command's exit code; 128 and the signal's number when it was killed, 127 when it is not there."""
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        typer.echo(f"error: {command[0]}: {(error.strerror or str(error)).lower()}", err=True)
        return 127 if isinstance(error, FileNotFoundError) else 126

    def forward(number: int, _frame: object) -> None:
        process.send_signal(number)

    former = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        code = process.wait()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    sys.stdout.flush()
    return code if code >= 0 else 128 - code
