"""Values that exist and are not known: whatever depends on one has no value."""

from __future__ import annotations

from typing import NoReturn

import pytest

from ext_proc.expressions import EvaluationError, FactUnknown, Unknown, compile_expression
from ext_proc.expressions.types import DYN


def touched() -> NoReturn:
    raise FactUnknown("x.u")


FACTS = {"x": {"u": Unknown(touched), "list": ["a", Unknown(touched)], "n": 1}}


@pytest.mark.parametrize(
    "source",
    [
        *("x.u == 'a'", "'a' == x.u", "x.u != 1", "1 == x.u", "x.u == x.n", "x.u == null", "x.u in ['a']"),
        *("x.u in x.list", "'b' in x.list", "x.list == ['a', 'b']", "x.u < 'a'", "'a' <= x.u", "x.u + 'a'", "-x.u"),
        *("!x.u", "x.u && true", "false || x.u", "x.u ? 1 : 2", "x.u.member", "x.u['a']", "has(x.u.member)"),
        *("size(x.u)", "x.u.contains('a')", "x.u.matches('a')", "string(x.u)", "int(x.u)", "type(x.u) == string"),
        *("x.u.exists(i, i == 1)", "x.list.all(i, i == 'a')", "x.list.map(i, i + 'b')", "{x.u: 1}"),
    ],
)  # fmt: skip
def test_whatever_looks_at_it_has_no_value(source: str) -> None:
    with pytest.raises(FactUnknown):
        compile_expression(source, {"x": DYN}).evaluate(FACTS)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("x.u == 'a' || x.n == 1", True),
        ("x.u == 'a' && x.n == 2", False),
        ("'a' in x.list", True),
        ("x.list.exists(i, i == 'a')", True),
        ("x.list.all(i, i == 'b')", False),
        ("size(x.list) == 2", True),
        ("has(x.u)", True),
    ],
)
def test_what_does_not_depend_on_it_has_one(source: str, value: bool) -> None:
    assert compile_expression(source, {"x": DYN}).evaluate(FACTS) is value


def test_it_is_an_error_that_is_absorbed() -> None:
    assert issubclass(FactUnknown, EvaluationError)
