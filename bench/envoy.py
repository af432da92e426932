"""Envoy's configuration for the subjects that are not Douane: a plain proxy, or one with Douane's filters before it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_TYPE = "type.googleapis.com/envoy"
_MANY = {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}]}


def binary() -> Path:
    return Path(sys.executable).with_name("envoy")


def command(config: Path, concurrency: int) -> list[str | Path]:
    return [binary(), "-c", config, "--disable-hot-restart", "--concurrency", str(concurrency), "-l", "warning"]


def write(folder: Path, listen: int, upstream: int, workers: list[str]) -> Path:
    """`workers` are the sockets of ext_proc servers; with none Envoy is alone."""
    filters = [_typed("router", "extensions.filters.http.router.v3.Router")]
    clusters = [_cluster("upstream", [{"socket_address": {"address": "127.0.0.1", "port_value": upstream}}])]
    if workers:
        filters = [_gate(), _guard(), *filters]
        http2 = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
        pipes = [{"pipe": {"path": socket}} for socket in workers]
        clusters.append({**_cluster("workers", pipes), "typed_extension_protocol_options": http2})
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "300s"}}
    manager = _typed(
        "hcm",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bench",
        http_filters=filters,
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    )
    listener = {
        "name": "bench",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": listen}},
        "filter_chains": [{"filters": [manager]}],
    }
    path = folder / "envoy.json"
    path.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}))
    return path


def _typed(name: str, kind: str, **fields: object) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_TYPE}.{kind}", **fields}}


def _cluster(name: str, addresses: list[dict[str, Any]]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": address}} for address in addresses]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": _MANY,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _gate() -> dict[str, Any]:
    """The modes and attributes of ext_proc/xds/filters.py."""
    return _typed(
        "gate",
        "extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": "workers"}},
        failure_mode_allow=False,
        allow_content_length_header=True,
        message_timeout="30s",
        processing_mode={
            "request_header_mode": "SEND",
            "request_body_mode": "FULL_DUPLEX_STREAMED",
            "request_trailer_mode": "SEND",
            "response_header_mode": "SEND",
            "response_body_mode": "STREAMED",
            "response_trailer_mode": "SEND",
        },
        request_attributes=[
            "request.id",
            "request.protocol",
            "source.address",
            "connection.requested_server_name",
            "xds.route_name",
        ],
        response_attributes=["response.code_details", "upstream.address", "request.id", "xds.route_name"],
        metadata_options={"receiving_namespaces": {"untyped": ["gate"]}},
    )


def _guard() -> dict[str, Any]:
    verdict = {"filter": "gate", "path": [{"key": "verdict"}], "value": {"string_match": {"exact": "allow"}}}
    principals = [{"sourced_metadata": {"metadata_matcher": verdict}}]
    policies = {"verdict": {"permissions": [{"any": True}], "principals": principals}}
    return _typed("guard", "extensions.filters.http.rbac.v3.RBAC", rules={"action": "ALLOW", "policies": policies})
