"""Rows of the ledger held against the recorded traffic they came from: equal to the byte, but for what is masked."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clickhouse_connect
import zstandard
from clickhouse_connect.driver.client import Client

from ext_proc.hub.store import access
from tests.dataplane.stack import Stack

Fields = Sequence[tuple[str, bytes]]

HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
"""What ends at the next hop (RFC 9110, 7.6.1); the framing is each connection's own."""
NOT_SENT = {*HOP_BY_HOP, "content-length", "host", "accept-encoding", "user-agent"}
"""What drive.py does not take from the recording."""

COLUMNS = (
    *("exchange_id", "method", "host", "path", "query", "status", "decision", "outcome", "masked"),
    *("req_headers", "req_form", "req_body", "resp_headers", "resp_form", "resp_body"),
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One recorded request and its answer."""

    id: str
    method: str
    path: str
    query: str
    request_headers: tuple[tuple[str, str], ...]
    request: bytes
    status: int
    response_headers: tuple[tuple[str, str], ...]
    response: bytes


def load(file: Path) -> list[Pair]:
    with gzip.open(file, "rb") as lines:
        return [_pair(json.loads(line)) for line in lines]


def _pair(raw: Mapping[str, Any]) -> Pair:
    def body(name: str) -> bytes:
        text: str = raw[name]
        return base64.b64decode(text) if raw[name + "_b64"] else text.encode()

    path, _, query = raw["url"].partition("?")
    without_body = raw["method"] == "HEAD" or raw["status"] in (204, 304)
    return Pair(
        id=f"{raw['cassette']}#{raw['seq']}",
        method=raw["method"],
        path=path,
        query=query,
        request_headers=tuple((n, v) for n, v in raw["request_headers"]),
        request=body("request_body"),
        status=raw["status"],
        response_headers=tuple((n, v) for n, v in raw["response_headers"]),
        response=b"" if without_body else body("response_body"),
    )


@dataclass(frozen=True, slots=True)
class Way:
    """How drive.py sends the pairs: the fields it adds, and what it and the upstream do to bodies."""

    upstream: str
    """The upstream's HOST:PORT, which is the ledger's `host`."""
    gate: str
    """HOST:PORT that the client sends to, and names in its Host field."""
    added: tuple[tuple[str, str], ...]
    accept_gzip: bool = False
    chunked_request: bool = False
    zstd1: bool = False

    def request(self, pair: Pair) -> tuple[Fields, bytes, bytes]:
        """The request's fields, its body, and the body without its content-coding."""
        fields = [(n.lower(), v) for n, v in pair.request_headers if n.lower() not in NOT_SENT]
        body = pair.request
        if self.zstd1 and body and "json" in dict(fields).get("content-type", ""):
            body = zstandard.ZstdCompressor().compress(body)
            fields.append(("content-encoding", "zstd1"))
        fields += [(n.lower(), v) for n, v in self.added]
        fields += [("accept-encoding", "gzip" if self.accept_gzip else "identity"), ("x-replay-id", pair.id)]
        if (body or pair.method in ("POST", "PUT", "PATCH")) and not (self.chunked_request and body):
            fields.append(("content-length", str(len(body))))
        return [("host", self.gate.encode()), *((n, v.encode()) for n, v in fields)], body, pair.request

    def response(self, pair: Pair) -> tuple[Fields, bytes, bytes]:
        """The answer's end-to-end fields, its body, and the body without its content-coding."""
        skipped = {*HOP_BY_HOP, "content-length", "content-encoding"}
        fields = [(n.lower(), v) for n, v in pair.response_headers if n.lower() not in skipped]
        body = pair.response
        if self.accept_gzip and body:
            body = gzip.compress(body, 6, mtime=0)
            fields.append(("content-encoding", "gzip"))
        if pair.status != 204:
            fields.append(("content-length", str(len(body))))
        return [(n, v.encode()) for n, v in fields], body, pair.response


@dataclass(slots=True)
class Share:
    """How much of what passed is masked, in bytes of the original, by place."""

    seen: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    detectors: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)

    def of(self, place: str) -> float:
        return self.masked[place] / self.seen[place] if self.seen[place] else 0.0

    def __str__(self) -> str:
        total = sum(self.seen.values())
        places = ", ".join(f"{p} {100 * self.of(p):.4f} % of {n:,}" for p, n in sorted(self.seen.items()) if n)
        whole = 100 * sum(self.masked.values()) / total
        return f"masked {whole:.3f} % of {total:,} bytes ({places}); {dict(self.detectors)}; {dict(self.forms)}"


class Masked:
    """The masks of one row, by place and index."""

    def __init__(self, masks: Sequence[Mapping[str, Any]], share: Share) -> None:
        self._share = share
        self._by_place: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
        for mask in masks:
            self._by_place.setdefault((mask["place"], mask["index"]), []).append(mask)

    def differs(self, place: str, index: int, stored: bytes, original: bytes) -> str:
        """Empty where `stored` is `original` but for its masks; otherwise where they part."""
        masks = sorted(self._by_place.pop((place, index), ()), key=lambda m: m["start"])
        self._share.seen[place] += len(original)
        at = origin = 0
        for mask in masks:
            gap = mask["start"] - at
            if gap < 0 or stored[at : mask["start"]] != original[origin : origin + gap]:
                return f"{place}[{index}] differs before the mask at {mask['start']}"
            mark = stored[mask["start"] : mask["start"] + mask["length"]]
            shown = f"[MASKED:{mask['detector']}:{mask['fingerprint']}]".encode()
            if mark.strip(b'"') != shown:
                return f"{place}[{index}] has {mark!r} where the mask {shown!r} is listed"
            at = mask["start"] + mask["length"]
            origin += gap + mask["original_length"]
            self._share.masked[place] += mask["original_length"]
            self._share.detectors[f"{place}:{mask['detector']}"] += 1
        if origin > len(original):
            return f"{place}[{index}] had {len(original)} bytes, and its masks say more"
        if stored[at:] != original[origin:]:
            return f"{place}[{index}]: {stored[at:][:80]!r} is stored, {original[origin:][:80]!r} was sent"
        return ""

    def left(self) -> list[str]:
        return [f"a mask at {place}[{index}], which is not there" for place, index in self._by_place]


class Held:
    """Holds rows against pairs; collects differences and the share of what is masked."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.share = Share()
        self.differences: list[str] = []

    def row(self, row: Mapping[str, Any], pair: Pair) -> None:
        masked = Masked(row["masked"], self.share)
        found = [
            f"{name} is {row[name]!r}, not {expected!r}"
            for name, expected in (
                ("method", pair.method),
                ("host", self.way.upstream),
                ("status", pair.status),
                ("decision", "allow"),
                ("outcome", "complete"),
            )
            if row[name] != expected
        ]
        found.append(masked.differs("path", 0, row["path"].encode(), pair.path.encode()))
        found.append(masked.differs("query", 0, row["query"].encode(), pair.query.encode()))
        for side, sent in (("req", self.way.request(pair)), ("resp", self.way.response(pair))):
            fields, body, decoded = sent
            found += self._fields(masked, f"{side}_headers", row[f"{side}_headers"], fields)
            form = row[f"{side}_form"]
            self.share.forms[f"{side} {form}"] += 1
            if form not in ("as_sent", "decoded") or (form == "decoded" and body == decoded):
                found.append(f"{side}_form is {form}")
            expected = body if form == "as_sent" else decoded
            found.append(masked.differs(f"{side}_body", 0, row[f"{side}_body"], expected))
        found += masked.left()
        self.differences += [f"{pair.id}: {each}" for each in found if each]

    @staticmethod
    def _fields(masked: Masked, place: str, stored: Sequence[Mapping[str, Any]], sent: Fields) -> Iterator[str]:
        """Fields by name; those of one name in their order."""
        rest = list(sent)
        for index, each in enumerate(stored):
            name = each["name"]
            at = next((i for i, (n, _) in enumerate(rest) if n == name), None)
            if at is None:
                if name not in HOP_BY_HOP:
                    yield f"{place} has {name}: {each['value'][:60]!r}, which was not sent"
                continue
            yield masked.differs(place, index, each["value"], rest.pop(at)[1])
        for name, _ in rest:
            yield f"{place} lacks {name}"


@contextlib.contextmanager
def auditor(stack: Stack) -> Iterator[Client]:
    """clickhouse-connect as the auditor."""
    store = stack.config["store"]
    folder = stack.folder / store["url"].removeprefix("embedded:")
    client = clickhouse_connect.get_client(
        host="127.0.0.1",
        port=int(store["listen"].rpartition(":")[2]),
        username="auditor",
        password=access.password(folder, "auditor"),
        database="douane",
    )
    try:
        yield client
    finally:
        client.close()


def wait_for(client: Client, subject: str, count: int, seconds: float = 60) -> int:
    """The number of rows of `subject`, once there are `count` of them, or time is up."""
    deadline = time.monotonic() + seconds
    while True:
        found = int(
            client.query(
                "SELECT count() FROM exchanges WHERE subject = {s:String}", parameters={"s": subject}
            ).result_rows[0][0]
        )
        if found >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def rows(client: Client, subject: str) -> Iterator[dict[str, Any]]:
    """Every row of `subject`. Bodies and values of fields are bytes, all else is text and numbers."""
    answer = client.query(
        f"SELECT {', '.join(COLUMNS)} FROM exchanges WHERE subject = {{s:String}}",
        parameters={"s": subject},
        query_formats={"String": "bytes"},
    )
    for row in answer.named_results():
        for name in ("req_headers", "resp_headers"):
            row[name] = [{"name": each["name"].decode(), "value": each["value"]} for each in row[name]]
        row["masked"] = [_text(mask) for mask in row["masked"]]
        bodies = {name: row[name] for name in ("req_body", "resp_body")}
        yield _text(row) | bodies


def _text(record: Mapping[str, Any]) -> dict[str, Any]:
    return {n: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for n, v in record.items()}
