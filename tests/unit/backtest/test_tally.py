"""What counts as a change, for which rule, and that parts add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ext_proc.backtest.judge import GRANTS
from ext_proc.backtest.recorded import Content
from ext_proc.backtest.run import over
from ext_proc.backtest.tally import Tally, is_judgeable
from ext_proc.backtest.values import Shown
from ext_proc.backtest.windows import MOST_BYTES, MOST_ROWS, Window, cut
from ext_proc.exchange import Headers
from tests.unit.backtest.exchanges import NOON_US, config, judge, recorded

DENY_DELETES = {"name": "no-deletes", "effect": "deny", "when": "request.method == 'DELETE'"}
OLD = {"decision": "deny", "reason": "policy.denied", "policy": "old"}
HOLD_DELETES = {"name": "people", "effect": "hold", "approvers": ["local"], "when": "request.method == 'DELETE'"}


def plain(values: Mapping[str, object]) -> Any:
    return dict(values)


@pytest.mark.parametrize(
    ("policies", "was", "expected"),
    [
        ([DENY_DELETES], {}, {"no-deletes": {"newly_denied": 1}}),
        ([HOLD_DELETES], {}, {"people": {"newly_held": 1}}),
        ([], {}, {}),
        ([DENY_DELETES], OLD, {"no-deletes": {"unchanged": 1}}),
        ([], OLD, {"old": {"newly_allowed": 1}}),
        ([], {"decision": "deny", "reason": "grant.none", "policy": ""}, {GRANTS: {"newly_allowed": 1}}),
        ([], {"decision": "hold", "policy": "a,b"}, {"a": {"newly_allowed": 1}, "b": {"newly_allowed": 1}}),
        ([HOLD_DELETES], {"decision": "hold", "policy": "people"}, {"people": {"unchanged": 1}}),
        ([DENY_DELETES], {"decision": "hold", "policy": "people"}, {"no-deletes": {"newly_denied": 1}}),
        ([HOLD_DELETES], {"decision": "deny", "policy": "no-deletes"}, {"people": {"newly_held": 1}}),
        ([{**DENY_DELETES, "mode": "observe"}], {}, {"no-deletes": {"observed": 1}}),
        ([{**DENY_DELETES, "when": "request.json.a == 1"}], {"missing": "sealed"}, {"no-deletes": {"uncertain": 1}}),
    ],
)  # fmt: skip
def test_changes_by_rule(policies: list[dict[str, Any]], was: dict[str, Any], expected: dict[str, Any]) -> None:
    tally = Tally()
    exchange = recorded("DELETE", "/api/v1/monitor/7", **was)
    tally.add(exchange, judge(policies).decide(exchange), plain)
    assert {name: dict(row.counts) for name, row in tally.rows.items()} == expected
    changes = {change for counts in expected.values() for change in counts if change.startswith("newly")}
    assert tally.changed == bool(changes)
    assert set(tally.changes) == changes
    assert tally.uncertain == int("uncertain" in str(expected))


def test_responses_change_by_themselves() -> None:
    answer = Content(Headers(), b'{"key": "x"}', 12, decoded=True)
    withhold = {"name": "keys", "effect": "withhold", "when": "has(response.json.key)"}
    for was, policies, expected in (
        ("", [withhold], {"keys": {"newly_withheld": 1}}),
        ("withhold", [withhold], {"keys": {"unchanged": 1}}),
        ("withhold", [], {"(responses)": {"newly_shown": 1}}),
        ("pass", [{**withhold, "effect": "flag"}], {"keys": {"flagged": 1}}),
        ("pass", [{**withhold, "effect": "mask"}], {"keys": {"newly_masked": 1}}),
        ("pass", [{**withhold, "mode": "observe"}], {"keys": {"observed": 1}}),
    ):
        tally = Tally()
        exchange = recorded(response=answer, response_decision=was)
        tally.add(exchange, judge(policies).decide(exchange), plain)
        assert {name: dict(row.counts) for name, row in tally.rows.items()} == expected, was


def test_what_was_refused_before_any_rule_is_left_out() -> None:
    early = recorded(decision="deny", reason="identity.expired", policy="")
    assert not is_judgeable(early)
    for reason, policy in (("grant.none", ""), ("policy.rate", "r"), ("approval.expired", ""), ("upstream.reset", "p")):
        assert is_judgeable(recorded(decision="deny", reason=reason, policy=policy))
    tally = over([early, recorded()], judge(), plain, Tally())  # type: ignore[arg-type]
    assert (tally.seen, dict(tally.left_out)) == (1, {"identity.expired": 1})


def test_parts_add_up_to_the_whole_whatever_their_order() -> None:
    exchanges = [recorded(("GET", "DELETE")[n % 2], f"/m/{n}", at_us=NOON_US + n) for n in range(20)]
    judging = judge([DENY_DELETES])
    whole = over(exchanges, judging, plain, Tally(4))  # type: ignore[arg-type]
    parts = [over(exchanges[n::3], judging, plain, Tally(4)) for n in range(3)]  # type: ignore[arg-type]
    for order in (parts, parts[::-1]):
        total = Tally(4)
        for part in order:
            total.merge(part)
        assert total == whole
    examples = whole.rows["no-deletes"].examples["newly_denied"]
    assert [e.request for e in examples] == ["DELETE /m/1", "DELETE /m/3", "DELETE /m/5", "DELETE /m/7"]


def test_values_are_masked_as_in_the_ledger() -> None:
    shown = Shown(config())
    token = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"
    values = shown({"request.headers.authorization": f"Bearer {token}", "request.method": "GET"})
    assert token not in str(values)
    assert values["request.method"] == "GET"
    assert shown({}) == {}


def test_windows_are_cut_by_rows_and_bytes_and_cover_everything() -> None:
    buckets = [(100 + 10 * n, MOST_ROWS // 4, 0) for n in range(10)]
    found = cut(buckets, 10)
    assert [(w.start, w.end) for w in found] == [(100, 140), (140, 180), (180, 200)]
    assert sum(w.count for w in found) == 10 * (MOST_ROWS // 4)
    large = cut([(0, 1, MOST_BYTES), (1, 1, 5), (2, 9 * MOST_ROWS, 1), (9, 1, 1)], 1)
    assert large == [Window(0, 1, 1), Window(1, 2, 1), Window(2, 3, 9 * MOST_ROWS), Window(9, 10, 1)]
    assert cut([], 1) == []
