"""`douane envoy`: the proxy's side of the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from ext_proc.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, load_config
from ext_proc.cli.output import print_json


def register(app: typer.Typer, panel: str) -> None:
    envoy = typer.Typer(help="Look at Envoy's side: its CA, its configuration, its version.", no_args_is_help=True)
    app.add_typer(envoy, name="envoy", rich_help_panel=panel)

    @envoy.command()
    def ca(config: ConfigFile = DEFAULT_CONFIG) -> None:
        """Print the CA certificates that clients of TLS mode need: the public ones and this gate's own.

        The own one is made anew each time the gate starts, and can vouch for the registered hosts only.

        ```console
        douane envoy ca > douane-ca.pem && curl --cacert douane-ca.pem https://api.example.com/
        ```
        """
        from ext_proc.errors import DouaneError

        path = Path(load_config(config).config.gate.run_dir) / "ca.pem"
        try:
            typer.echo(path.read_text(), nl=False)
        except FileNotFoundError:
            raise DouaneError(
                "envoy.no_ca", f"{path} is not there", remedy="A gate makes it when it starts: `douane up`."
            ) from None

    @envoy.command("config")
    def show_config(config: ConfigFile = DEFAULT_CONFIG) -> None:
        """Print what Envoy is given for this configuration: listeners, clusters and routes, as JSON."""
        from ext_proc.xds.resources import build

        resources = build(load_config(config).config)
        shown = {
            kind: [message.to_dict() for message in messages]
            for kind, messages in (
                ("listeners", resources.listeners),
                ("clusters", resources.clusters),
                ("routes", resources.routes),
            )
        }
        typer.echo(json.dumps(shown, indent=2))

    @envoy.command()
    def version(as_json: AsJson = False) -> None:
        """Show which Envoy would run, and where it is. DOUANE_ENVOY names another."""
        from ext_proc.xds.envoy import Envoy

        found = Envoy.find()
        shown = ".".join(map(str, found.version))
        if as_json:
            print_json({"version": shown, "binary": str(found.binary)})
        else:
            typer.echo(f"{shown}  {found.binary}")
