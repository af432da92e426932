"""Finished exchanges as rows. The types are those of `migrations/`; tests/clickhouse holds the two together."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ext_proc.hub.bodies import NOTHING, Read, Stored, store
from ext_proc.hub.rowbinary import EMPTY as _EMPTY
from ext_proc.hub.rowbinary import SHORT as _SHORT
from ext_proc.hub.rowbinary import data as _bytes
from ext_proc.hub.rowbinary import size as _size
from ext_proc.hub.rowbinary import text as _text
from ext_proc.hub.rowbinary import texts as _texts
from ext_proc.hub.rowbinary import time as _time
from ext_proc.hub.rowbinary import uint32 as _uint32
from ext_proc.hub.rowbinary import uint64 as _uint64
from ext_proc.hub.rowbinary import uuid as _uuid
from ext_proc.hub.rowbinary import word as _word

if TYPE_CHECKING:
    from ext_proc.hub.attempts import Attempt, Finished, LoadedConfig
    from ext_proc.hub.chain import Chains
    from ext_proc.pb import journal_pb2 as pb

RECORD_VERSION = 2

# What record_hash covers, by record_version, in the order in which `_canonical` writes them.
_FIRST = (
    *("record_version", "exchange_id", "ts", "chain_id", "seq", "tenant", "writer", "gate", "connection", "operation"),
    *("session_id", "session_label", "issuer", "subject", "claims"),
    *("workload_issuer", "workload_subject", "workload_claims"),
    *("source_address", "protocol", "method", "scheme", "host", "path", "query"),
    *("decision", "reason", "message", "policy", "approval_id", "credential"),
    *("status", "outcome", "duration_us", "code_details", "upstream_address", "config_digest"),
    *("req_headers", "req_trailers", "req_body_size", "req_body_sha256", "req_form"),
    *("resp_headers", "resp_trailers", "resp_body_size", "resp_body_sha256", "resp_form"),
    "masked",
)
HASHED = {1: _FIRST, 2: (*_FIRST, "approved_by", "rules", "response_decision")}
EXCHANGES = (*HASHED[RECORD_VERSION], "req_body", "resp_body", "req_text", "resp_text", "record_hash")
BODY_PARTS = ("exchange_id", "chain_id", "ts", "direction", "n", "data")
CONFIGS = ("ts", "writer", "gate", "digest", "origin", "text")

_H = struct.Struct("<H").pack
_IQQQ = struct.Struct("<IQQQ").pack
_NIL = bytes(16)


def _headers(headers: Collection[pb.Header]) -> bytes:
    out = [_size(len(headers))]
    for header in headers:
        value = header.value
        n = len(value)
        out += (_word(header.name), _SHORT[n] if n < 128 else _size(n), value)
    return b"".join(out)


def _masked(masks: Collection[pb.Mask]) -> bytes:
    if not masks:
        return _EMPTY
    out = [_size(len(masks))]
    for mask in masks:
        out.append(_text(mask.place))
        out.append(_IQQQ(mask.index, mask.start, mask.length, mask.original_length))
        out.append(_text(mask.detector))
        out.append(_text(mask.fingerprint))
    return b"".join(out)


def _rules(hits: Collection[pb.RuleHit]) -> bytes:
    if not hits:
        return _EMPTY
    out = [_size(len(hits))]
    for hit in hits:
        out += (_word(hit.policy), _word(hit.digest), _word(hit.effect), _word(hit.mode), _text(hit.values_json))
    return b"".join(out)


def exchange(finished: Finished, chains: Chains, *, read: Read, add_part: Callable[[bytes], None], limit: int) -> bytes:
    """The row of `exchanges`, entered in its chain. `add_part` takes its rows of `body_parts`, in order.

    `read` fetches what is not in memory; `limit` bounds what a body may decode to, in bytes.
    """
    attempt = finished.attempt
    chain_id = chains.name(finished.gate)
    at_us = _started_us(finished)
    req_headers = resp_headers = _EMPTY
    request = response = NOTHING
    if attempt is not None:
        prefix = _uuid(finished.exchange_id) + _word(chain_id) + _time(at_us)

        def body(direction: int, headers: bytes) -> Stored:
            pieces = attempt.bodies[direction]
            if not pieces.pieces:
                return NOTHING

            def spill(n: int, data: bytes) -> None:
                add_part(prefix + _SHORT[direction] + _uint32(n) + _bytes(data))

            coding = b""
            if b"\x10content-encoding" in headers:
                side = attempt.head if direction else attempt.opened
                assert side is not None
                coding = b",".join(h.value for h in side.headers if h.name == "content-encoding")
            return store(pieces, coding, read=read, spill=spill, max_decoded=limit)

        req_headers = _headers(attempt.opened.headers)
        request = body(0, req_headers)
        if attempt.head is not None:
            resp_headers = _headers(attempt.head.headers)
        response = body(1, resp_headers)
    sides = ((req_headers, request), (resp_headers, response))
    canonical = _canonical(finished, attempt, chain_id, chains.next_seq(chain_id), at_us, sides)
    record_hash = chains.extend(chain_id, canonical)
    bodies = (request.inline, response.inline, request.text, response.text)
    return b"".join((canonical, *map(_bytes, bodies), record_hash))


def config(loaded: LoadedConfig) -> bytes:
    """The row of `configs`."""
    texts = (loaded.gate.writer, loaded.gate.name, loaded.config.digest, loaded.config.origin, loaded.config.text)
    return b"".join((_time(loaded.at_us), *map(_text, texts)))


def _started_us(finished: Finished) -> int:
    if finished.attempt is not None:
        return finished.attempt.opened_us
    assert finished.access is not None
    return finished.access.started_us or finished.ended_us


def _canonical(
    finished: Finished,
    attempt: Attempt | None,
    chain_id: str,
    seq: int,
    at_us: int,
    sides: tuple[tuple[bytes, Stored], ...],
) -> bytes:
    """The columns `HASHED[RECORD_VERSION]`. `sides`: of request and response, the encoded headers and the body."""
    access = finished.access
    opened = attempt.opened if attempt is not None else None
    verdict = attempt.verdict if attempt is not None else None
    head = attempt.head if attempt is not None else None
    closed = attempt.closed if attempt is not None else None
    where = opened or access  # both name connection, method, host, path and query
    assert where is not None
    details = (head.code_details if head is not None else "") or (access.details if access is not None else "")
    status = (head.status if head is not None else 0) or (access.status if access is not None else 0)
    out = [
        _SHORT[RECORD_VERSION],
        _uuid(finished.exchange_id),
        _time(at_us),
        _word(chain_id),
        _uint64(seq),
        _EMPTY,  # tenant: an installation has one until tenants are configured
        _word(finished.gate.writer),
        _word(finished.gate.name),
        _word(where.connection),
        _word(verdict.operation) if verdict is not None else _EMPTY,
        *_identities(verdict),
        _text(opened.source_address) if opened is not None else _EMPTY,
        _word(opened.protocol) if opened is not None else _EMPTY,
        _word(where.method),
        _word(opened.scheme) if opened is not None else _EMPTY,
        _word(where.host),
        _text(where.path),
        _text(where.query),
    ]
    if verdict is not None:
        out.append(_word(verdict.decision))
        out.append(_word((closed.reason if closed is not None else "") or verdict.reason))
        out += (_text(verdict.message), _word(verdict.policy), _text(verdict.approval_id), _word(verdict.credential))
    else:
        # Without a verdict Envoy lets nothing pass.
        told = access.reason if access is not None else ""
        reason = (closed.reason if closed is not None else "") or told or details
        out.append(b"\x04deny" + _text(reason) + _EMPTY * 4)
    out.append(_H(min(status, 65535)))
    out.append(_word(finished.outcome))
    out.append(_uint64(_duration_us(finished, at_us)))
    out.append(_word(details))
    out.append(_word(head.upstream_address) if head is not None else _EMPTY)
    out.append(_word(opened.config_digest) if opened is not None else _EMPTY)
    for direction, (headers, stored) in enumerate(sides):
        trailers = attempt.trailers[direction] if attempt is not None else None
        out.append(headers)
        out.append(_headers(trailers.trailers) if trailers is not None else _EMPTY)
        out.append(_uint64(stored.size))
        out.append(stored.sha256)
        out.append(_SHORT[stored.form])
    masks = attempt.masks if attempt is not None else access.masks if access is not None else ()
    out.append(_masked(masks))
    answered = attempt.response_verdict if attempt is not None else None
    out.append(_texts(verdict.approved_by) if verdict is not None else _EMPTY)
    out.append(
        _rules([*(verdict.hits if verdict is not None else ()), *(answered.hits if answered is not None else ())])
    )
    out.append(_word(answered.decision) if answered is not None else _EMPTY)
    return b"".join(out)


def _identities(verdict: pb.Verdict | None) -> tuple[bytes, ...]:
    """session_id, session_label, issuer, subject, claims; then the workload's issuer, subject and claims."""
    if verdict is None:
        return (_NIL, _EMPTY * 7)
    caller, workload = verdict.caller, verdict.workload
    session = caller if caller.session_id else workload  # a job without a token of its own runs as its pod
    return (
        _uuid(session.session_id),
        _word(session.session_label),
        _word(caller.issuer),
        _word(caller.subject),
        _text(caller.claims_json),
        _word(workload.issuer),
        _word(workload.subject),
        _text(workload.claims_json),
    )


def _duration_us(finished: Finished, at_us: int) -> int:
    attempt, access = finished.attempt, finished.access
    if attempt is not None and attempt.closed is not None and attempt.closed.duration_us:
        return attempt.closed.duration_us
    if access is not None and access.duration_us:
        return access.duration_us
    return max(finished.ended_us - at_us, 0)
