"""Patterns of `matches()`: RE2, in time linear to the text whatever the pattern. Python's `re` is not, and is never
used on what a caller sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import re2

from ext_proc.expressions.values import TEXT_PER_STEP, Frame, no_overload

MAX_PROGRAM = 1000
"""RE2's instructions; a repeated class of letters (`\\pL{50}`) has tens of thousands, and costs as much a byte."""
_PER_FACTOR = 50
_MEMORY = 1 << 20


class PatternError(ValueError):
    """The pattern is not RE2's, or too large."""


@dataclass(frozen=True, slots=True)
class Pattern:
    source: str
    _compiled: Any = field(repr=False, compare=False)
    _factor: int = 1

    def found_in(self, text: Any, frame: Frame) -> bool:
        """Whether it is anywhere in the text."""
        if type(text) is not str:
            raise no_overload("matches()", text)
        if len(text) > TEXT_PER_STEP:
            frame.charge(len(text) // TEXT_PER_STEP * self._factor)
        return self._compiled.search(text.encode("utf-8", "surrogatepass")) is not None


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
    return Pattern(source, compiled, 1 + compiled.programsize // _PER_FACTOR)
