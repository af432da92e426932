"""A held request as people see it: as JSON for the API and its clients, and as a hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from ext_proc.approvals import FRAMING, VOLATILE
from ext_proc.hub.approvals.rows import Event, Summary
from ext_proc.hub.approvals.states import Approval
from ext_proc.pb import hub_pb2

_MASK = re.compile(rb"\[MASKED:[^\]]{0,200}\]")
_SAME = (
    "connection",
    "upstream",
    "operation",
    "issuer",
    "subject",
    "session_label",
    "message",
    "method",
    "path",
    "query",
)
_CHANGING = [[name] for name in VOLATILE | FRAMING]


def in_short(approval: Approval, about: Summary) -> dict[str, Any]:
    """What a list shows of it."""
    missing = approval.missing
    return {
        "id": approval.id,
        "state": str(approval.state),
        "connection": about.connection,
        "operation": about.operation,
        "method": about.method,
        "path": about.path,
        "issuer": about.issuer,
        "subject": about.subject,
        "session_id": str(UUID(bytes=about.session_id)),
        "session_label": about.session_label,
        "message": about.message,
        "requirements": [
            {
                "policy": one.policy,
                "approvers": list(one.approvers),
                "quorum": one.quorum,
                "missing": missing.get(one.policy, 0) if approval.state.open else 0,
            }
            for one in approval.requirements
        ],
        "approved_by": approval.approved_by,
        "acts_for": approval.person,
        "comment": approval.comment,
        "requested_at": time_text(approval.made_us),
        "expires_at": time_text(approval.deadline_us or approval.valid_until_us or approval.expires_us),
        "closed_at": time_text(approval.closed_us) if approval.closed_us else None,
    }


def in_full(
    approval: Approval, about: Summary, request: hub_pb2.HoldRequest, events: Iterable[Event]
) -> dict[str, Any]:
    """What a person decides on: everything the gate sent, which is masked, and what happened so far."""
    return {
        **in_short(approval, about),
        "gate": about.gate,
        "writer": about.writer,
        "upstream": request.upstream,
        "claims": _parsed(request.claims_json, {}),
        "query": request.query,
        "headers": _parsed(request.headers_json, []),
        "body": request.body.decode("utf-8", "replace"),
        "body_size": request.body_size,
        "body_shown": len(request.body),
        "rules": _parsed(request.hits_json, []),
        "digest": about.digest.hex(),
        "exchange_id": str(UUID(bytes=approval.exchange_id)),
        "validity_s": approval.validity_us // 1_000_000,
        "events": [event_line(event) for event in events],
    }


def event_line(event: Event) -> dict[str, Any]:
    """One thing that happened."""
    return {
        "event": event.event,
        "at": time_text(event.at_us),
        "approver": event.approver,
        "comment": event.comment,
        "exchange_id": str(UUID(bytes=event.exchange_id)) if event.exchange_id else "",
    }


def shown_hash(request: hub_pb2.HoldRequest, person: str | None) -> bytes:
    """SHA-256 of what people are shown and who may not approve, but for what changes from try to try (`VOLATILE`,
    `FRAMING`) and from gate to gate: fingerprints of masked secrets are keyed."""
    fields: list[bytes] = [getattr(request, name).encode() for name in (*_SAME, "query")]
    fields += [json.dumps([person, request.validity_s, request.expires_s, request.body_size]).encode(), request.body]
    headers = _parsed(request.headers_json, [])
    fields += sorted((json.dumps(one).encode() for one in headers if not _left_out(one)), key=_name)
    whole = hashlib.sha256()
    for one in fields:
        plain = _MASK.sub(b"[MASKED]", one)
        whole.update(len(plain).to_bytes(8, "big") + plain)
    return whole.digest()


def _left_out(header: Any) -> bool:
    return isinstance(header, list) and header[:1] in _CHANGING


def _name(header: bytes) -> bytes:
    """Values of one name stay in order."""
    return header.partition(b",")[0]


def time_text(at_us: int) -> str:
    """`2026-05-09T12:00:00.123Z`."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _parsed(text: str, otherwise: Any) -> Any:
    """What the gate sent as JSON, if it is of that kind."""
    try:
        found = json.loads(text or "null")
    except (ValueError, RecursionError):
        return otherwise
    return found if isinstance(found, type(otherwise)) else otherwise
