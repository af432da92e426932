"""How many states a deterministic automaton of a pattern has, or that they are too many to count.

RE2 searches at a few nanoseconds a byte as long as the states it comes to fit its memory. A pattern such as
`a.{40}b`, where each `a` begins a count of its own, has 2^40 of them; a text that visits them makes RE2 a thousand
times slower. So the states are counted at load, on Glushkov's automaton: one position for each letter of the pattern,
and a state for each set of positions that a text can lead to.

What is not understood counts as too many. Python's parser reads RE2's syntax but for a few forms, which it refuses.
"""

from __future__ import annotations

import re
import re._constants as op  # type: ignore[import-not-found]
import re._parser as sre  # type: ignore[import-not-found]
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_LAST = 0x10FFFF
_READ_OTHERWISE = re.compile(r"\[:\^?\w+:]|\{,")
"""What Python takes for something else than RE2 does, and says nothing about: `[[:alpha:]]`, `x{,3}`."""
_ASCII: dict[Any, tuple[tuple[int, int], ...]] = {
    op.CATEGORY_DIGIT: ((48, 57),),
    op.CATEGORY_SPACE: ((9, 13), (32, 32)),
    op.CATEGORY_WORD: ((48, 57), (65, 90), (95, 95), (97, 122)),
}
_OPPOSITE = {
    op.CATEGORY_NOT_DIGIT: op.CATEGORY_DIGIT,
    op.CATEGORY_NOT_SPACE: op.CATEGORY_SPACE,
    op.CATEGORY_NOT_WORD: op.CATEGORY_WORD,
}
_AT_START = frozenset({op.AT_BEGINNING, op.AT_BEGINNING_STRING})
_AT_WORDS = {True: frozenset({op.AT_BOUNDARY}), False: frozenset({op.AT_NON_BOUNDARY})}
_NONE = frozenset[Any]()
_OF_LINES = frozenset({op.AT_BEGINNING, op.AT_END})
_Ranges = tuple[tuple[int, int], ...]


class _TooMuchError(Exception):
    """It is not understood, or too large."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Of a pattern: whether it may be empty, and the positions that it can begin and end with."""

    empty: bool
    first: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()


def few_states(pattern: str, *, at_most: int, positions: int) -> bool:
    """Whether a search for it, anywhere in a text, comes to `at_most` states whatever the text."""
    if _READ_OTHERWISE.search(pattern):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            parsed = sre.parse(pattern)
        automata = {
            (begins, turns): _Automaton(parsed, positions, (_AT_START if begins else _NONE) | _AT_WORDS[turns])
            for begins in (True, False)
            for turns in (True, False)
        }
    except (sre.error, _TooMuchError, Warning, OverflowError, RecursionError):
        return False
    return _reached(automata, at_most)


class _Automaton:
    """`passed`: the anchors that hold between any two letters. No other does, so that nothing follows it."""

    def __init__(self, parsed: Any, most: int, passed: frozenset[Any]) -> None:
        self._most, self._passed = most, passed
        self.letters: list[_Ranges] = []
        self.follow: list[set[int]] = []
        self.first = self.sequence(parsed, parsed.state.flags).first

    def sequence(self, items: Iterable[Any], flags: int) -> _Part:
        whole = _Part(True)
        for kind, value in items:
            whole = self._then(whole, self._item(kind, value, flags))
        return whole

    def _item(self, kind: Any, value: Any, flags: int) -> _Part:
        if kind is op.AT:
            if flags & sre.SRE_FLAG_MULTILINE and value in _OF_LINES:
                raise _TooMuchError
            return _Part(value in self._passed)
        if kind is op.SUBPATTERN:
            _, add, remove, inside = value
            return self.sequence(inside, (flags | add) & ~remove)
        if kind is op.BRANCH:
            parts = [self.sequence(one, flags) for one in value[1]]
            return _Part(
                any(p.empty for p in parts),
                frozenset().union(*(p.first for p in parts)),
                frozenset().union(*(p.last for p in parts)),
            )
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            least, most, inside = value
            return self._repeat(least, most, inside, flags)
        return self._letter(_ranges(kind, value, flags))

    def _repeat(self, least: int, most: int, item: Any, flags: int) -> _Part:
        """As RE2 takes it: `x{2,4}` is `xx(x(x)?)?`, and `x{2,}` is `xx+`."""
        endless = most is op.MAXREPEAT
        rest = _Part(True)
        for _ in range(0 if endless else most - least):
            one = self._then(self.sequence(item, flags), rest)
            rest = _Part(True, one.first, one.last)
        if endless:
            rest = self.sequence(item, flags)
            for position in rest.last:
                self.follow[position] |= rest.first
            rest = _Part(rest.empty or least == 0, rest.first, rest.last)
        whole = _Part(True)
        for _ in range(least - 1 if endless else least):
            whole = self._then(whole, self.sequence(item, flags))
        return self._then(whole, rest)

    def _letter(self, ranges: _Ranges) -> _Part:
        if len(self.letters) >= self._most:
            raise _TooMuchError
        self.letters.append(ranges)
        self.follow.append(set())
        only = frozenset({len(self.letters) - 1})
        return _Part(False, only, only)

    def _then(self, a: _Part, b: _Part) -> _Part:
        for position in a.last:
            self.follow[position] |= b.first
        return _Part(
            a.empty and b.empty, a.first | b.first if a.empty else a.first, a.last | b.last if b.empty else b.last
        )


def _reached(automata: dict[tuple[bool, bool], _Automaton], at_most: int) -> bool:
    """Whether there are no more states. `automata`: by whether the text begins, and whether a word begins or ends.

    A state is which positions the last letter took, and whether it was a word's. One letter is tried for all that no
    class of the pattern tells apart.
    """
    letters = automata[True, True].letters
    word = _ASCII[op.CATEGORY_WORD]
    edges = {0}.union(*({low, high + 1} for taken in (*letters, word) for low, high in taken))
    classes = {(frozenset(n for n, one in enumerate(letters) if _in(edge, one)), _in(edge, word)) for edge in edges}
    ways = {at: (one.first, [frozenset(positions) for positions in one.follow]) for at, one in automata.items()}
    words = ways[False, True] != ways[False, False]
    known = {(_NONE, False)}
    pending = [(_NONE, False, True)]
    while pending:
        taken, in_word, begins = pending.pop()
        for takes, of_word in classes:
            first, follow = ways[begins, in_word != of_word]
            reached = first.union(*(follow[position] for position in taken)) & takes, of_word and words
            if reached not in known:
                if len(known) >= at_most:
                    return False
                known.add(reached)
                pending.append((*reached, False))
    return True


def _in(letter: int, ranges: _Ranges) -> bool:
    return any(low <= letter <= high for low, high in ranges)


def _ranges(kind: Any, value: Any, flags: int) -> _Ranges:
    """The letters that one position takes."""
    if kind is op.ANY:
        return ((0, _LAST),) if flags & sre.SRE_FLAG_DOTALL else _but(((10, 10),))
    if kind is op.LITERAL:
        found: _Ranges = ((value, value),)
    elif kind is op.NOT_LITERAL:
        return _but(_folded(((value, value),), flags))
    elif kind is op.IN:
        negated = value[0][0] is op.NEGATE
        found = tuple(one for item in value[negated:] for one in _members(*item))
        found = _folded(found, flags)
        return _but(found) if negated else found
    else:
        raise _TooMuchError
    return _folded(found, flags)


def _members(kind: Any, value: Any) -> _Ranges:
    if kind is op.LITERAL:
        return ((value, value),)
    if kind is op.RANGE:
        return (value,)
    if kind is op.CATEGORY:
        return _ASCII[value] if value in _ASCII else _but(_ASCII[_OPPOSITE[value]])
    raise _TooMuchError


def _folded(ranges: _Ranges, flags: int) -> _Ranges:
    """With the letters in the other case, of ASCII; others are too few to matter to the count."""
    if not flags & sre.SRE_FLAG_IGNORECASE:
        return ranges
    others = []
    for low, high in ranges:
        for start, end, shift in ((65, 90, 32), (97, 122, -32)):
            if max(low, start) <= min(high, end):
                others.append((max(low, start) + shift, min(high, end) + shift))
    return (*ranges, *others)


def _but(ranges: _Ranges) -> _Ranges:
    """Every other letter."""
    found, at = [], 0
    for low, high in sorted(ranges):
        if at < low:
            found.append((at, low - 1))
        at = max(at, high + 1)
    return (*found, (at, _LAST)) if at <= _LAST else tuple(found)
