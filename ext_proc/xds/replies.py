"""What a client is told when Envoy itself ends an exchange: one table, in the form of every other refusal.

Envoy calls these local replies. The workers' own answers (ImmediateResponse) pass through the same mapping and are
spared by their details, which are reason codes such as `grant.none`. An upstream's answers never come here.
Sources: Envoy's response flags (envoy.data.accesslog.v3.ResponseFlags) and response code details.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLogFilter, ExtensionFilter, ResponseFlagFilter
from envoy_data_plane.envoy.config.core.v3 import SubstitutionFormatString
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.google.protobuf import Struct, Value

from ext_proc.xds.typed import pack


@dataclass(frozen=True, slots=True)
class LocalReply:
    """One kind of local reply: known by any of `flags`, or by a CEL condition on the response.

    `early`: it may come before Envoy replaced the client's x-request-id with its own, and so bears no exchange id.
    """

    reason: str
    message: str
    remedy: str
    flags: tuple[str, ...] = ()
    when: str = ""
    early: bool = False


def _details(*prefixes: str) -> str:
    return " || ".join(f"response.code_details.startsWith('{prefix}')" for prefix in prefixes)


HOST_MISMATCH: Final = 421
METHOD_REFUSED: Final = 405
REQUEST_REFUSED: Final = 400
"""Statuses of the direct responses in `routes`, by which they are told apart here."""

_PATH_MEANING = "it could mean one thing to the policy and another to the upstream."
LOCAL_REPLIES: Final = (
    LocalReply(
        "request.host_mismatch",
        "The Host header (or :authority) names another host than the TLS connection was opened for (SNI).",
        "Open a connection of its own for each host.",
        when=f"response.code_details == 'direct_response' && response.code == {HOST_MISMATCH}",
    ),
    LocalReply(
        "request.host",
        "The request has more than one Host header.",
        "Send exactly one.",
        when="response.code_details == 'direct_response' && request.host.contains(',')",
    ),
    LocalReply(
        "request.path",
        f"The path holds an escaped slash or backslash (%2F, %5C): {_PATH_MEANING}",
        "Send the path without it.",
        when=f"response.code_details == 'direct_response' && response.code == {REQUEST_REFUSED}",
    ),
    LocalReply(
        "request.path",
        f"The path cannot be normalised (it holds a fragment, or a null byte): {_PATH_MEANING}",
        "Send a plain path that begins with a slash.",
        when=_details("path_normalization_failed", "absolute_path_rejected"),
        early=True,
    ),
    LocalReply(
        "request.method",
        "This is no forward proxy: CONNECT is not served.",
        "Send the request itself, to the address that `douane up` shows for the connection.",
        when=f"response.code_details == 'direct_response' && response.code == {METHOD_REFUSED}",
    ),
    LocalReply(
        "request.method",
        "Upgrades other than to WebSocket are not served.",
        "Send the request without `upgrade`.",
        when=_details("upgrade_failed"),
        early=True,
    ),
    LocalReply(
        "gate.no_verdict",
        "The gate's worker ended without a verdict, so the request was not sent.",
        "Try again; if it happens again, look into the worker's log.",
        when=_details("rbac_access_denied"),
    ),
    LocalReply(
        "gate.unavailable",
        "No worker of the gate took the request or recorded the answer, or the one that held it died.",
        "Try again, unless the request must not be repeated: it may have reached the upstream.",
        when=_details("ext_proc_error"),
    ),
    LocalReply(
        "gate.overloaded",
        "Envoy is at its limit of memory or connections.",
        "Try again later, with fewer requests at once.",
        flags=("OM",),
        early=True,
    ),
    LocalReply(
        "upstream.timeout",
        "The upstream did not begin to answer in time. It may have carried the request out.",
        "Look at the upstream before trying again, or raise `timeout` of the connection.",
        flags=("UT", "DT", "UMSDR"),
    ),
    LocalReply(
        "upstream.unreachable",
        "The upstream could not be reached, or its certificate was not accepted. The request was not sent.",
        "Check `upstream` (and `upstream_ca_file`) of the connection, name service and network; then try again.",
        flags=("UF", "UH", "DF", "NC"),
    ),
    LocalReply(
        "upstream.overloaded",
        "Too many requests to this upstream are open. The request was not sent.",
        "Try again later, with fewer requests at once.",
        flags=("UO",),
    ),
    LocalReply(
        "upstream.reset",
        "The upstream closed the connection, or broke the protocol, before it answered. "
        "It may have carried the request out.",
        "Look at the upstream before trying again.",
        flags=("UC", "UR", "LR", "UPE", "URX"),
    ),
    LocalReply(
        "request.timeout",
        "The request stood still for too long, or its head did not arrive in time.",
        "Send it again without pauses.",
        flags=("SI",),
        when="response.code == 408",
        early=True,
    ),
    LocalReply(
        "request.no_route",
        "Nothing is served at this place.",
        "Ask for a path that begins with a slash.",
        flags=("NR",),
    ),
    LocalReply(
        "request.invalid",
        "The request breaks a rule of HTTP, or its head is larger than 60 KiB or 200 fields.",
        "Check the client, and what stands between it and the gate.",
        flags=("DPE",),
        when="response.code == 400 || response.code == 431",
        early=True,
    ),
    LocalReply(
        "gate.refused",
        "Envoy refused the exchange.",
        "Its log in the run folder says why.",
        when="true",
        early=True,
    ),
)
# HTTP/1.0 (426) and a broken head are not in it: Envoy closes such a connection without a word, for its answer would
# have to pass the gate, which has seen no request.

OWN_ANSWER: Final = "response.code_details.matches('^[a-z_]+[.][a-z_]+$') && !response.code_details.startsWith('http')"
"""CEL: the reply is a worker's own. Envoy's details look otherwise, save its codecs' (`http1.codec_error`)."""


@cache
def local_reply_config() -> LocalReplyConfig:
    """The table as Envoy's mapping. The first that fits wins."""
    spared = ResponseMapper(filter=cel(OWN_ANSWER))
    return LocalReplyConfig(mappers=[spared, *(_mapper(reply, f) for reply in LOCAL_REPLIES for f in _filters(reply))])


def _filters(reply: LocalReply) -> list[AccessLogFilter]:
    by_flag = [AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=list(reply.flags)))] if reply.flags else []
    return by_flag + ([cel(reply.when)] if reply.when else [])


def cel(expression: str) -> AccessLogFilter:
    """A condition in Envoy's CEL over `request`, `response`, `metadata`."""
    return AccessLogFilter(
        extension_filter=ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel",
            typed_config=pack(ExpressionFilter(expression=expression)),
        )
    )


def _mapper(reply: LocalReply, condition: AccessLogFilter) -> ResponseMapper:
    fields = {
        "reason": reply.reason,
        "message": reply.message,
        "remedy": reply.remedy,
    } | ({} if reply.early else {"exchange_id": "%STREAM_ID%"})
    # In Envoy's formats a percent sign begins a variable; two of them are one.
    body = {
        name: Value(string_value=text if name == "exchange_id" else text.replace("%", "%%"))
        for name, text in fields.items()
    }
    return ResponseMapper(
        filter=condition, body_format_override=SubstitutionFormatString(json_format=Struct(fields=body))
    )
