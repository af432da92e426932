"""Whether what the configuration names is there: files and environment variables. For `check` and `up`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ext_proc.config.explain import raise_all
from ext_proc.config.models import Config
from ext_proc.config.positions import YamlPath, show
from ext_proc.config.sources import WEB_SOURCES, KubernetesKey, SourceEnv, SourceFile, models_in
from ext_proc.errors import ConfigError

if TYPE_CHECKING:
    from ext_proc.config.load import Loaded


def missing_files(loaded: Loaded) -> None:
    """ConfigError config.missing_file for each named file that cannot be read by this user."""
    raise_all(
        [
            ConfigError(
                "config.missing_file",
                f"{show(path)}: {file} cannot be read: {why}",
                where=loaded.where(*path),
                remedy="Make it, or correct the path; relative ones mean the folder of the configuration.",
            )
            for path, file in _files(loaded.config)
            if (why := _unreadable(Path(file)))
        ]
    )


def unset_variables(config: Config, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(place, NAME) for each `env` source whose variable is missing or empty: its requests would get a 503."""
    for path, source in models_in(config):
        if isinstance(source, SourceEnv) and not environment.get(source.env):
            yield show(path), source.env


def _files(config: Config) -> Iterator[tuple[YamlPath, str]]:
    for name, issuer in config.issuers.items():
        if issuer.ca_file:
            yield ("issuers", name, "ca_file"), issuer.ca_file
    for name, connection in config.connections.items():
        if connection.upstream_ca_file:
            yield ("connections", name, "upstream_ca_file"), connection.upstream_ca_file
        if connection.operations is not None and connection.operations.openapi:
            yield ("connections", name, "operations", "openapi"), connection.operations.openapi
    if config.store.ca_file:
        yield ("store", "ca_file"), config.store.ca_file
    if config.hub.tls is not None:
        for key in ("cert_file", "key_file", "ca_file"):
            yield ("hub", "tls", key), getattr(config.hub.tls, key)
    for path, found in models_in(config):
        if isinstance(found, SourceFile):
            yield (*path, "file"), found.file
        elif isinstance(found, KubernetesKey):
            yield (*path, "key"), str(Path(found.mount) / found.key)
        elif isinstance(found, WEB_SOURCES) and found.ca_file:
            yield (*path, "ca_file"), found.ca_file


def _unreadable(path: Path) -> str:
    if not path.is_file():
        return "there is no such file"
    return "" if os.access(path, os.R_OK) else "permission denied"
