"""What exactly a person approves, and what of it they are shown.

A held request and its repetition have the digest in common. It is SHA-256 over these fields, each preceded by its
length (8 bytes, big endian): the name of this form, the connection, its upstream, the names of the credentials, the
session, the method, the path, the query, the body as sent; then, of headers and of trailers, how many there are, and
name and value of each, by name, values of one name in the order sent.

Left out are the caller's own token and what stands in the credentials' places (both are replaced), what frames a
message or speaks to the next hop, and `VOLATILE`. Whatever else differs makes it another request, which needs an
approval of its own.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ext_proc.exchange import Exchange, Headers

VOLATILE = frozenset(
    (
        *("traceparent", "tracestate", "b3", "sentry-trace", "x-amzn-trace-id", "x-cloud-trace-context"),
        *("x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"),
        *("x-datadog-trace-id", "x-datadog-parent-id", "x-datadog-sampling-priority", "x-datadog-origin"),
        *("x-datadog-tags", "x-request-id", "x-correlation-id", "date", "x-stainless-retry-count"),
        *("amz-sdk-invocation-id", "amz-sdk-request"),
    )
)
"""Headers that a client changes when it sends the same request again: traces, dates and counts of tries. Not `baggage`:
what is in it is the application's, and some upstreams choose by it where a request goes."""

FRAMING = frozenset(
    (
        *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade"),
        *("proxy-connection", "expect", "accept-encoding"),
    )
)
"""The message's form and the next hop's business; the body is covered as it was sent. `host` is how the client reaches
the gate; where the request goes is the upstream. Not `proxy-authorization`, which Envoy passes on."""

SHOWN_BODY = 64 << 10
"""Bytes of the masked body that approvers are shown."""

_FORM = b"douane approval 1"
_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Shown:
    """The request as approvers see it: masked. `body` is decoded text, at most SHOWN_BODY of its `body_size` bytes, and
    none of them where it cannot be decoded."""

    path: str
    query: str
    headers: Sequence[tuple[str, bytes]]
    body: bytes = field(repr=False)
    body_size: int = 0
    hits_json: Sequence[str] = ()


def digest(
    exchange: Exchange,
    body: bytes,
    trailers: Headers,
    *,
    upstream: str,
    credentials: Iterable[str],
    session: bytes,
    replaced: frozenset[str],
) -> bytes:
    """32 bytes. `replaced` are the headers that hold the caller's token or stand in a credential's place."""
    fields = [_FORM, exchange.connection.encode(), upstream.encode(), ",".join(credentials).encode(), session]
    fields += [_raw(exchange.method), _raw(exchange.path), _raw(exchange.query), body]
    left_out = VOLATILE | FRAMING | replaced
    for part in (exchange.headers, trailers):
        kept = [(name, value) for name, value in part if name not in left_out]
        fields.append(_LENGTH.pack(len(kept)))
        for name, value in sorted(kept, key=lambda item: item[0]):  # stable: values of one name stay in order
            fields += [name.encode(), value]
    whole = hashlib.sha256()
    for one in fields:
        whole.update(_LENGTH.pack(len(one)))
        whole.update(one)
    return whole.digest()


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
