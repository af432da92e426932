"""Clusters: the workers, and one upstream a connection."""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterCustomClusterType,
    ClusterDiscoveryType,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    DataSource,
    HealthCheck,
    HealthCheckTcpHealthCheck,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    Pipe,
    SocketAddress,
    TransportSocket,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.clusters.common.dns.v3 import DnsLookupFamily
from envoy_data_plane.envoy.extensions.clusters.dns.v3 import DnsCluster
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions as UpstreamProtocol,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptionsAutoHttpConfig,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.v3 import Percent

from ext_proc.config.models import Connection
from ext_proc.xds.naming import WORKERS, route_name, upgrade_cluster, worker_socket
from ext_proc.xds.typed import pack
from ext_proc.xds.upstream import Upstream, upstream

# Held requests occupy a slot each, and Envoy's default of 1024 fails the rest: 1300 holds gave 276 errors.
_BREAKERS = CircuitBreakers(
    thresholds=[
        CircuitBreakersThresholds(
            max_connections=100_000, max_pending_requests=100_000, max_requests=100_000, max_retries=1_000
        )
    ]
)
_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

BUFFER = 1 << 20
"""Bytes that Envoy may hold for one connection in one direction before it stops reading."""
HTTP1 = Http1ProtocolOptions(enable_trailers=True)
HTTP2 = Http2ProtocolOptions(
    # Envoy's default is 16 MiB a stream, which a 300 MB transfer would fill.
    initial_stream_window_size=BUFFER,
    initial_connection_window_size=16 << 20,
    # One bad request fails, not the others on its connection.
    override_stream_error_on_invalid_http_message=True,
)


def workers(count: int) -> Cluster:
    """The ext_proc workers, a unix socket each. No HTTP/2 keepalive: grpc-core answers it with `too_many_pings` and
    ends what is held. A dead worker is found by a TCP check within a second; until then the stream is retried."""
    endpoints = [
        LbEndpoint(endpoint=Endpoint(address=Address(pipe=Pipe(path=worker_socket(slot))))) for slot in range(count)
    ]
    return Cluster(
        name=WORKERS,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=1),
        load_assignment=_assignment(WORKERS, endpoints),
        health_checks=[
            HealthCheck(
                # A dead worker refuses at once. What takes long is Envoy itself, loading a changed configuration.
                timeout=timedelta(seconds=10),
                interval=timedelta(seconds=1),
                no_traffic_interval=timedelta(seconds=1),
                unhealthy_threshold=1,
                healthy_threshold=1,
                tcp_health_check=HealthCheckTcpHealthCheck(),
            )
        ],
        # Never fall back on workers known to be dead.
        common_lb_config=ClusterCommonLbConfig(healthy_panic_threshold=Percent(value=0)),
        circuit_breakers=_BREAKERS,
        per_connection_buffer_limit_bytes=BUFFER,
        typed_extension_protocol_options={
            _PROTOCOL_OPTIONS: pack(
                UpstreamProtocol(
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=HTTP2)
                )
            )
        },
    )


def upstreams(name: str, connection: Connection, inspected: frozenset[str], ca_bundle: str) -> list[Cluster]:
    """The connection's upstream cluster, and for https one more that speaks HTTP/1.1 only, for protocol upgrades:
    where ALPN chooses HTTP/2, few servers take a WebSocket (RFC 8441).

    ConfigError when the upstream is no URL.
    """
    target = upstream(name, connection)
    cluster_name = route_name(name, connection, inspected)
    if not target.tls:
        return [_upstream(cluster_name, target, _plain(connection.upstream_http2))]
    trusted = connection.upstream_ca_file or ca_bundle
    auto = HttpProtocolOptionsAutoHttpConfig(http_protocol_options=HTTP1, http2_protocol_options=HTTP2)
    return [
        _upstream(cluster_name, target, UpstreamProtocol(auto_config=auto), _tls(target, trusted, [])),
        _upstream(upgrade_cluster(cluster_name), target, _plain(http2=False), _tls(target, trusted, ["http/1.1"])),
    ]


def _upstream(name: str, target: Upstream, protocol: UpstreamProtocol, tls: TransportSocket | None = None) -> Cluster:
    protocol.common_http_protocol_options = HttpProtocolOptions(
        # Shorter than the minute after which common load balancers close, so that a request meets no closing socket.
        idle_timeout=timedelta(seconds=50),
        max_headers_count=200,
    )
    address = Address(socket_address=SocketAddress(address=target.host, port_value=target.port))
    cluster = Cluster(
        name=name,
        # Statistics go by connection, not by digest.
        alt_stat_name=name.replace("@", "_"),
        connect_timeout=timedelta(seconds=10),
        load_assignment=_assignment(name, [LbEndpoint(endpoint=Endpoint(address=address))]),
        circuit_breakers=_BREAKERS,
        per_connection_buffer_limit_bytes=BUFFER,
        typed_extension_protocol_options={_PROTOCOL_OPTIONS: pack(protocol)},
        transport_socket=tls,
    )
    if target.literal:
        cluster.type = ClusterDiscoveryType.STATIC
    else:
        # One logical host behind every address the name has, as a browser sees it: large services answer with other
        # addresses each time, and a member that left the list may still be serving.
        dns = DnsCluster(
            all_addresses_in_single_endpoint=True,
            dns_lookup_family=DnsLookupFamily.ALL,
            respect_dns_ttl=True,
            dns_refresh_rate=timedelta(seconds=30),
        )
        cluster.cluster_type = ClusterCustomClusterType(name="envoy.cluster.dns", typed_config=pack(dns))
    return cluster


def _plain(http2: bool) -> UpstreamProtocol:
    options = HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=HTTP2) if http2 else None
    return UpstreamProtocol(
        explicit_http_config=options or HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=HTTP1)
    )


def _tls(target: Upstream, trusted: str, alpn: list[str]) -> TransportSocket:
    """TLS that proves the upstream: its chain, and its name in the certificate (wildcards as in RFC 9525)."""
    kind = SubjectAltNameMatcherSanType.IP_ADDRESS if target.literal else SubjectAltNameMatcherSanType.DNS
    context = UpstreamTlsContext(
        sni="" if target.literal else target.host,
        common_tls_context=CommonTlsContext(
            tls_params=TlsParameters(tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2),
            alpn_protocols=alpn,
            validation_context=CertificateValidationContext(
                trusted_ca=DataSource(filename=trusted),
                match_typed_subject_alt_names=[
                    SubjectAltNameMatcher(san_type=kind, matcher=StringMatcher(exact=target.host))
                ],
            ),
        ),
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def _assignment(name: str, endpoints: list[LbEndpoint]) -> ClusterLoadAssignment:
    return ClusterLoadAssignment(cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=endpoints)])
