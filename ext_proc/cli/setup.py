"""`init` and `check`: from nothing to a configuration that will run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import typer

from ext_proc.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, load_config
from ext_proc.cli.output import few, print_json, table
from ext_proc.errors import DouaneError

if TYPE_CHECKING:
    from ext_proc.config import Config, Loaded


def register(app: typer.Typer, panel: str) -> None:
    @app.command(rich_help_panel=panel)
    def init(config: ConfigFile = DEFAULT_CONFIG) -> None:
        """Write a commented douane.yaml to start from. Never overwrites one.

        ```console
        douane init
        $EDITOR douane.yaml && douane check
        ```
        """
        text = files("ext_proc.cli").joinpath("init.yaml").read_text(encoding="utf-8")
        try:
            config.parent.mkdir(parents=True, exist_ok=True)
            with config.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise DouaneError(
                "init.exists", f"{config} is there already", remedy="Edit it, or name another with -c."
            ) from None
        except OSError as error:
            raise DouaneError("init.unwritable", f"{config}: {(error.strerror or str(error)).lower()}") from None
        typer.echo(f"{config} is written. Next: edit it, then `douane check` and `douane up`.")

    @app.command(rich_help_panel=panel)
    def check(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
        """Check the configuration without running anything, and show what it amounts to.

        Strict: an unknown key is an error, with its line. Rules are compiled, named files looked for, and Envoy
        validates what it would be given. Exit code 1 when something is wrong.

        ```console
        douane check
        douane check -c /etc/douane/douane.yaml --json
        ```
        """
        loaded = load_config(config)
        compile_rules(loaded)
        from ext_proc.config.surroundings import missing_files, unset_variables

        missing_files(loaded)
        from ext_proc.xds.envoy import Envoy

        Envoy.find().validate(loaded.config)
        warnings = [f"{place}: ${name} is not set here" for place, name in unset_variables(loaded.config, os.environ)]
        warnings += _too_long_for_sockets(loaded.config)
        if as_json:
            print_json(
                {"path": str(loaded.path), "digest": loaded.digest, "warnings": warnings, **effective(loaded.config)}
            )
            return
        _print_effective(loaded, warnings)


def _too_long_for_sockets(config: Config) -> list[str]:
    """A warning only: a hub on TCP has no socket there, and the file may be meant for another folder."""
    from ext_proc.errors import ConfigError
    from ext_proc.supervisor.folder import check_socket_paths

    try:
        check_socket_paths(config)
    except ConfigError as error:
        return [f"{error.message}. {error.remedy}"]
    return []


def compile_rules(loaded: Loaded) -> None:
    """Grants, scopes, policies, masking paths and credentials, as a worker would compile them. ConfigError with its
    place."""
    from ext_proc.errors import ConfigError
    from ext_proc.masking import Masker
    from ext_proc.rules import Grants, Policies, all_operations

    try:
        operations = all_operations(loaded.config)
        Grants(loaded.config, operations)
        Policies(loaded.config, operations)
        Masker(loaded.config.masking, b"\0" * 32, loaded.config.recording.max_decoded)
    except ConfigError as error:
        raise loaded.locate(error) from None
    _open_credentials(loaded)


def _open_credentials(loaded: Loaded) -> None:
    """Credentials as a worker would open them, plugins too; nothing is fetched."""
    from ext_proc.config.positions import show
    from ext_proc.credentials import Credentials, Sources, Surroundings
    from ext_proc.errors import ConfigError

    gate = loaded.config.gate
    around = Surroundings(gate.name, gate.workload_token_file)
    for name, connection in loaded.config.connections.items():
        for n, credential in enumerate(connection.credentials):
            try:
                Credentials([credential], Sources(), around)
            except ConfigError as error:
                place = ("connections", name, "credentials", n)
                message = f"{show(place)}: {error.message}"
                raise ConfigError(error.reason, message, where=loaded.where(*place), remedy=error.remedy) from None


def effective(config: Config) -> dict[str, Any]:
    """What the configuration amounts to: connections with their addresses and scopes, grants, policies."""
    return {
        "connections": {
            name: {
                "send_traffic_to": send_traffic_to(config, name),
                "upstream": connection.upstream,
                "identity": f"{connection.identity.require} in {', '.join(connection.identity.headers)}",
                "credentials": [f"{c.label} into {c.place}" for c in connection.credentials],
                "scopes": {scope: list(requests) for scope, requests in connection.scopes.items()},
            }
            for name, connection in config.connections.items()
        },
        "grants": [
            {"name": g.name, "issuer": g.issuer, "if": g.condition, "allow": {c: list(s) for c, s in g.allow.items()}}
            for g in config.grants
        ],
        "policies": [
            {
                "name": p.name,
                "effect": p.effect,
                "mode": p.mode,
                "connection": p.match.connection or "*",
                "requests": [*p.match.operation, *p.match.requests],
            }
            for p in config.policies
        ],
        "store": config.store.url,
        "durability": config.recording.durability,
    }


def send_traffic_to(config: Config, name: str) -> list[str]:
    """The addresses at which clients reach a connection."""
    connection = config.connections[name]
    out = [f"http://{connection.listen}"] if connection.listen is not None else []
    return out + [f"https://{host} at {config.gate.tls_listen}" for host in connection.hosts]


def _print_effective(loaded: Loaded, warnings: list[str]) -> None:
    shown = effective(loaded.config)
    rows = [
        (name, "\n".join(c["send_traffic_to"]), c["upstream"], c["identity"], ", ".join(c["credentials"]) or "none")
        for name, c in shown["connections"].items()
    ]
    _section("Connections", ("connection", "send traffic to", "upstream", "identity", "credentials"), rows)
    scopes = [
        (name, scope, request)
        for name, c in shown["connections"].items()
        for scope, requests in c["scopes"].items()
        for request in requests
    ]
    _section("Scopes", ("connection", "scope", "request"), scopes)
    grants = [
        (g["name"], g["issuer"], g["if"], connection, ", ".join(granted))
        for g in shown["grants"]
        for connection, granted in g["allow"].items()
    ]
    _section("Grants (everything else is denied)", ("grant", "issuer", "if", "connection", "scopes"), grants)
    policies = [(p["name"], p["effect"], p["mode"], p["connection"], few(p["requests"])) for p in shown["policies"]]
    _section("Policies", ("policy", "effect", "mode", "connection", "requests"), policies)
    for warning in warnings:
        typer.secho(f"warning: {warning}", err=True, fg="yellow")
    if not loaded.config.connections:
        typer.secho("warning: there is no connection, so nothing can pass", err=True, fg="yellow")
    typer.echo(f"{loaded.path} is good. Digest {loaded.digest[:12]}.")


def _section(title: str, names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if rows:
        typer.secho(title, bold=True)
        flat = [tuple(value.replace("\n", ", ") for value in row) for row in rows]
        table(names, flat)
        typer.echo("")
