"""Recorded exchanges from the ledger: only the columns that rules look at, a window of time after the other."""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ext_proc.backtest.recorded import NO_MASKS, Content, Decision, Masks, Recorded
from ext_proc.backtest.usage import OWN_PATHS, Query
from ext_proc.backtest.windows import Window, cut
from ext_proc.errors import DouaneError
from ext_proc.exchange import Caller, Exchange, Headers, SignedClaims
from ext_proc.rules.facts import BODY_FACTS

INLINE_BYTES = 1 << 20
"""Larger bodies are in `body_parts`."""
_TIMEOUT_EXCEEDED = 159
_MOST_CALLERS = 4096
_MOST_BUCKETS = 50_000
_READABLE = BODY_FACTS - {"request.size"}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which exchanges: SQL over `exchanges` with its parameters, without the time; `since` and `until` are seconds
    since the epoch, `until` not included."""

    where: str
    parameters: Mapping[str, object]
    since: int
    until: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What rules look at."""

    request_body: bool = True
    response: bool = True
    response_body: bool = True

    @classmethod
    def by(cls, facts: frozenset[str], *, responses: bool) -> Wanted:
        body = not facts.isdisjoint({"response.body", "response.json"})
        return cls(not facts.isdisjoint(_READABLE), responses, body)


def windows(query: Query, selection: Selection, wanted: Wanted) -> list[Window]:
    """The range cut up. Reads times and sizes only."""
    step = max(1, (selection.until - selection.since) // _MOST_BUCKETS)
    sizes = [
        f"if({side}_body_size > {INLINE_BYTES}, 0, {side}_body_size)"
        for side, asked in (("req", wanted.request_body), ("resp", wanted.response_body))
        if asked
    ]
    sql = (
        f"SELECT toInt64(intDiv(toUnixTimestamp(ts), {step}) * {step}) AS at, count() AS n, "  # noqa: S608
        f"toUInt64(sum({' + '.join(sizes) or '0'})) AS size FROM {{db}}.exchanges "
        f"WHERE {_where(selection.where)} GROUP BY at ORDER BY at"
    )
    parameters = {**selection.parameters, "from": selection.since, "to": selection.until}
    return cut(((int(r["at"]), int(r["n"]), int(r["size"])) for r in query(sql, parameters)), step)


def newest(query: Query, selection: Selection, limit: int) -> int:
    """The second in which the `limit`th newest exchange is, or the range's start where it has fewer."""
    sql = (
        f"SELECT toInt64(toUnixTimestamp(ts)) AS at FROM {{db}}.exchanges WHERE {_where(selection.where)} "  # noqa: S608
        "ORDER BY ts DESC LIMIT 1 OFFSET {skip:UInt64}"
    )
    parameters = {**selection.parameters, "from": selection.since, "to": selection.until, "skip": limit - 1}
    return next((int(row["at"]) for row in query(sql, parameters)), selection.since)


class Reader:
    """Reads windows. Keeps callers, so that equal claims are one object."""

    def __init__(self, query: Query, selection: Selection, wanted: Wanted, share: tuple[int, int] = (0, 1)) -> None:
        """`share` is (i, n): only the sessions of the i-th of n parts."""
        self._query = query
        self._selection = selection
        self._wanted = wanted
        self._share = share
        self._callers: OrderedDict[tuple[str, str, str, str], Caller] = OrderedDict()

    def read(self, window: Window) -> Iterator[Recorded]:
        """In order of time. What one query cannot bring within the store's limits is asked for in several."""
        after: tuple[int, str] = (0, "")
        while True:
            progress = False
            try:
                for row in self._rows(window, after):
                    yield self._recorded(row)
                    progress, after = True, (row["us"], row["id"])
                return
            except DouaneError as error:
                if getattr(error, "code", None) != _TIMEOUT_EXCEEDED or not progress:
                    raise

    def _rows(self, window: Window, after: tuple[int, str]) -> Iterator[dict[str, Any]]:
        where = self._selection.where
        parameters: dict[str, object] = {**self._selection.parameters, "from": window.start, "to": window.end}
        part, parts = self._share
        if parts > 1:
            where += f" AND cityHash64(session_id) % {parts} = {part}"
        if after[0]:
            where += " AND (ts, exchange_id) > (fromUnixTimestamp64Micro({us:Int64}, 'UTC'), {id:UUID})"
            parameters |= {"us": after[0], "id": after[1]}
        sql = (
            f"SELECT {', '.join(self._columns())} FROM {{db}}.exchanges "  # noqa: S608
            f"WHERE {_where(where)} ORDER BY ts, exchange_id"
        )
        return self._query(sql, parameters)

    def _columns(self) -> Iterator[str]:
        yield "exchange_id AS id, toUnixTimestamp64Micro(ts) AS us, connection, method, scheme, host, path, query"
        yield "decision, reason, policy, approval_id, outcome, status, response_decision"
        yield "issuer, subject, claims, workload_issuer AS wi, workload_subject AS ws, workload_claims AS wc"
        yield "session_id AS sid, session_label AS label"
        yield "arrayMap(m -> (m.place, m.index, m.length, m.original_length), masked) AS masks"
        yield from _content_columns("req", body=self._wanted.request_body)
        if self._wanted.response:
            yield from _content_columns("resp", body=self._wanted.response_body)
            of_responses = "arrayFilter(r -> r.effect IN ('mask', 'withhold'), rules)"
            yield f"arrayMap(r -> (r.policy, r.effect), {of_responses}) AS hits"

    def _recorded(self, row: dict[str, Any]) -> Recorded:
        request = self._content(row, "req")
        headers = request.headers
        workload = self._caller(row, row["wi"], row["ws"], row["wc"]) if row["wi"] else None
        caller = self._caller(row, row["issuer"], row["subject"], row["claims"]) if row["issuer"] else workload
        held = row["decision"] == "hold" or row["approval_id"] or row["reason"].startswith("approval.")
        decision: Decision = "hold" if held else "deny" if row["decision"] == "deny" else "allow"
        answered = self._wanted.response and row["decision"] == "allow" and row["status"]
        return Recorded(
            Exchange(
                exchange_id=UUID(row["id"]),
                connection=row["connection"],
                method=row["method"],
                scheme=row["scheme"],
                authority=(headers.first("host") or row["host"].encode()).decode("utf-8", "replace"),
                path=row["path"],
                query=row["query"],
                headers=headers,
                received_us=row["us"],
            ),
            caller,
            workload,
            request,
            self._content(row, "resp") if answered else None,
            row["status"],
            decision,
            reason=row["reason"],
            policy=row["policy"],
            response_decision=row["response_decision"],
            session_label=row["label"],
            hits=dict(row.get("hits", ())),
        )

    def _caller(self, row: dict[str, Any], issuer: str, subject: str, claims: str) -> Caller:
        key = (issuer, subject, row["sid"], claims)
        known = self._callers.get(key)
        if known is None:
            try:
                told = json.loads(claims)
            except ValueError:
                told = {}
            told = told if isinstance(told, dict) else {}
            known = Caller(issuer, subject, SignedClaims(told), UUID(row["sid"]), row["label"])
            self._callers[key] = known
            if len(self._callers) > _MOST_CALLERS:
                self._callers.popitem(last=False)
        return known

    def _content(self, row: dict[str, Any], side: str) -> Content:
        names, values = row[f"{side}_hn"], row[f"{side}_hv"]
        headers = Headers([(name, value.encode()) for name, value in zip(names, values, strict=True)])
        size, form = row[f"{side}_size"], row[f"{side}_form"]
        masks = _masks(row["masks"], side)
        direction = "request" if side == "req" else "response"
        fetch = None
        body = b""
        if size > INLINE_BYTES:
            exchange_id = row["id"]

            def fetch() -> bytes:
                return self._parts(exchange_id, direction)

        elif size and f"{side}_b" in row:
            text = row[f"{side}_b"]
            body = base64.b64decode(text) if row[f"{side}_x"] else text.encode()
        return Content(
            headers,
            body,
            size,
            form == "decoded",
            masks,
            _missing(row, headers, size - masks.grown, form, side),
            fetch,
        )

    def _parts(self, exchange_id: str, direction: str) -> bytes:
        sql = (
            "SELECT base64Encode(data) AS data FROM {db}.body_parts "
            "WHERE exchange_id = {id:UUID} AND direction = {direction:String} ORDER BY n"
        )
        rows = self._query(sql, {"id": exchange_id, "direction": direction})
        return b"".join(base64.b64decode(row["data"]) for row in rows)


def _where(where: str) -> str:
    return (
        "ts >= toDateTime64({from:Int64}, 6, 'UTC') AND ts < toDateTime64({to:Int64}, 6, 'UTC') "
        f"AND path NOT LIKE '{OWN_PATHS}' AND {where}"
    )


def _content_columns(side: str, *, body: bool) -> Iterator[str]:
    yield f"{side}_headers.name AS {side}_hn, {side}_headers.value AS {side}_hv"
    yield f"{side}_body_size AS {side}_size, toString({side}_form) AS {side}_form"
    if body:
        # JSON has no bytes: what is not UTF-8 comes as base64.
        column = f"{side}_body"
        yield f"if(isValidUTF8({column}), {column}, base64Encode({column})) AS {side}_b"
        yield f"NOT isValidUTF8({column}) AS {side}_x"


def _masks(masks: list[list[Any]], side: str) -> Masks:
    if not masks:
        return NO_MASKS
    places = {place for place, *_ in masks}
    return Masks(
        path=side == "req" and "path" in places,
        query=side == "req" and "query" in places,
        headers=frozenset(index for place, index, *_ in masks if place == f"{side}_headers"),
        body=f"{side}_body" in places,
        grown=sum(length - original for place, _, length, original in masks if place == f"{side}_body"),
    )


def _missing(row: dict[str, Any], headers: Headers, sent: int, form: str, side: str) -> str:
    """Why the body cannot be known. A request that was refused by its head was recorded without its body."""
    if form == "sealed":
        return "it is sealed"
    length = headers.first("content-length")
    if form == "as_sent" and length is not None and length.isdigit() and len(length) < 20:
        whole = int(length) == sent or (side == "resp" and row["method"] == "HEAD")
        return "" if whole else "not all of it was recorded"
    if row["outcome"] not in ("complete", "denied"):
        return "not all of it was recorded"
    if side == "req" and not sent and row["decision"] == "deny" and headers.first("transfer-encoding") is not None:
        return "it was refused before its body came"
    return ""
