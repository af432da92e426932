"""Ours gives what Google's reference gives: for expressions that look into each corner, and for random ones."""

from pathlib import Path

import pytest

from tests.unit.expressions.reference import ERROR, FOLDED, REFUSED, Maker, agree, ours, theirs

CORNERS = (Path(__file__).parent / "corners.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("source", CORNERS)
def test_each_corner(source: str) -> None:
    assert agree(source), (ours(source), theirs(source, checked=False), theirs(source, checked=True))


def test_a_thousand_random_ones() -> None:
    sources = [Maker(seed).any(1 + seed % 5) for seed in range(1000)]
    assert [source for source in sources if not agree(source)] == []
    outcomes = [ours(source) for source in sources]
    assert sum(outcome not in (ERROR, REFUSED, FOLDED) for outcome in outcomes) > 300


@pytest.mark.parametrize(
    ("source", "mine"),
    [
        # The specification compares on the number line; cel-cpp converts to double first.
        ("9223372036854775807 < 9223372036854775807.0", ("bool", True)),
        ("9007199254740993 == 9007199254740992.0", ("bool", False)),
        # One key, and a map has it once.
        ("{1: 1, 1u: 2}", ERROR),
        ("{true: 1}", REFUSED),
        # A pattern is read at load.
        ("x.title.matches(x.title)", REFUSED),
    ],
)
def test_where_ours_differs_on_purpose(source: str, mine: object) -> None:
    assert ours(source) == mine
