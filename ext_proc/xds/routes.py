"""Route tables: one for each listener of base-URL mode, one for each host of TLS mode."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    FilterConfig,
    HeaderMatcher,
    RetryPolicy,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    RouteMatchConnectMatcher,
    VirtualHost,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from ext_proc.config.models import Connection
from ext_proc.xds import filters
from ext_proc.xds.filters import GATE, GUARD
from ext_proc.xds.naming import (
    LONGEST_SILENCE,
    base_routes,
    host_routes,
    refusal_route,
    route_name,
    upgrade_cluster,
)
from ext_proc.xds.replies import HOST_MISMATCH, METHOD_REFUSED, REQUEST_REFUSED
from ext_proc.xds.typed import pack
from ext_proc.xds.upstream import Upstream, upstream


def base_url(name: str, connection: Connection, inspected: frozenset[str]) -> RouteConfiguration:
    """Base-URL mode: whatever the Host header says, the port has said which connection is meant. `inspected` names the
    connections whose responses are looked into."""
    return _table(base_routes(name), [_virtual_host(name, ["*"], name, connection, inspected)])


def tls_host(host: str, name: str, connection: Connection, inspected: frozenset[str]) -> RouteConfiguration:
    """TLS mode, for the connection opened with this host's SNI: Host must say the same, on any port."""
    mismatch = _refuse(name, "request.host_mismatch", RouteMatch(prefix="/"), HOST_MISMATCH)
    elsewhere = VirtualHost(name="elsewhere", domains=["*"], routes=[*_refusals(name), mismatch])
    table = _table(host_routes(host), [_virtual_host(host, [host], name, connection, inspected), elsewhere])
    table.ignore_port_in_host_matching = True
    return table


def _table(name: str, virtual_hosts: list[VirtualHost]) -> RouteConfiguration:
    return RouteConfiguration(name=name, virtual_hosts=virtual_hosts)


def _virtual_host(
    name: str, domains: list[str], connection_name: str, connection: Connection, inspected: frozenset[str]
) -> VirtualHost:
    target = upstream(connection_name, connection)
    route = route_name(connection_name, connection, inspected)
    duplex = {GATE: pack(filters.inspected())} if connection_name in inspected else {}
    routes = _refusals(connection_name)
    if target.tls:
        upgrade = HeaderMatcher(name="upgrade", string_match=StringMatcher(exact="websocket", ignore_case=True))
        routes.append(_route(route, [upgrade], _action(upgrade_cluster(route), target, connection), duplex))
    routes.append(_route(route, [], _action(route, target, connection), duplex))
    return VirtualHost(name=name, domains=domains, routes=routes)


def _route(name: str, headers: list[HeaderMatcher], action: RouteAction, overrides: dict[str, Any]) -> Route:
    # No body is kept for a retry: Envoy 1.40 would send it a second time to the upstream when trailers follow it (the
    # gate continues the request, and that passes on what the router had put aside). So only requests without a body
    # are sent once more.
    return Route(
        name=name,
        match=RouteMatch(prefix="/", headers=headers),
        route=action,
        request_body_buffer_limit=0,
        typed_per_filter_config=overrides,
    )


def _action(cluster: str, target: Upstream, connection: Connection) -> RouteAction:
    return RouteAction(
        cluster=cluster,
        host_rewrite_literal=target.authority,
        prefix_rewrite=f"{target.prefix}/" if target.prefix else "",
        # `timeout` would cover the whole answer and cut long ones. The timeout of a try does not: once the answer
        # has begun, it is ignored.
        timeout=timedelta(0),
        retry_policy=RetryPolicy(
            # Only what certainly did not reach the upstream is sent once more; and see `_route`.
            retry_on="connect-failure,refused-stream",
            num_retries=1,
            per_try_timeout=connection.timeout,
        ),
        idle_timeout=max(LONGEST_SILENCE, connection.timeout + timedelta(minutes=1)),
    )


def _refusals(name: str) -> list[Route]:
    """What no connection serves: CONNECT, several Host headers (Envoy joins them with commas), and escaped slashes.
    The last are refused here and not by Envoy's own check, which comes before the client's x-request-id is replaced:
    so the refusal has an id of ours, and is recorded."""
    several = HeaderMatcher(name=":authority", string_match=StringMatcher(contains=","))
    return [
        _refuse(name, "request.method", RouteMatch(connect_matcher=RouteMatchConnectMatcher()), METHOD_REFUSED),
        _refuse(name, "request.host", RouteMatch(prefix="/", headers=[several]), REQUEST_REFUSED),
        _refuse(
            name, "request.path", RouteMatch(safe_regex=RegexMatcher(regex=r"(?i).*%(?:2f|5c).*")), REQUEST_REFUSED
        ),
    ]


def _refuse(name: str, reason: str, match: RouteMatch, status: int) -> Route:
    """A direct response, whose body `replies` makes. The gate and its guard are off: nothing goes anywhere, and no
    worker is asked."""
    off = pack(FilterConfig(disabled=True))
    return Route(
        name=refusal_route(name, reason),
        match=match,
        direct_response=DirectResponseAction(status=status),
        typed_per_filter_config={GATE: off, GUARD: off},
    )
