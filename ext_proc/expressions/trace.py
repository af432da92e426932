"""Which values decided: a second evaluation, of a rule that fired, that notes what its leaves were.

A leaf is the longest selection of members (`request.json.title`, `w.definition.type`) or a `size()`. Of `&&` and `||`
only the side that decided is noted; of `exists` and `all` only the turn that did, with which item that was.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from ext_proc.expressions.compiler import Compiler
from ext_proc.expressions.errors import BudgetExceeded, EvaluationError, FactUnreadable
from ext_proc.expressions.functions import Functions
from ext_proc.expressions.macros import items_of
from ext_proc.expressions.syntax import Binary, Call, Fact, Index, Macro, Node, Select, Variable
from ext_proc.expressions.times import format_duration, format_timestamp
from ext_proc.expressions.values import Closure, Frame, TypeValue

MAX_VALUES = 16
MAX_CHARACTERS = 200


class Tracer(Compiler):
    """Compiles as its base does, with closures that also note in `frame.seen`, by the text of the source."""

    def __init__(self, source: str, functions: Functions, *, folding: bool) -> None:
        super().__init__(functions, folding=folding)
        self._source = source
        self._plain = Compiler(functions, folding=folding)

    def compile(self, node: Node) -> Closure:
        return self._noting(node, super().compile)

    def _noting(self, node: Node, compile_: Callable[[Node], Closure]) -> Closure:
        if not _is_leaf(node):
            return compile_(node)
        plain = self._plain.compile(node)  # below a leaf nothing is noted
        text = self._text(node)

        def note(frame: Frame) -> Any:
            value = plain(frame)
            # a map only leads to what decides
            if len(frame.seen) < MAX_VALUES and text not in frame.seen and not isinstance(value, dict):
                frame.seen[text] = shown(value)
            return value

        return note

    def _text(self, node: Node) -> str:
        return " ".join(self._source[node.at : node.end].split())[:MAX_CHARACTERS]

    def logical(self, node: Binary) -> Closure:
        left, right = self.compile(node.left), self.compile(node.right)
        decides = node.operator == "||"

        def combine(frame: Frame) -> Any:
            before = frame.seen
            frame.seen = {}
            try:
                first: Any = left(frame)
            except EvaluationError:
                first = None
            if first is decides:
                frame.seen = {**before, **frame.seen}
                return decides
            of_left, frame.seen = frame.seen, {}
            second = right(frame)
            kept = frame.seen if second is decides else {**of_left, **frame.seen}
            frame.seen = {**before, **kept}
            if second is decides or first is (not decides):
                return bool(second)
            raise EvaluationError("the other side had no value")

        return combine

    def macro(self, node: Macro) -> Closure:
        over = self.compile(node.range)
        if node.kind not in ("all", "exists"):
            return self._plain.over(node, over)  # no turn of theirs decides by itself
        body, place = self.compile(node.body), self._text(node.range)
        decides = node.kind == "exists"

        def quantify(frame: Frame) -> Any:
            items = items_of(over(frame), node.kind)
            before, failed = frame.seen, False
            for n, item in enumerate(items):
                frame.charge(1)
                frame.slots[node.slot] = item
                frame.seen = {}
                try:
                    value = body(frame)
                except EvaluationError:
                    failed = True
                    continue
                if value is decides:
                    which = f"{place}[{n}]" if isinstance(items, list) else f"a key of {place}"
                    frame.seen = {**before, node.variable: which, **frame.seen}
                    return decides
            frame.seen = before
            if failed:
                raise EvaluationError("an item had no value")
            return not decides

        return quantify


def trace(closure: Closure, frame: Frame) -> dict[str, Any]:
    """The values noted on the way, whatever came of it."""
    with contextlib.suppress(EvaluationError, BudgetExceeded, FactUnreadable, RecursionError):
        closure(frame)
    return dict(itertools.islice(frame.seen.items(), MAX_VALUES))


def _is_leaf(node: Node) -> bool:
    if isinstance(node, Call):
        return node.name == "size"
    while isinstance(node, Select | Index) and not (isinstance(node, Select) and node.test):
        node = node.operand
    return isinstance(node, Fact | Variable)


def shown(value: Any) -> Any:
    """A value as JSON has it, short: of a list or a map only its size."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else str(value)[:MAX_CHARACTERS]
    if isinstance(value, str):
        start = value[:MAX_CHARACTERS].encode("utf-8", "replace").decode()  # JSON may have half characters
        return start if len(value) <= MAX_CHARACTERS else f"{start}... ({len(value)} characters)"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, datetime):
        return format_timestamp(value)
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, TypeValue):
        return value.name
    if isinstance(value, list) and len(value) <= 4 and all(isinstance(v, str) and len(v) <= 40 for v in value):
        return [shown(v) for v in value]
    return f"a {'list' if isinstance(value, list) else 'map'} of {len(value)}"
