"""Recorded traffic as rows of the ledger: the corpus laid into a store as often as asked, without gates in between."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from ext_proc.hub import rowbinary as binary
from ext_proc.hub.clickhouse import ClickHouse
from ext_proc.hub.rows import BODY_PARTS

DATA = {"client": "datadog-client.jsonl.gz", "terraform": "datadog-terraform.jsonl.gz"}
PLACEHOLDER = b"[MASKED:token:0123456789ab]"
CLAIMS = {
    "iss": "https://token.actions.githubusercontent.com",
    "sub": "repo:octo-org/octo-repo:ref:refs/heads/main",
    "repository": "octo-org/octo-repo",
    "repository_id": "74",
    "ref": "refs/heads/main",
    "ref_type": "branch",
    "run_id": "7",
}
COLUMNS = (
    *("exchange_id", "ts", "connection", "session_id", "session_label", "issuer", "subject", "claims", "method"),
    *(
        "scheme",
        "host",
        "path",
        "query",
        "decision",
        "reason",
        "policy",
        "status",
        "outcome",
        "req_headers",
        "req_body_size",
    ),
    *("req_body_sha256", "resp_headers", "resp_body_size", "resp_body_sha256", "masked", "req_body", "resp_body"),
)
_INLINE = 1 << 20
_AT_ONCE = 5_000
_NAMESPACE = UUID("9c2f5b60-1f0e-5d0a-8a3a-0d2f2a6d7c11")

Row = Mapping[str, Any]


def corpus(folder: Path, name: str, connection: str = "datadog") -> list[dict[str, Any]]:
    """The pairs of one data set as rows: allowed, complete, the caller's key masked. A scenario is a session."""
    found = []
    with gzip.open(folder / DATA[name], "rb") as lines:
        for raw in map(json.loads, lines):
            path, _, query = raw["url"].partition("?")
            sent = [(n.lower(), v.encode()) for n, v in raw["request_headers"] if n.lower() != "dd-api-key"]
            session = uuid5(_NAMESPACE, raw["cassette"])
            found.append(
                {
                    "connection": connection,
                    "session_id": session,
                    "session_label": f"octo-org/octo-repo run {raw['cassette']}",
                    "method": raw["method"],
                    "host": raw["host"],
                    "path": path,
                    "query": query,
                    "status": raw["status"],
                    "req_headers": [("host", raw["host"].encode()), ("dd-api-key", PLACEHOLDER), *sent],
                    "req_body": _body(raw, "request_body"),
                    "resp_headers": [(n.lower(), v.encode()) for n, v in raw["response_headers"]],
                    "resp_body": _body(raw, "response_body"),
                }
            )
    return found


def row(at_us: int, n: int, of: Row) -> dict[str, Any]:
    """A row with what `of` does not say filled in."""
    defaults = {
        "exchange_id": uuid5(_NAMESPACE, f"{n}"),
        "ts": at_us,
        "issuer": "github",
        "subject": CLAIMS["sub"],
        "claims": json.dumps(CLAIMS),
        "scheme": "https",
        "decision": "allow",
        "reason": "",
        "policy": "infra-main",
        "outcome": "complete",
        "masked": [("req_headers", 1, 0, len(PLACEHOLDER), 40, "token", "0123456789ab")],
    }
    return defaults | dict(of)


def insert(clickhouse: ClickHouse, all_rows: Iterator[dict[str, Any]]) -> int:
    """Insert rows in batches; how many there were."""
    count = 0
    batch: list[bytes] = []
    for one in all_rows:
        batch.append(_encoded(one))
        parts = b"".join(_parts(one))
        if parts:
            clickhouse.insert("body_parts", BODY_PARTS, parts, f"parts-{one['exchange_id']}")
        count += 1
        if len(batch) == _AT_ONCE:
            clickhouse.insert("exchanges", COLUMNS, b"".join(batch), f"laid-{count}")
            batch.clear()
    if batch:
        clickhouse.insert("exchanges", COLUMNS, b"".join(batch), f"laid-{count}")
    return count


def _encoded(one: Row) -> bytes:
    bodies = {}
    for side in ("req", "resp"):
        body: bytes = one[f"{side}_body"]
        bodies[f"{side}_body_size"] = binary.uint64(len(body))
        bodies[f"{side}_body_sha256"] = hashlib.sha256(body).digest()
        bodies[f"{side}_body"] = binary.data(body if len(body) <= _INLINE else b"")
        headers = [binary.text(name) + binary.data(value) for name, value in one[f"{side}_headers"]]
        bodies[f"{side}_headers"] = binary.size(len(headers)) + b"".join(headers)
    fixed = {
        "exchange_id": binary.uuid(one["exchange_id"].bytes),
        "ts": binary.time(one["ts"]),
        "session_id": binary.uuid(one["session_id"].bytes),
        "status": one["status"].to_bytes(2, "little"),
        "masked": binary.size(len(one["masked"])) + b"".join(map(_mask, one["masked"])),
        **bodies,
    }
    return b"".join(fixed[name] if name in fixed else binary.text(one[name]) for name in COLUMNS)


def _parts(one: Row) -> Iterator[bytes]:
    """The rows of `body_parts` for bodies too large for a row."""
    for direction, side in enumerate(("req", "resp")):
        body: bytes = one[f"{side}_body"]
        if len(body) > _INLINE:
            for n in range(0, len(body), _INLINE):
                yield b"".join(
                    (
                        binary.uuid(one["exchange_id"].bytes),
                        binary.EMPTY,
                        binary.time(one["ts"]),
                        binary.SHORT[direction],
                        binary.uint32(n // _INLINE),
                        binary.data(body[n : n + _INLINE]),
                    )
                )


def _mask(mask: tuple[str, int, int, int, int, str, str]) -> bytes:
    """(place, index, start, length, original length, detector, fingerprint)."""
    place, index, *spans, detector, fingerprint = mask
    numbers = binary.uint32(index) + b"".join(binary.uint64(int(number)) for number in spans)
    return binary.text(place) + numbers + binary.text(detector) + binary.text(fingerprint)


def _body(raw: Row, name: str) -> bytes:
    text: str = raw[name]
    return base64.b64decode(text) if raw[f"{name}_b64"] else text.encode()
