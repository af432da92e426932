"""What callers send cannot make an expression take long: whatever it loops over ends in BudgetExceeded."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from ext_proc.expressions import BUDGET, BudgetExceeded, EvaluationError, ExpressionError, compile_expression
from ext_proc.expressions.types import DYN, STRING

SCHEMA = {"json": DYN, "text": STRING}
LIST = list(range(100_000))
TEXT = "a" * 1_000_000


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def run(source: str, **facts: Any) -> tuple[object, float]:
    """(the value, or the class of what was raised, the fastest of three runs in seconds)."""
    expression = compile_expression(source, SCHEMA, folding=True)
    fastest = 9.0
    outcome: object = None
    for _ in range(3):
        began = time.perf_counter()
        try:
            outcome = expression.evaluate(facts)
        except (BudgetExceeded, EvaluationError) as error:
            outcome = type(error)
        fastest = min(fastest, time.perf_counter() - began)
    return outcome, fastest


@pytest.mark.parametrize(
    ("source", "json"),
    [
        ("json.exists(a, json.exists(b, json.exists(c, a + b + c == -1)))", LIST[:300]),
        ("json.all(a, json.all(b, true))", LIST),
        ("json.exists(a, json.exists(b, a + 'x' == b))", LIST),
        ("json.filter(a, json.exists_one(b, b == a)).size() > 1", LIST),
        ("json.map(a, json)", LIST),
        ("json.map(a, json + json)", LIST),
        ("json.exists(a, text.contains('aaab'))", LIST),
        ("json.exists(a, text.contains('" + "a" * 300 + "b" + "a" * 300 + "'))", LIST),
        ("json.exists(a, text.matches('(x+x+)+y'))", LIST),
        ("json.exists(a, text.matches('(a|b)*a(a|b){60}z'))", LIST),
        ("json.exists(a, text.lowerAscii() == 'x')", LIST),
        ("text.split('a').size() > 3", None),
        ("text.split('').size() > 3", None),
        ("text.replace('a', '" + "b" * 100 + "').size() > 3", None),
        ("text.replace('', text).size() > 3", None),
        ("text" + " + text" * 40 + " == 'a'", None),
        ("json.exists(a, json.join('') == a)", ["y" * 100] * 5_000),
        ("json.exists(a, 'x' in json)", ["y" * 100] * 5_000),
        ("json.exists(a, {'i': -1} in json)", [{"i": i} for i in range(5_000)]),
        ("json == json", [{"i": i} for i in range(100_000)]),
        ("json.exists(a, a != json[0])", [nested(200) for _ in range(1_000)]),
        ("json.l.exists(a, has(json.zz))", {"l": LIST, **{f"k{n}": n for n in range(30_000)}}),
        ("json.exists(a, a * a > 3)", [10**4000] * 10_000),
        ("json.exists(a, string(a) == '3')", [10**4000] * 10_000),
        ("json.exists(a, timestamp(a) < timestamp('2000-01-01T00:00:00Z'))", ["2020-01-01T00:00:00.1+01:00"] * 20_000),
        ("json.exists(a, duration(a).getHours() > 10000)", ["1h1m1s1ms1us1ns"] * 20_000),
        ("json.exists(a, timestamp('2020-01-01T00:00:00Z').getHours(a) > 99)", [f"Europe/X{n}" for n in range(20_000)]),
    ],
)
def test_work_is_bounded(source: str, json: Any) -> None:
    outcome, seconds = run(source, json=json, text=TEXT)
    assert outcome is BudgetExceeded
    assert seconds < 0.3  # about 15 ms; this machine may be busy


def test_the_budget_is_exact() -> None:
    expression = compile_expression("json.exists(a, a == 7) && text.contains('b')", SCHEMA)
    facts = {"json": [1, 2, 7], "text": "b" * 640}
    least = next(n for n in range(BUDGET) if _enough(expression, facts, n))
    assert least == 6 + 3 * 4 + 640 // 64  # nodes, three turns of a loop, and the text searched
    assert not _enough(expression, facts, least - 1)
    assert _enough(expression, {**facts, "json": [7]}, least - 2 * 4)


def _enough(expression: Any, facts: dict[str, Any], budget: int) -> bool:
    try:
        return bool(expression.evaluate(facts, budget))
    except BudgetExceeded:
        return False


def test_exceeding_it_is_absorbed_by_nothing() -> None:
    loop = "json.exists(a, json.exists(b, false))"
    for source in (f"{loop} || true", f"true && ({loop} || true)", f"[1].exists(x, {loop} || x == 1)"):
        with pytest.raises(BudgetExceeded):
            compile_expression(source, SCHEMA).evaluate({"json": LIST, "text": ""}, 1000)


@pytest.mark.parametrize(
    "source",
    [
        "(" * 3000 + "true" + ")" * 3000,
        "!" * 3000 + "true",
        "-" * 3000 + "1",
        "[" * 1000 + "]" * 1000,
        "json" + ".a" * 2000,
        "json" + "[0]" * 2000,
        "1" + " + 1" * 2000,
        "true ? " * 1000 + "1" + " : 1" * 1000,
        "'" + "a" * 10_000 + "'",
        "json.all(x, " * 100 + "true" + ")" * 100,
        "json.a.matches('\\\\pL{1000}')",
    ],
)
def test_sources_that_are_too_large_are_refused(source: str) -> None:
    with pytest.raises(ExpressionError):
        compile_expression(source, SCHEMA)


def test_long_chains_of_and_and_or_are_fine() -> None:
    source = " || ".join(f"json.a == {n}" for n in range(400))
    assert compile_expression(source, SCHEMA).evaluate({"json": {"a": 399}}) is True
    assert compile_expression(source, SCHEMA).evaluate({"json": {"a": 400}}) is False


def test_no_text_makes_it_fail_in_another_way() -> None:
    """Corner cases with characters taken out, put in and swapped: an error of the language, or a value."""
    chance = random.Random(9)
    corners = (Path(__file__).parent / "corners.txt").read_text(encoding="utf-8").splitlines()
    facts = {"x": {"n": 1, "tags": ["a"], "none": [], "widgets": [{}]}, "y": 5}
    schema = dict.fromkeys(facts, DYN)
    compiled = 0
    for _ in range(3_000):
        text = list(chance.choice(corners) or "1")
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(text) + 1)
            text[at : at + chance.randrange(2)] = chance.choice("()[]{}'\"\\.,?:!-+*&|=<>`/ 019eux\x00\u20ac\ud800")
        try:
            expression = compile_expression("".join(text), schema)
            compiled += 1
            expression.evaluate(facts)
            expression.trace(facts)
        except (ExpressionError, EvaluationError, BudgetExceeded):
            continue
    assert compiled > 100
