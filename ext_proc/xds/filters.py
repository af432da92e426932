"""The HTTP filters of every listener: the gate (ext_proc), the guard behind it (RBAC), the router; the access log."""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    MetadataFilter,
    OrFilter,
    ResponseFlagFilter,
)
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import ApiVersion
from envoy_data_plane.envoy.config.rbac.v3 import Permission, Policy, Principal, Rbac, RbacAction, SourcedMetadata
from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExternalProcessorRouteCacheAction,
    ExtProcOverrides,
    ExtProcPerRoute,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation, Mutations
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac as RbacFilter
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.http.set_metadata.v3 import Config as SetMetadata
from envoy_data_plane.envoy.extensions.filters.http.set_metadata.v3 import Metadata
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import (
    MetadataMatcher,
    MetadataMatcherPathSegment,
    StringMatcher,
    ValueMatcher,
)
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Struct, Value

from ext_proc.xds.naming import ACCESS_LOG, VERDICT_ALLOW, VERDICT_KEY, VERDICT_NAMESPACE
from ext_proc.xds.replies import OWN_ANSWER, cel
from ext_proc.xds.typed import pack, workers_service

GATE = "gate"
GUARD = "guard"
_ENTERED = "entered"
_SEND = ProcessingModeHeaderSendMode.SEND

_ADDED_BY_ENVOY = ("x-forwarded-proto", "x-envoy-external-address", "x-envoy-internal")

_REQUEST_ATTRIBUTES = (
    "request.id",
    "request.protocol",
    "source.address",
    "connection.requested_server_name",
    "xds.route_name",
)
_RESPONSE_ATTRIBUTES = ("response.code_details", "upstream.address", "request.id", "xds.route_name")


def http_filters() -> list[HttpFilter]:
    """In order. One filter and one gRPC stream for both directions: the stream is the cost, and pairing needs no
    join."""
    return [
        HttpFilter(name="entered", typed_config=pack(entered())),
        HttpFilter(name="own", typed_config=pack(unadorned())),
        HttpFilter(name=GATE, typed_config=pack(gate())),
        HttpFilter(name=GUARD, typed_config=pack(guard())),
        HttpFilter(name="router", typed_config=pack(Router(suppress_envoy_headers=True))),
    ]


def entered() -> SetMetadata:
    """Marks what got as far as the filters. Envoy refuses some requests before it replaces the client's x-request-id;
    without the mark, a client could put an id of its choice into the access log, another exchange's too."""
    return SetMetadata(
        metadata=[Metadata(metadata_namespace=_ENTERED, value=Struct(fields={_ENTERED: Value(string_value="yes")}))]
    )


def unadorned() -> HeaderMutation:
    """Takes away what Envoy added to the request by itself, so that worker and upstream see the client's headers.

    Not x-request-id: it is the exchange's id, which the access log reads again at the end. The upstream gets it too.
    """
    return HeaderMutation(mutations=Mutations(request_mutations=[Mutation(remove=name) for name in _ADDED_BY_ENVOY]))


def gate() -> ExternalProcessor:
    """Asks a worker. The request is full duplex: nothing of it passes until the worker decides, and Envoy buffers
    none of it. Each chunk of the response waits until it is recorded."""
    return ExternalProcessor(
        grpc_service=workers_service(retry=True),
        failure_mode_allow=False,
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        processing_mode=_mode(ProcessingModeBodySendMode.STREAMED),
        request_attributes=list(_REQUEST_ATTRIBUTES),
        response_attributes=list(_RESPONSE_ATTRIBUTES),
        # The response direction only, where it is STREAMED: a worker that cannot record within this time has failed. A
        # full duplex direction has no such limit.
        message_timeout=timedelta(seconds=30),
        # Lengths stay as sent; the worker keeps the length where it changes bytes.
        allow_content_length_header=True,
        # Any header may be changed, `:path` too (credentials in the query); Host, :scheme and :method may not, and
        # an attempt is an error, not a silent skip.
        mutation_rules=HeaderMutationRules(disallow_is_error=True),
        # A changed path must not choose another route.
        route_cache_action=ExternalProcessorRouteCacheAction.RETAIN,
        metadata_options=MetadataOptions(
            receiving_namespaces=MetadataOptionsMetadataNamespaces(untyped=[VERDICT_NAMESPACE])
        ),
        stat_prefix=GATE,
    )


def inspected() -> ExtProcPerRoute:
    """For a route whose responses are looked into: the response is full duplex, too. Nothing of it passes until the
    worker has seen as much as it wants, and then any of it may be changed. Envoy holds none of it; the worker sets the
    limit. There is no time limit: what stands still ends as every stream does.

    Not BUFFERED, which passes the response whole when the worker ends without a word, and cannot be bounded by us.
    `mode_override` in the worker's answer would be ignored, as the request is full duplex.
    """
    mode = _mode(ProcessingModeBodySendMode.FULL_DUPLEX_STREAMED)
    return ExtProcPerRoute(overrides=ExtProcOverrides(processing_mode=mode))


def _mode(response_body: ProcessingModeBodySendMode) -> ProcessingMode:
    return ProcessingMode(
        request_header_mode=_SEND,
        request_body_mode=ProcessingModeBodySendMode.FULL_DUPLEX_STREAMED,
        request_trailer_mode=_SEND,
        response_header_mode=_SEND,
        response_body_mode=response_body,
        response_trailer_mode=_SEND,
    )


def guard() -> RbacFilter:
    """Lets pass only what has the worker's verdict: a worker that ends its stream cleanly and says nothing would
    otherwise let the request through, whatever `failure_mode_allow` says."""
    verdict = _metadata(VERDICT_NAMESPACE, VERDICT_KEY, VERDICT_ALLOW)
    principal = Principal(sourced_metadata=SourcedMetadata(metadata_matcher=verdict))
    return RbacFilter(
        rules=Rbac(
            action=RbacAction.ALLOW,
            policies={"verdict": Policy(permissions=[Permission(any=True)], principals=[principal])},
        )
    )


def access_log() -> AccessLog:
    """Tells a worker how a stream ended where the stream itself does not: what was cut (any response flag), and what
    Envoy answered by itself. Not what it answered before the filters ran: that bears no id of ours, and goes to the
    gate as an answer without a request."""
    answered = cel(f"!({OWN_ANSWER}) && !response.code_details.startsWith('via_upstream')")
    flagged = AccessLogFilter(response_flag_filter=ResponseFlagFilter())
    telling = AccessLogFilter(or_filter=OrFilter(filters=[flagged, answered]))
    ours = AccessLogFilter(
        metadata_filter=MetadataFilter(matcher=_metadata(_ENTERED, _ENTERED, "yes"), match_if_key_not_found=False)
    )
    return AccessLog(
        name="envoy.access_loggers.http_grpc",
        filter=AccessLogFilter(and_filter=AndFilter(filters=[ours, telling])),
        typed_config=pack(
            HttpGrpcAccessLogConfig(
                common_config=CommonGrpcAccessLogConfig(
                    log_name=ACCESS_LOG,
                    grpc_service=workers_service(retry=True),
                    transport_api_version=ApiVersion.V3,
                    buffer_flush_interval=timedelta(milliseconds=500),
                )
            )
        ),
    )


def _metadata(namespace: str, key: str, value: str) -> MetadataMatcher:
    return MetadataMatcher(
        filter=namespace,
        path=[MetadataMatcherPathSegment(key=key)],
        value=ValueMatcher(string_match=StringMatcher(exact=value)),
    )
