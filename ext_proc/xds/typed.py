"""The envelopes that Envoy's typed classes are put in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta

from betterproto2 import Message
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    ApiVersion,
    ConfigSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    PathConfigSource,
    RetryPolicy,
    SocketAddress,
    WatchedDirectory,
)
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse
from envoy_data_plane.google.protobuf import Any

from ext_proc.config.addresses import split_listen
from ext_proc.xds.naming import WORKERS


def pack(message: Message) -> Any:
    """A message as `google.protobuf.Any`."""
    return Any.pack(message)


def socket_address(listen: str) -> Address:
    """`127.0.0.1:80` or `[::1]:80` as Envoy's address, which knows no names: `localhost` is 127.0.0.1."""
    host, port = split_listen(listen)
    return Address(socket_address=SocketAddress(address=ip(host), port_value=port))


def ip(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


def workers_service(*, retry: bool) -> GrpcService:
    """gRPC to the workers. With `retry`, what a dying worker held is replayed to another (up to about 64 KB of
    body); decisions are idempotent, and the exchange keeps its id."""
    policy = RetryPolicy(retry_on="reset,connect-failure,unavailable", num_retries=3) if retry else None
    return GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=WORKERS, retry_policy=policy, skip_envoy_headers=True)
    )


def watched_file(path: str, directory: str) -> ConfigSource:
    """A resource file that Envoy reads again when something is moved into its folder."""
    return ConfigSource(
        resource_api_version=ApiVersion.V3,
        path_config_source=PathConfigSource(path=path, watched_directory=WatchedDirectory(path=directory)),
        initial_fetch_timeout=timedelta(seconds=5),
    )


def discovery_response(resources: Sequence[Message]) -> tuple[str, str]:
    """What a resource file holds, and the version in it, which follows from the rest. JSON is YAML too."""
    response = DiscoveryResponse(resources=[pack(resource) for resource in resources]).to_dict()
    version = hashlib.sha256(json.dumps(response, sort_keys=True).encode()).hexdigest()[:16]
    return json.dumps({"versionInfo": version} | response, indent=1), version
