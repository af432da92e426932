"""`up`, `gate`, `hub` and `store`: commands that stay in the foreground until they are stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ext_proc.cli.options import DEFAULT_CONFIG, ConfigFile, load_config

if TYPE_CHECKING:
    from ext_proc.config import Loaded
    from ext_proc.supervisor.plan import Role

_EXAMPLE = "SELECT ts, method, path, decision FROM exchanges ORDER BY ts DESC LIMIT 10"


def register(app: typer.Typer, panel: str) -> None:
    @app.command(rich_help_panel=panel)
    def up(config: ConfigFile = DEFAULT_CONFIG) -> None:
        """Run everything on this machine: store, hub, workers and Envoy.

        Stays in the foreground. Ctrl-C or SIGTERM stops it: open exchanges get `gate.drain`, the spool is shipped; a
        second one does not wait. A change of douane.yaml is taken while traffic flows, or refused as a whole; SIGHUP
        takes it again.

        ```console
        douane up
        douane up -c /etc/douane/douane.yaml
        ```
        """
        _serve(config, "up")

    @app.command(rich_help_panel=panel)
    def gate(config: ConfigFile = DEFAULT_CONFIG) -> None:
        """Run a gate alone: workers and Envoy. The hub is elsewhere (`hub.url`).

        `gate.health_listen` answers /readyz for probes.
        """
        _serve(config, "gate")

    @app.command(rich_help_panel=panel)
    def hub(config: ConfigFile = DEFAULT_CONFIG) -> None:
        """Run the hub alone, with the store if it is embedded. Gates connect to `hub.listen`."""
        _serve(config, "hub")

    @app.command(rich_help_panel=panel)
    def store(config: ConfigFile = DEFAULT_CONFIG) -> None:
        """Run the embedded store alone: ClickHouse's HTTP interface on `store.listen`, for reading a ledger at rest.

        Users `auditor` (reads) and `writer`; their passwords are files in the store's folder.

        ```console
        douane store &
        curl -u auditor:$(cat var/store/auditor.password) 127.0.0.1:15123 -d 'SELECT count() FROM douane.exchanges'
        ```
        """
        from ext_proc.errors import ConfigError
        from ext_proc.hub.store import serve
        from ext_proc.supervisor.privacy import protect_memory

        loaded = load_config(config)
        if not loaded.config.store.url.startswith("embedded:"):
            raise ConfigError(
                "config.store_url",
                f"the ledger is in {loaded.config.store.url}, there is nothing to run here",
                where=loaded.where("store", "url"),
                remedy="`douane store` is for `store.url: embedded:FOLDER`.",
            )
        protect_memory()
        typer.echo(
            f"The store serves its ledger at http://{loaded.config.store.listen} (docs/sql.md). Ctrl-C stops it."
        )
        serve(loaded.config.store, Path(loaded.config.store.url.removeprefix("embedded:")))


def _serve(config: Path, role: Role) -> None:
    from ext_proc.supervisor.run import run

    raise typer.Exit(run(config, role, check=_check, on_ready=lambda loaded: welcome(loaded, role)))


def _check(loaded: Loaded) -> None:
    """What a worker would refuse, before anything is started, with its line."""
    from ext_proc.cli.setup import compile_rules

    compile_rules(loaded)


def welcome(loaded: Loaded, role: Role) -> None:
    """What runs, where to send traffic, and how to see what passed."""
    config = loaded.config
    if role == "hub":
        typer.echo(
            f"The hub takes gates at {config.hub.listen}. http://{config.console.listen}/readyz tells its state."
        )
        return
    typer.echo("\nDouane is up. Send traffic to:")
    for name, connection in config.connections.items():
        if connection.listen is not None:
            typer.echo(f"  {name:<16} http://{connection.listen}  ->  {connection.upstream}")
        if connection.hosts:
            hosts = ", ".join(connection.hosts)
            typer.echo(f"  {name:<16} https://{config.gate.tls_listen} as {hosts}  ->  {connection.upstream}")
    if any(c.hosts for c in config.connections.values()):
        typer.echo(f"  TLS clients trust {config.gate.run_dir}/ca.pem (`douane envoy ca` prints it).")
    if role == "gate":
        typer.echo("\nThe ledger is at the hub: `douane sessions`, `search` and `sql` work with its configuration.")
    else:
        option = "" if loaded.path == Path.cwd() / DEFAULT_CONFIG else f" -c {loaded.path}"
        typer.echo("\nSee what passed, from another terminal:")
        typer.echo(f"  douane sessions{option}")
        typer.echo(f"  douane search TEXT{option}")
        typer.echo(f"  douane sql '{_EXAMPLE}'{option}")
    typer.echo(f"\nLogs are in {config.gate.run_dir}/logs. Ctrl-C stops it.")
    if role == "up":
        typer.echo(
            "Under one user this is a guard-rail, not a boundary: whoever runs as you can read the ledger and the\n"
            "credentials. Run the gate as another user, or beside the job in a pod, to make it one.\n"
        )
