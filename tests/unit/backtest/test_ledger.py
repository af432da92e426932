"""Rows of the ledger as exchanges: what is there, what is not, and queries that run out of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import pytest

from ext_proc.backtest.ledger import Reader, Selection, Wanted
from ext_proc.backtest.recorded import Masks
from ext_proc.backtest.windows import Window
from ext_proc.errors import StoreError


def row(n: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "id": str(UUID(int=n)),
        "us": 1_000_000 + n,
        **dict.fromkeys(("query", "reason", "approval_id", "response_decision", "wi", "ws", "wc"), ""),
        "connection": "datadog",
        "method": "POST",
        "scheme": "https",
        "host": "h",
        "path": "/",
        "status": 200,
        "decision": "allow",
        "policy": "infra",
        "outcome": "complete",
        "issuer": "github",
        "subject": "s",
        "claims": '{"a": 1}',
        "sid": str(UUID(int=7)),
        "label": "run 7",
        "masks": [],
        "req_hn": ["host"],
        "req_hv": ["h"],
        "req_size": 2,
        "req_form": "as_sent",
        "req_b": "{}",
        "req_x": 0,
        "resp_hn": [],
        "resp_hv": [],
        "resp_size": 2,
        "resp_form": "as_sent",
        "resp_b": "e30=",
        "resp_x": 1,
        **changes,
    }


def read(*rows: dict[str, Any]) -> list[Any]:
    reader = Reader(lambda *_: iter(rows), Selection("1", {}, 0, 9), Wanted())
    return list(reader.read(Window(0, 9, len(rows))))


def test_a_row_is_an_exchange() -> None:
    first, second = read(row(), row(2))
    assert (first.exchange.exchange_id, first.exchange.received_us) == (UUID(int=1), 1_000_001)
    assert (first.request.body, first.response.body) == (b"{}", b"{}")
    assert first.caller is second.caller  # so that grants are asked once
    assert first.caller.claims == {"a": 1}


@pytest.mark.parametrize(
    ("changes", "decision"),
    [
        ({}, "allow"),
        ({"decision": "deny", "reason": "policy.denied"}, "deny"),
        ({"decision": "hold", "reason": "approval.pending"}, "hold"),
        ({"decision": "allow", "approval_id": "7"}, "hold"),
        ({"decision": "deny", "reason": "approval.expired"}, "hold"),
    ],
)
def test_held_is_held_whatever_became_of_it(changes: dict[str, Any], decision: str) -> None:
    (found,) = read(row(**changes))
    assert found.decision == decision


LENGTH = {"req_hn": ["content-length"]}
DENIED = {"decision": "deny", "outcome": "denied", "req_size": 0}


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({}, ""),
        ({"req_form": "sealed"}, "it is sealed"),
        ({**LENGTH, "req_hv": ["2"]}, ""),
        ({**LENGTH, "req_hv": ["3"]}, "not all of it was recorded"),
        ({**LENGTH, "req_hv": ["2"], "outcome": "client_gone"}, ""),
        ({**LENGTH, "req_hv": ["9" * 30]}, ""),
        # A masked span changed the length.
        ({**LENGTH, "req_hv": ["1"], "masks": [["req_body", 0, 9, 8]]}, ""),
        ({"outcome": "client_gone"}, "not all of it was recorded"),
        # Refused by its head: its body was never read.
        ({**DENIED, "req_hn": ["transfer-encoding"], "req_hv": ["chunked"]}, "it was refused before its body came"),
        ({**DENIED, **LENGTH, "req_hv": ["7"]}, "not all of it was recorded"),
    ],
)  # fmt: skip
def test_bodies_that_are_not_all_there(changes: dict[str, Any], missing: str) -> None:
    (found,) = read(row(**changes))
    assert found.request.missing == missing


def test_masks_by_their_places() -> None:
    masks = [["path", 0, 5, 5], ["query", 0, 5, 5], ["req_headers", 3, 5, 5], ["req_body", 0, 29, 20]]
    masks += [["req_body", 0, 29, 40], ["resp_headers", 1, 5, 5], ["resp_trailers", 0, 5, 5]]
    (found,) = read(row(masks=masks))
    assert found.request.masks == Masks(path=True, query=True, headers=frozenset({3}), body=True, grown=-2)
    assert found.response.masks == Masks(headers=frozenset({1}))


def test_an_answer_that_no_upstream_gave_is_none() -> None:
    for changes in ({"decision": "deny"}, {"status": 0}, {"decision": "hold"}):
        (found,) = read(row(**changes))
        assert found.response is None


class TimedOutError(StoreError):
    code = 159


def test_a_query_that_runs_out_of_time_is_continued_after_the_last_row() -> None:
    asked: list[Mapping[str, object]] = []

    def query(_: str, parameters: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        asked.append(parameters)
        start = parameters.get("us", 1_000_000)
        assert isinstance(start, int)
        for n in range(start - 1_000_000 + 1, 8):
            if n > start - 1_000_000 + 3:
                raise TimedOutError("store.refused", "Timeout exceeded")
            yield row(n)

    reader = Reader(query, Selection("1", {}, 0, 9), Wanted())
    assert [r.exchange.exchange_id.int for r in reader.read(Window(0, 9, 7))] == [1, 2, 3, 4, 5, 6, 7]
    assert [p.get("us") for p in asked] == [None, 1_000_003, 1_000_006]

    def stuck(*_: Any) -> Iterator[dict[str, Any]]:
        raise TimedOutError("store.refused", "Timeout exceeded")
        yield {}

    with pytest.raises(TimedOutError):
        list(Reader(stuck, Selection("1", {}, 0, 9), Wanted()).read(Window(0, 9, 7)))


def test_only_what_rules_look_at_is_asked_for() -> None:
    def columns(facts: set[str], *, responses: bool) -> str:
        asked: list[str] = []

        def query(sql: str, _: Mapping[str, object]) -> Iterator[dict[str, Any]]:
            asked.append(sql)
            return iter(())

        wanted = Wanted.by(frozenset(facts), responses=responses)
        list(Reader(query, Selection("1", {}, 0, 9), wanted, (1, 2)).read(Window(0, 9, 7)))
        return asked[0]

    assert "isValidUTF8" not in columns({"request.method", "request.size"}, responses=False)
    assert "resp_headers" not in columns({"request.json"}, responses=False)
    assert "isValidUTF8(req_body)" in columns({"request.json"}, responses=False)
    status = columns({"response.status"}, responses=True)
    assert "resp_headers" in status
    assert "isValidUTF8" not in status
    assert "cityHash64(session_id) % 2 = 1" in status
