import time
from typing import Any

import pytest

from ext_proc.config.json_path import JsonPathError, parse

DASHBOARD = {
    "title": "x",
    "widgets": [
        {"definition": {"type": "note"}},
        {"definition": {"type": "group", "widgets": [{"definition": {"type": "iframe", "url": "u"}}]}},
    ],
    "a.b": {"c d": [10, 20, 30]},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", {(): DASHBOARD}),
        ("$.title", {("title",): "x"}),
        ("$['title']", {("title",): "x"}),
        ('$["a.b"]["c d"][1]', {("a.b", "c d", 1): 20}),
        (
            "$.widgets[*].definition.type",
            {("widgets", 0, "definition", "type"): "note", ("widgets", 1, "definition", "type"): "group"},
        ),
        (
            "$..type",
            {
                ("widgets", 0, "definition", "type"): "note",
                ("widgets", 1, "definition", "type"): "group",
                ("widgets", 1, "definition", "widgets", 0, "definition", "type"): "iframe",
            },
        ),
        (
            "$..widgets..type",
            {
                ("widgets", 0, "definition", "type"): "note",
                ("widgets", 1, "definition", "type"): "group",
                ("widgets", 1, "definition", "widgets", 0, "definition", "type"): "iframe",
            },
        ),
        ("$..[2]", {("a.b", "c d", 2): 30}),
        ("$..['c d'][*]", {("a.b", "c d", 0): 10, ("a.b", "c d", 1): 20, ("a.b", "c d", 2): 30}),
        ("$['a.b'].*[0]", {("a.b", "c d", 0): 10}),
        ("$.TITLE", {("title",): "x"}),
        ("$.title.x", {}),
        ("$.widgets.type", {}),
        ("$.title[0]", {}),
        ("$.widgets[7]", {}),
    ],
)
def test_finds_each_value_once(path: str, found: dict[Any, Any]) -> None:
    matches = list(parse(path).find(DASHBOARD))
    assert len(matches) == len(found)
    assert dict(matches) == found


def test_names_are_compared_as_lenient_parsers_do() -> None:
    """Go's encoding/json folds case by Unicode's simple folding: the Kelvin sign is a k, the long s an s."""
    assert [v for _, v in parse("$..key_s").find([{"\u212aEY_\u017f": 1}])] == [1]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "x",
        "$x",
        "$.",
        "$..",
        "$.a.",
        "$...a",
        "$.[0]",
        "$[-1]",
        "$[01]",
        "$[1:2]",
        "$[?(@.a)]",
        "$['a",
        "$[a]",
        "$.a b",
        "$[0",
        "$.1a",
        "$" + ".a" * 33,
        "$[ 0 ]",
        "$['a'\"]",
    ],
)
def test_what_is_not_in_the_subset_is_refused(path: str) -> None:
    with pytest.raises(JsonPathError):
        parse(path)


def test_depth_is_no_limit_and_time_is_linear() -> None:
    deep: Any = {"type": "iframe"}
    for _ in range(100_000):
        deep = {"a": deep}
    assert sum(1 for _ in parse("$..type").find(deep)) == 1
    # Repeated descents visit n^k places where each is followed by itself.
    wide: Any = {}
    for _ in range(2_000):
        wide = {"a": wide}
    began = time.process_time()
    assert sum(1 for _ in parse("$" + "..a" * 30).find(wide)) == 2_000 - 29
    assert time.process_time() - began < 2
