"""Listeners: a port of its own for each connection in base-URL mode, one port for all hosts in TLS mode.

A listener changes only when its address, or the set of TLS hosts, does: a changed listener drains its connections,
and with them what is held. Everything that changes more often is in the routes and clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutation as Mutation,
)
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutationRemoveOnMatch,
)
from envoy_data_plane.envoy.config.core.v3 import (
    CidrRange,
    DataSource,
    HttpProtocolOptions,
    SchemeHeaderTransformation,
    TransportSocket,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import (
    Filter,
    FilterChain,
    FilterChainMatch,
    Listener,
    ListenerConnectionBalanceConfig,
    ListenerConnectionBalanceConfigExactBalance,
    ListenerFilter,
)
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 import TlsInspector
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpConnectionManagerInternalAddressConfig,
    HttpConnectionManagerServerHeaderTransformation,
    HttpConnectionManagerUpgradeConfig,
    Rds,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CommonTlsContext,
    DownstreamTlsContext,
    TlsCertificate,
    TlsParameters,
    TlsParametersTlsProtocol,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from ext_proc.config.models import Connection
from ext_proc.xds.clusters import BUFFER, HTTP1, HTTP2
from ext_proc.xds.filters import access_log, http_filters
from ext_proc.xds.naming import LONGEST_SILENCE, base_routes, certificate_file, host_routes, key_file, routes_file
from ext_proc.xds.replies import local_reply_config
from ext_proc.xds.typed import pack, socket_address, watched_file

RoutesInline = Mapping[str, RouteConfiguration]
"""Route tables by name, put into the listener itself: Envoy's validation reads no watched files."""

# What says who the client is, which way it came or what it wants elsewhere: nobody in front of Envoy is believed.
# `x-original-url` and `x-rewrite-url` override the path at some upstreams, past every scope.
_STRIPPED = (
    "x-request-id",
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-original-url",
    "x-original-host",
    "x-rewrite-url",
)
# The same for servers behind CGI, which read an underscore as a hyphen. Three, because Envoy limits a pattern's size.
_ALIKE = (
    "x[-_](?:forwarded|envoy)[-_].*",
    "x[-_](?:original[-_](?:url|host)|rewrite[-_]url)",
    "(?:x[-_](?:real|client|cluster[-_]client)|true[-_]client|cf[-_]connecting)[-_]ip",
)


def base_url(name: str, connection: Connection, inline: RoutesInline | None = None) -> Listener:
    """A connection's own port: HTTP/1.1, or HTTP/2 with prior knowledge."""
    assert connection.listen is not None
    chain = FilterChain(filters=[_http(name, base_routes(name), inline)])
    return _listener(f"base.{name}", connection.listen, [chain])


def tls(listen: str, hosts: Mapping[str, str], inline: RoutesInline | None = None) -> Listener:
    """One port for every host, told apart by SNI; `hosts` gives each host's connection.

    A chain for each host, not for each connection: the host's own routes hold its requests to the SNI. A client that
    names no host, or an unknown one, finds no chain and is disconnected.
    """
    chains = [
        FilterChain(
            name=host,
            filter_chain_match=FilterChainMatch(server_names=[host], transport_protocol="tls"),
            transport_socket=_certificate(host),
            filters=[_http(name, host_routes(host), inline)],
        )
        for host, name in sorted(hosts.items())
    ]
    listener = _listener("tls", listen, chains)
    listener.listener_filters = [
        ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=pack(TlsInspector()))
    ]
    listener.listener_filters_timeout = timedelta(seconds=10)
    return listener


def _listener(name: str, listen: str, chains: list[FilterChain]) -> Listener:
    return Listener(
        name=name,
        address=socket_address(listen),
        filter_chains=chains,
        # With SO_REUSEPORT a second Envoy could share the port in silence and take half of the connections.
        enable_reuse_port=False,
        # So one accept queue is shared; this spreads connections evenly over Envoy's threads.
        connection_balance_config=ListenerConnectionBalanceConfig(
            exact_balance=ListenerConnectionBalanceConfigExactBalance()
        ),
        tcp_backlog_size=1024,
        per_connection_buffer_limit_bytes=BUFFER,
    )


def _certificate(host: str) -> TransportSocket:
    """The leaf's files are named here, without a secret service: for one name the local CA signs once in a process's
    life, so nothing would ever be updated; and a key stays out of this file and of Envoy's config dump."""
    context = DownstreamTlsContext(
        common_tls_context=CommonTlsContext(
            tls_params=TlsParameters(tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2),
            alpn_protocols=["h2", "http/1.1"],
            tls_certificates=[
                TlsCertificate(
                    certificate_chain=DataSource(filename=certificate_file(host)),
                    private_key=DataSource(filename=key_file(host)),
                )
            ],
        )
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def _http(stat_prefix: str, routes: str, inline: RoutesInline | None) -> Filter:
    manager = HttpConnectionManager(
        stat_prefix=stat_prefix,
        codec_type=HttpConnectionManagerCodecType.AUTO,
        http_filters=http_filters(),
        access_log=[access_log()],
        local_reply_config=local_reply_config(),
        # CONNECT is let in only to be refused by the routes, with a reason.
        upgrade_configs=[HttpConnectionManagerUpgradeConfig(upgrade_type=kind) for kind in ("websocket", "CONNECT")],
        # --- who the client is
        use_remote_address=True,
        skip_xff_append=True,
        internal_address_config=_nobody(),
        generate_request_id=True,
        early_header_mutation_extensions=[_stripping()],
        # --- paths: `..` is resolved; `//` is kept, for to some upstreams it differs from `/`, and scopes are matched
        # on what is sent. Escaped slashes are refused in the routes.
        normalize_path=True,
        # --- the answer is the upstream's
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        scheme_header_transformation=SchemeHeaderTransformation(match_upstream=True),
        # A client that waits for `100 Continue` gets it from Envoy: the upstream's comes too late where the worker
        # awaits the body before it lets the head go on.
        proxy_100_continue=False,
        # --- limits
        stream_idle_timeout=LONGEST_SILENCE,
        request_headers_timeout=timedelta(seconds=30),
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=timedelta(hours=1),
            max_headers_count=200,
            # Underscores in header names stay allowed: some APIs use them (`api_key`).
        ),
        http_protocol_options=HTTP1,
        http2_protocol_options=replace(HTTP2, allow_connect=True),  # WebSocket over HTTP/2 (RFC 8441)
    )
    if inline is None:
        manager.rds = Rds(route_config_name=routes, config_source=watched_file(routes_file(routes), "envoy/rds"))
    else:
        manager.route_config = inline[routes]
    return Filter(name="http", typed_config=pack(manager))


def _nobody() -> HttpConnectionManagerInternalAddressConfig:
    """Nobody is internal, and so may set Envoy's own headers. An empty list would mean every private address."""
    return HttpConnectionManagerInternalAddressConfig(
        cidr_ranges=[CidrRange(address_prefix="255.255.255.255", prefix_len=32)]
    )


def _stripping() -> TypedExtensionConfig:
    exact = [Mutation(remove=name) for name in _STRIPPED]
    alike = [
        Mutation(
            remove_on_match=HeaderMutationRemoveOnMatch(
                key_matcher=StringMatcher(safe_regex=RegexMatcher(regex=pattern))
            )
        )
        for pattern in _ALIKE
    ]
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=pack(HeaderMutation(mutations=[*exact, *alike])),
    )
