"""Patterns of `matches()`: RE2, in time linear to the text whatever the pattern. Python's `re` is not, and is never
used on what a caller sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import re2

from ext_proc.expressions.automaton import few_states
from ext_proc.expressions.values import TEXT_PER_STEP, Frame, no_overload

MAX_PROGRAM = 1000
"""RE2's instructions; a repeated class of letters (`\\pL{50}`) has tens of thousands, and costs as much a byte."""
MAX_STATES = 300
"""Up to which a search takes a few nanoseconds a byte whatever the text; beyond, it is charged as what it may take."""
MAX_POSITIONS = 500
"""Letters of a pattern, repeated ones as often as they are, up to which its states are counted."""
_MEMORY = 1 << 20
_MEMORY_OF_FEW = 8 << 20  # room for several times as many states
_BYTES_PER_STEP = 32
_COMPARED_PER_STEP = 20


class PatternError(ValueError):
    """The pattern is not RE2's, or too large."""


@dataclass(frozen=True, slots=True)
class Pattern:
    source: str
    _found: Callable[[bytes], bool] = field(repr=False, compare=False)
    _width: int = 0
    """Instructions that each byte may be compared with; 0 where the automaton has few states."""

    def found_in(self, text: Any, frame: Frame) -> bool:
        """Whether it is anywhere in the text."""
        if type(text) is not str:
            raise no_overload("matches()", text)
        frame.charge(1 + len(text) // TEXT_PER_STEP)
        data = text.encode("utf-8", "surrogatepass")
        frame.charge(len(data) * self._width // _COMPARED_PER_STEP if self._width else len(data) // _BYTES_PER_STEP)
        return self._found(data)


def compile_pattern(source: str) -> Pattern:
    """PatternError where it can never be used."""
    options = re2.Options()
    options.max_mem = _MEMORY
    options.log_errors = False
    options.never_capture = True
    try:
        compiled = re2.compile(source, options)
    except re2.error as error:
        said = error.args[0]
        raise PatternError(said.decode() if isinstance(said, bytes) else str(said)) from None
    if compiled.programsize > MAX_PROGRAM:
        raise PatternError("it is too large; repeat fewer times, or name fewer kinds of letters")
    if not few_states(source, at_most=MAX_STATES, positions=MAX_POSITIONS):
        return Pattern(source, lambda data: compiled.search(data) is not None, compiled.programsize)
    options.max_mem = _MEMORY_OF_FEW
    # What a set of patterns keeps are sets of positions, as they were counted. One that says where the match is keeps
    # their order as well, and has more states.
    alone = re2.Set.SearchSet(options)
    alone.Add(source)
    alone.Compile()
    return Pattern(source, lambda data: bool(alone.Match(data)))
