"""Envoy's access log <-> our types: how streams ended that did not end by themselves.

Source: envoy.data.accesslog.v3 (accesslog.proto).
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from ext_proc.pb import envoy_accesslog_data_pb2, envoy_core_pb2


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """How Envoy says a stream ended. `outcome` as in the ledger; empty where Envoy saw nothing wrong. `reason` is the
    code the client was told, where Envoy itself refused before or in the place of a worker.

    `path` and `query` are empty for what a worker let pass: they are in its own record, without the secrets that only
    it knew from the request."""

    exchange_id: UUID
    route: str
    outcome: str
    reason: str
    details: str
    status: int
    method: str
    authority: str
    path: str
    query: str
    started_us: int
    duration_us: int


_DIRECT = "direct_response"
_WITHOUT_VERDICT = (("rbac_access_denied", "gate.no_verdict"), ("ext_proc_error", "gate.unavailable"))
_GONE = ("downstream_connection_termination", "downstream_remote_reset")
_TIMED_OUT = (
    "upstream_request_timeout",
    "stream_idle_timeout",
    "upstream_max_stream_duration_reached",
    "duration_timeout",
)
_RESET = (
    "upstream_remote_reset",
    "upstream_connection_failure",
    "upstream_connection_termination",
    "upstream_protocol_error",
    "upstream_retry_limit_exceeded",
    "upstream_overflow",
    "no_healthy_upstream",
    "dns_resolution_failure",
    "local_reset",
)


def access_entry(entry: envoy_accesslog_data_pb2.HTTPAccessLogEntry) -> AccessEntry | None:
    """One access log entry; None for one that carries no id of Envoy's (a connection without a request)."""
    common = entry.common_properties
    try:
        exchange_id = UUID(entry.request.request_id or common.stream_id)
    except ValueError:
        return None
    recorded = common.metadata.filter_metadata["gate"].fields["verdict"].string_value == "allow"
    path, _, query = ("" if recorded else entry.request.path).partition("?")
    return AccessEntry(
        exchange_id=exchange_id,
        route=common.route_name,
        outcome=_outcome(common.response_flags, entry.response.response_code.value),
        reason=_reason(entry.response.response_code_details, common.route_name),
        details=entry.response.response_code_details,
        status=entry.response.response_code.value,
        method=_method(entry.request.request_method),
        authority=entry.request.authority,
        path=path,
        query=query,
        started_us=common.start_time.ToMicroseconds(),
        duration_us=common.duration.ToMicroseconds(),
    )


def _reason(details: str, route: str) -> str:
    """A refusing route bears its reason (`xds.naming.refusal_route`); the others are known by Envoy's details."""
    if details == _DIRECT:
        return route.partition("@")[2]
    return next((reason for prefix, reason in _WITHOUT_VERDICT if details.startswith(prefix)), "")


def _outcome(flags: envoy_accesslog_data_pb2.ResponseFlags, status: int) -> str:
    if status == 101 and flags.upstream_connection_termination:
        return "complete"  # an upgraded stream has no other end: the upstream closes it after the last frame
    for outcome, names in (("timed_out", _TIMED_OUT), ("client_gone", _GONE), ("upstream_reset", _RESET)):
        if any(getattr(flags, name) for name in names):
            return outcome
    return ""


def _method(number: int) -> str:
    return envoy_core_pb2.RequestMethod.Name(number) if 0 < number < 10 else ""
