from datetime import UTC, datetime
from typing import Any

import pytest

from ext_proc.expressions import compile_expression
from ext_proc.expressions.trace import MAX_CHARACTERS, MAX_VALUES
from ext_proc.expressions.types import DYN, INT, STRING, TIMESTAMP, list_of, map_of

SCHEMA = {
    "request": {"json": DYN, "method": STRING, "size": INT, "headers": map_of(STRING, list_of(STRING))},
    "now": TIMESTAMP,
}
FACTS = {
    "request.json": {
        "title": "x" * 1000,
        "widgets": [{"definition": {"type": "note"}}, {}, {"definition": {"type": "iframe"}}],
        "tags": ["a", "b"],
        "n": 2**70,
        "deep": {"er": None},
    },
    "request.method": "POST",
    "request.size": 7,
    "request.headers": {"x-a": ["1"]},
    "now": datetime(2026, 5, 9, tzinfo=UTC),
}


@pytest.mark.parametrize(
    ("source", "values"),
    [
        ("request.method == 'POST'", {"request.method": "POST"}),
        ("request.method == 'GET' || request.size > 3", {"request.size": 7}),
        ("request.json.gone == 1 || request.size > 3", {"request.size": 7}),
        ("request.method == 'POST' && request.size > 3", {"request.method": "POST", "request.size": 7}),
        ("!(request.method == 'POST' && request.size > 9)", {"request.size": 7}),
        (
            "request.json.widgets.exists(w, w.definition.type == 'iframe')",
            {
                "request.json.widgets": "a list of 3",
                "w": "request.json.widgets[2]",
                "w.definition.type": "iframe",
            },
        ),
        (
            "!request.json.tags.all(t, t != 'b')",
            {"request.json.tags": ["a", "b"], "t": "b"},
        ),
        ("size(request.json.widgets) > 2", {"size(request.json.widgets)": 3}),
        ("request.json.widgets.filter(w, has(w.definition)).size() == 2", None),
        ("request.json.n > 1", {"request.json.n": str(2**70)}),
        ("request.json.deep.er == null", {"request.json.deep.er": None}),
        ("'1' in request.headers['x-a']", {"request.headers['x-a']": ["1"]}),
        ("now > timestamp('2020-01-01T00:00:00Z')", {"now": "2026-05-09T00:00:00Z"}),
        ("request . size\n > 3", {"request . size": 7}),
    ],
)
def test_the_values_that_decided(source: str, values: dict[str, Any] | None) -> None:
    expression = compile_expression(source, SCHEMA)
    assert expression.evaluate(FACTS) is True
    found = expression.trace(FACTS)
    if values is None:
        assert "request.json.widgets.filter(w, has(w.definition)).size()" in found
    else:
        assert found == values


def test_values_are_few_short_and_utf8() -> None:
    half = compile_expression("request.json.a == '?' || 'x' in request.json.l", SCHEMA).trace(
        {"request.json": {"a": "\ud800", "l": ["\udfff", "x"]}}
    )
    assert half == {"request.json.l": ["?", "x"]}
    long = compile_expression("request.json.title.startsWith('x')", SCHEMA).trace(FACTS)
    assert len(long["request.json.title"]) < MAX_CHARACTERS + 40
    many = " && ".join(f"request.json.tags[{n % 2}] != '{n}' && request.json['tags'].size() > {-n}" for n in range(40))
    assert len(compile_expression(many, SCHEMA).trace(FACTS)) <= MAX_VALUES
