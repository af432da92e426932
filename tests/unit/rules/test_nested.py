import json
from typing import Any

import pytest

from ext_proc.expressions import BudgetExceeded, FactUnreadable, compile_expression
from ext_proc.expressions.types import DYN
from ext_proc.rules.nested import POLICY_FUNCTIONS

BAD = {"definition": {"type": "iframe"}}
IFRAMES = compile_expression(
    "widgets(json).exists(w, w.definition.type == 'iframe')", {"json": DYN}, POLICY_FUNCTIONS, folding=True
)


def group(*widgets: Any, kind: str = "group") -> dict[str, Any]:
    return {"definition": {"type": kind, "widgets": list(widgets)}}


@pytest.mark.parametrize(
    "document",
    [
        {"widgets": [BAD]},
        {"widgets": [group(BAD)]},
        {"widgets": [group(group(group(BAD)))]},
        {"Widgets": [{"Definition": {"TYPE": "iframe"}}]},
        {"data": {"attributes": {"cells": [{"type": "notebook_cells", "attributes": BAD}]}}},
        {"data": [{"attributes": {"widgets": [BAD]}}]},
        {"widgets": [{"definition": {"type": "split_group", "source_widget_definition": {"type": "iframe"}}}]},
        {"widgets": [{"definition": {"type": "powerpack", "group_widget": group(BAD)}}]},
        {"widgets": [{"definition": json.dumps({"type": "iframe"})}]},
        {"widgets": json.dumps([BAD])},
        {"dashboard": "  " + json.dumps({"widgets": json.dumps([group(BAD)])})},
        {"widgets": [{"definition": [{"type": "note"}, {"type": "iframe"}]}]},
        {"widgets": [[[BAD]]]},
        [BAD],
        BAD,
        json.dumps(BAD),
    ],
)
def test_wherever_a_widget_is_nested(document: Any) -> None:
    assert IFRAMES.holds({"json": document}) is True


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"widgets": []},
        {"widgets": [{"definition": {"type": "note", "content": "an iframe: {not json"}}]},
        {"title": "iframe", "description": "[iframe]"},
        {"type": "iframe"},
    ],
)
def test_what_is_no_such_widget(document: Any) -> None:
    assert IFRAMES.holds({"json": document}) is False


def test_widgets_come_in_their_order_and_once() -> None:
    expression = compile_expression("widgets(json).map(w, w.id)", {"json": DYN}, POLICY_FUNCTIONS)
    inner = {"id": 3, "definition": {"type": "note"}}
    document = {"widgets": [{"id": 1, "definition": {}}, {"id": 2, **group(inner)}, {"id": 4, "definition": {}}]}
    assert expression.evaluate({"json": document}) == [1, 2, 3, 4]


def test_a_document_is_walked_once_and_costs_the_same_each_time() -> None:
    document = {"widgets": [BAD] * 3, "note": json.dumps({"q": ["x", ""]})}
    empty = compile_expression("find(json, 'Q').exists(q, '' in q)", {"json": DYN}, POLICY_FUNCTIONS)
    memo: dict[Any, Any] = {}
    least = next(n for n in range(1000) if _enough(empty, document, n, {}))
    assert not _enough(empty, document, least - 1, memo)
    assert empty.holds({"json": document}, 1000, memo)
    assert len(memo) == 1
    assert not _enough(empty, document, least - 1, memo)
    assert _enough(empty, document, least, memo)


def _enough(expression: Any, document: Any, budget: int, memo: dict[Any, Any]) -> bool:
    try:
        return bool(expression.holds({"json": document}, budget, memo))
    except BudgetExceeded:
        return False


def test_several_names_are_found_for_the_price_of_one() -> None:
    document = {"b": 1, "widgets": [{"A": [{"b": 2}]}, {"a": 3}]}
    both = compile_expression("find(json, ['a', 'B', 'b', 'c'])", {"json": DYN}, POLICY_FUNCTIONS)
    assert both.evaluate({"json": document}) == [[{"b": 2}], 3, 1, 2]
    one = compile_expression("find(json, 'a')", {"json": DYN}, POLICY_FUNCTIONS)
    least = next(n for n in range(1000) if _enough_for(one, document, n))
    assert _enough_for(both, document, least + 8)


def _enough_for(expression: Any, document: Any, budget: int) -> bool:
    try:
        expression.evaluate({"json": document}, budget)
    except BudgetExceeded:
        return False
    return True


@pytest.mark.parametrize(
    "text",
    [
        '{"definition": {"type": "iframe"}, "x": 1, "x": 2}',
        '{"definition": {"type": "note", "Type": "iframe"}}',
        '{"definition": {"type": "iframe"}, "x": NaN}',
        '{"definition": {"type": "iframe"}, "x": ' + "[" * 300 + "]" * 300 + "}",
        '{"definition": {"type": "iframe"}, "x": ' + "1" * 5000 + "}",
    ],
)
def test_json_in_a_string_that_parsers_may_read_otherwise_hides_nothing(text: str) -> None:
    with pytest.raises(FactUnreadable):
        IFRAMES.holds({"json": {"widgets": text}})
    assert (
        IFRAMES.holds({"json": {"widgets": "[a note, and no JSON", "x": "{", "y": " [x](https://a.example)"}}) is False
    )


def test_a_long_name_costs_steps() -> None:
    expression = compile_expression("size(find([json], json.n)) == 1", {"json": DYN}, POLICY_FUNCTIONS)
    for document in ({"n": "ü" * 400_000}, {"n": "a", "ü" * 400_000: 1}, {"n": "a", "x": " " * 400_000}):
        with pytest.raises(BudgetExceeded):
            expression.holds({"json": document}, 5_000)
