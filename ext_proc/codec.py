"""Envoy's ext_proc messages <-> our types. With `access_log` and `server`, the only place that knows them.

Source: envoy.service.ext_proc.v3 (external_processor.proto). What Envoy does with each answer: docs/architecture.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID, uuid4

from google.protobuf.struct_pb2 import Struct

from ext_proc.decision import Deny
from ext_proc.exchange import Exchange, Headers
from ext_proc.pb import envoy_core_pb2, envoy_ext_proc_mode_pb2, envoy_ext_proc_pb2
from ext_proc.pb.envoy_ext_proc_pb2 import ProcessingRequest, ProcessingResponse

Direction = Literal["request", "response"]
Answer = ProcessingResponse
Answers = list[Answer]

MAX_STREAMED_CHUNK = 60_000
"""Envoy takes at most 64 KB in one streamed_response; some room is left for the message around it."""

_ATTRIBUTES = "envoy.filters.http.ext_proc"
# Envoy's own additions: the client never sent them, or had them stripped, so they are no part of what is recorded.
_ADDED_BY_ENVOY = frozenset({"x-request-id", "x-forwarded-proto", "x-forwarded-for"})
_OVERWRITE = envoy_core_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_VERDICT = Struct()
_VERDICT.update({"gate": {"verdict": "allow"}})


REPLY_HEADERS = Headers([("content-type", b"application/json")])


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The first message of an ordinary stream. `route` is Envoy's route name; `exchange` has no body yet. `duplex`:
    Envoy runs the response FULL_DUPLEX_STREAMED; otherwise STREAMED."""

    exchange: Exchange
    route: str
    last: bool
    duplex: bool = False


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """`duplex` as in RequestHead, in a stream that begins with a response."""

    status: int
    headers: Headers
    code_details: str
    upstream_address: str
    last: bool
    duplex: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    direction: Direction
    data: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class Trailers:
    direction: Direction
    trailers: Headers


Phase = RequestHead | ResponseHead | Body | Trailers


def decode(message: ProcessingRequest, now_us: int) -> Phase | None:
    """One message of Envoy's as one phase; None for a message of a kind we did not ask for."""
    kind = message.WhichOneof("request")
    if kind == "response_body":
        return Body("response", message.response_body.body, message.response_body.end_of_stream)
    if kind == "request_body":
        return Body("request", message.request_body.body, message.request_body.end_of_stream)
    if kind == "request_headers":
        return _request_head(message, now_us)
    if kind == "response_headers":
        return _response_head(message)
    if kind == "request_trailers":
        return Trailers("request", Headers(_fields(message.request_trailers.trailers)[1]))
    if kind == "response_trailers":
        return Trailers("response", Headers(_fields(message.response_trailers.trailers)[1]))
    return None


def _fields(header_map: envoy_core_pb2.HeaderMap) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
    pseudo: dict[str, str] = {}
    items: list[tuple[str, bytes]] = []
    for field in header_map.headers:
        key = field.key
        if key[:1] == ":":
            pseudo[key] = (field.raw_value or field.value.encode()).decode("utf-8", "surrogateescape")
        elif key not in _ADDED_BY_ENVOY:
            items.append((key, field.raw_value or field.value.encode()))
    return pseudo, items


def _attributes(message: ProcessingRequest) -> dict[str, str]:
    struct = message.attributes.get(_ATTRIBUTES)
    if struct is None:
        return {}
    return {name: value.string_value for name, value in struct.fields.items()}


def _request_head(message: ProcessingRequest, now_us: int) -> RequestHead:
    pseudo, items = _fields(message.request_headers.headers)
    attributes = _attributes(message)
    path, _, query = pseudo.get(":path", "").partition("?")
    exchange = Exchange(
        exchange_id=_exchange_id(attributes.get("request.id", "")),
        connection=attributes.get("xds.route_name", "").partition("@")[0],
        method=pseudo.get(":method", ""),
        scheme=pseudo.get(":scheme", ""),
        authority=pseudo.get(":authority", ""),
        path=path,
        query=query,
        headers=Headers([("host", pseudo.get(":authority", "").encode("utf-8", "surrogateescape")), *items]),
        received_us=now_us,
        protocol=attributes.get("request.protocol", ""),
        source_address=attributes.get("source.address", ""),
        sni=attributes.get("connection.requested_server_name", ""),
    )
    return RequestHead(
        exchange,
        attributes.get("xds.route_name", ""),
        message.request_headers.end_of_stream,
        _response_is_duplex(message),
    )


def _response_is_duplex(message: ProcessingRequest) -> bool:
    """As Envoy says in the first message of a stream."""
    return message.protocol_config.response_body_mode == envoy_ext_proc_mode_pb2.ProcessingMode.FULL_DUPLEX_STREAMED


def _response_head(message: ProcessingRequest) -> ResponseHead:
    pseudo, items = _fields(message.response_headers.headers)
    attributes = _attributes(message)
    status = pseudo.get(":status", "0")
    return ResponseHead(
        status=int(status) if status.isdigit() else 0,
        headers=Headers(items),
        code_details=attributes.get("response.code_details", ""),
        upstream_address=attributes.get("upstream.address", ""),
        last=message.response_headers.end_of_stream,
        duplex=_response_is_duplex(message),
    )


def _exchange_id(text: str) -> UUID:
    """Envoy's request id. Envoy makes it and strips the client's, so anything else is a fault of our configuration;
    a fresh id keeps the record whole even then."""
    try:
        return UUID(text)
    except ValueError:
        return uuid4()


# --- answers -------------------------------------------------------------------------------------------------------


def forward_request(
    *, remove: Iterable[str], put: Sequence[tuple[str, bytes]], path: str | None = None
) -> ProcessingResponse:
    """Let the request's head go on, with the verdict the RBAC guard asks for.

    Envoy removes before it sets, so a name in both occurs exactly once afterwards.
    """
    answer = ProcessingResponse()
    common = answer.request_headers.response
    mutation = common.header_mutation
    mutation.remove_headers.extend(remove)
    for name, value in put:
        _put(mutation.set_headers.add(), name, value)
    if path is not None:
        _put(mutation.set_headers.add(), ":path", path.encode("utf-8", "surrogateescape"))
    answer.dynamic_metadata.CopyFrom(_VERDICT)
    return answer


def _put(option: envoy_core_pb2.HeaderValueOption, name: str, value: bytes) -> None:
    option.header.key = name
    option.header.raw_value = value
    option.append_action = _OVERWRITE


def forward_request_body(data: bytes, last: bool) -> list[ProcessingResponse]:
    """Release request body bytes (FULL_DUPLEX_STREAMED: every byte goes back to Envoy)."""
    return _streamed("request", data, last)


def stream_response_body(data: bytes, last: bool) -> list[ProcessingResponse]:
    """Release response body bytes (FULL_DUPLEX_STREAMED), whatever arrived. Nothing may follow `last` but trailers that
    Envoy has, which are answered instead of an end here."""
    return _streamed("response", data, last)


def _streamed(direction: Direction, data: bytes, last: bool) -> list[ProcessingResponse]:
    answers = []
    pieces = [data[i : i + MAX_STREAMED_CHUNK] for i in range(0, len(data), MAX_STREAMED_CHUNK)] or [b""]
    for number, piece in enumerate(pieces, 1):
        answer = ProcessingResponse()
        body = answer.request_body if direction == "request" else answer.response_body
        streamed = body.response.body_mutation.streamed_response
        streamed.body = piece
        streamed.end_of_stream = last and number == len(pieces)
        answers.append(answer)
    return answers


def forward_response_head(changes: Sequence[tuple[str, bytes]] = (), remove: Iterable[str] = ()) -> ProcessingResponse:
    """Let the response's head go on without those named in `remove`; `changes` replaces every occurrence of the named
    fields."""
    answer = ProcessingResponse()
    answer.response_headers.SetInParent()
    if changes:
        _replace(answer.response_headers.response.header_mutation, changes)
    if remove:
        answer.response_headers.response.header_mutation.remove_headers.extend(remove)
    return answer


def _replace(mutation: envoy_ext_proc_pb2.HeaderMutation, changes: Sequence[tuple[str, bytes]]) -> None:
    mutation.remove_headers.extend(sorted({name for name, _ in changes}))
    for name, value in changes:
        option = mutation.set_headers.add()
        _put(option, name, value)
        option.append_action = envoy_core_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD


def forward_response_body(data: bytes, released: bytes) -> ProcessingResponse:
    """Acknowledge a response chunk (STREAMED): as it came, or with other bytes in its place."""
    answer = ProcessingResponse()
    if released == data:
        answer.response_body.SetInParent()
    elif released:
        answer.response_body.response.body_mutation.body = released
    else:
        answer.response_body.response.body_mutation.clear_body = True
    return answer


def forward_trailers(
    direction: Direction, changes: Sequence[tuple[str, bytes]] = (), remove: Iterable[str] = ()
) -> ProcessingResponse:
    """Let trailers go on without those named in `remove`, with `changes` as in `forward_response_head`."""
    answer = ProcessingResponse()
    trailers = answer.request_trailers if direction == "request" else answer.response_trailers
    trailers.SetInParent()
    if changes:
        _replace(trailers.header_mutation, changes)
    trailers.header_mutation.remove_headers.extend(remove)
    return answer


def refuse(deny: Deny, exchange_id: UUID) -> ProcessingResponse:
    """A refusal, as the client sees it."""
    return reply(deny.http_status, refusal_body(deny, exchange_id), details=deny.reason, headers=deny.headers)


def refusal_body(deny: Deny, exchange_id: UUID) -> bytes:
    """What, why and what to do next, as JSON."""
    body = {"reason": deny.reason, "message": deny.message, "exchange_id": str(exchange_id)}
    if deny.remedy:
        body["remedy"] = deny.remedy
    if deny.approval_id:
        body |= {"approval_id": deny.approval_id, "approval_url": deny.approval_url}
    return json.dumps(body, ensure_ascii=False).encode() + b"\n"


def reply(status: int, body: bytes, *, details: str, headers: Sequence[tuple[str, bytes]] = ()) -> ProcessingResponse:
    """An answer of our own, with `REPLY_HEADERS` and `headers`."""
    answer = ProcessingResponse()
    immediate = answer.immediate_response
    immediate.status.code = status  # type: ignore[assignment]  # an open enum: see envoy_type.proto
    for name, value in (*REPLY_HEADERS, *headers):
        _put(immediate.headers.set_headers.add(), name, value)
    immediate.body = body
    immediate.details = details.replace(" ", "_")
    return answer


def outcome_of(code_details: str) -> str:
    """What the end of a response means. Envoy answers in the upstream's place when that fails, and says so here.

    Source: Envoy's response code details (docs: configuration/http/http_conn_man/response_code_details).
    """
    if code_details.startswith(("response_timeout", "upstream_per_try_timeout", "request_overall_timeout")):
        return "timed_out"
    if code_details.startswith(("upstream_reset", "no_healthy_upstream", "cluster_not_found", "upstream_max_stream")):
        return "upstream_reset"
    return "complete"
