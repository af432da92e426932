"""douane.yaml as everything that Envoy is given: built here, written by `files`, confirmed by `apply`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration

from ext_proc.config.models import Config
from ext_proc.config.responses import inspected
from ext_proc.xds import clusters, listeners, routes
from ext_proc.xds.upstream import system_ca_bundle, upstream


@dataclass(frozen=True, slots=True)
class Resources:
    """What Envoy serves for one configuration. `tls_hosts` need a certificate each before this is written."""

    listeners: tuple[Listener, ...]
    clusters: tuple[Cluster, ...]
    routes: tuple[RouteConfiguration, ...]
    tls_hosts: tuple[str, ...]


def build(config: Config, *, inline_routes: bool = False) -> Resources:
    """The resources of a configuration.

    `inline_routes` puts the route tables into the listeners, where Envoy's `--mode validate` sees them.
    ConfigError when an upstream is no URL, or https is used on a machine without CA certificates.
    """
    hosts = _hosts(config)
    whole = inspected(config)
    tables = {
        table.name: table
        for table in (
            *(routes.base_url(name, c, whole) for name, c in config.connections.items() if c.listen is not None),
            *(routes.tls_host(host, name, config.connections[name], whole) for host, name in hosts.items()),
        )
    }
    inline: Mapping[str, RouteConfiguration] | None = tables if inline_routes else None
    serving = [listeners.base_url(name, c, inline) for name, c in config.connections.items() if c.listen is not None]
    if hosts and config.gate.tls_listen is not None:
        serving.append(listeners.tls(config.gate.tls_listen, hosts, inline))
    return Resources(
        listeners=tuple(serving),
        clusters=(clusters.workers(config.gate.workers), *_upstreams(config)),
        routes=tuple(tables.values()),
        tls_hosts=tuple(sorted(hosts)),
    )


def _hosts(config: Config) -> dict[str, str]:
    """Each TLS host's connection."""
    if config.gate.tls_listen is None:
        return {}
    return {host: name for name, connection in config.connections.items() for host in connection.hosts}


def _upstreams(config: Config) -> list[Cluster]:
    public = any(upstream(n, c).tls and not c.upstream_ca_file for n, c in config.connections.items())
    bundle = str(system_ca_bundle()) if public else ""
    return [
        cluster
        for n, c in config.connections.items()
        for cluster in clusters.upstreams(n, c, inspected(config), bundle)
    ]
