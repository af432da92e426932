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
    BackoffStrategy,
    ConfigSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    PathConfigSource,
    RetryPolicy,
    RetryPolicyRetryHostPredicate,
    SocketAddress,
    WatchedDirectory,
)
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
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


# Until a check finds the dead worker, round robin would choose it again; and Envoy's default is to wait a second first.
_ANOTHER_WORKER = RetryPolicy(
    retry_on="reset,connect-failure,unavailable",
    num_retries=3,
    retry_back_off=BackoffStrategy(base_interval=timedelta(milliseconds=25), max_interval=timedelta(milliseconds=250)),
    retry_host_predicate=[
        RetryPolicyRetryHostPredicate(name="previous_hosts", typed_config=pack(PreviousHostsPredicate()))
    ],
    host_selection_retry_max_attempts=5,
)


def workers_service(*, retry: bool) -> GrpcService:
    """gRPC to the workers. With `retry`, what a dying worker held is replayed to another (up to about 64 KB of
    body); decisions are idempotent, and the exchange keeps its id."""
    return GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=WORKERS, skip_envoy_headers=True),
        retry_policy=_ANOTHER_WORKER if retry else None,  # not the one of EnvoyGrpc: that is for xDS streams only
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
