"""Names that Envoy's configuration and the workers must agree on. Imports nothing heavy: workers use it too."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Final

from ext_proc.config.models import Connection

WORKERS: Final = "workers"
"""The cluster of ext_proc workers, which also take the access log."""
VERDICT_NAMESPACE: Final = "gate"
VERDICT_KEY: Final = "verdict"
VERDICT_ALLOW: Final = "allow"
"""Dynamic metadata that the guard demands: `gate: {verdict: allow}`, sent with the late header response."""
ACCESS_LOG: Final = "douane"
"""The access log's name on the wire."""
LONGEST_SILENCE: Final = timedelta(hours=1)
"""How long a stream may stand still: a hold, an idle WebSocket, a server-sent event that does not come. What is
silent longer is taken for wedged and ended, so that a stuck worker cannot hang its clients for ever."""

DRAIN: Final = LONGEST_SILENCE + timedelta(minutes=1)
"""How long a listener that was taken away still serves what is open."""


def route_name(connection_name: str, connection: Connection, inspected: frozenset[str]) -> str:
    """`CONNECTION@DIGEST`: Envoy's route and cluster name, told to the worker as attribute `xds.route_name`.

    The digest (8 hex digits of SHA-256) covers every field that decides where requests go and who is believed to
    answer there, so a worker can refuse to inject a credential on a route to an upstream that its snapshot of the
    configuration does not have. It also covers whether the route's responses are looked into (the connection is among
    `inspected`, see `config.inspected`): Envoy and the worker speak another way then, and a snapshot without response
    rules must not be asked. What only changes how requests are treated (timeouts, scopes) is left out.
    """
    fields: list[object] = [connection.upstream, connection.upstream_ca_file, connection.upstream_http2]
    if connection_name in inspected:
        fields.append("inspected")
    digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
    return f"{connection_name}@{digest[:8]}"


def refusal_route(connection_name: str, reason: str) -> str:
    """`CONNECTION@REASON`: the name of a route that refuses by itself. The access log tells it to the worker, so the
    ledger has the reason that the client was given. A reason has a dot, a digest has none."""
    return f"{connection_name}@{reason}"


def worker_socket(slot: int) -> str:
    """The unix socket of worker `slot`, relative to the run folder."""
    return f"worker-{slot}.sock"


def upgrade_cluster(route: str) -> str:
    """The cluster of the same upstream that speaks HTTP/1.1 only, for protocol upgrades."""
    return f"{route}/http1"


def base_routes(connection_name: str) -> str:
    """The route table of a connection's own listener."""
    return f"base.{connection_name}"


def host_routes(host: str) -> str:
    """The route table of a host in TLS mode."""
    return f"tls.{host}"


LISTENERS_FILE: Final = "envoy/lds.json"
CLUSTERS_FILE: Final = "envoy/cds.json"
"""Resource files, relative to the run folder; the bootstrap names these two."""


def routes_file(routes: str) -> str:
    return f"envoy/rds/{routes}.json"


def certificate_file(host: str) -> str:
    return f"envoy/tls/{host}.crt"


def key_file(host: str) -> str:
    return f"envoy/tls/{host}.key"
