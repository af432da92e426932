"""The loops: all, exists, exists_one, filter and map. Each turn is charged before it begins."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ext_proc.expressions.errors import BudgetExceeded, EvaluationError
from ext_proc.expressions.syntax import Macro
from ext_proc.expressions.values import Closure, Frame, no_overload

_ABSORBED = 10


def items_of(value: Any, kind: str) -> Collection[Any]:
    """What a macro goes over: a list's items, a map's keys."""
    if isinstance(value, list | dict):
        return value
    raise no_overload(f".{kind}()", value)


def compile_macro(node: Macro, over: Closure, body: Closure, guard: Closure | None, steps: int) -> Closure:
    """`steps`: what one turn costs."""
    slot, kind = node.slot, node.kind
    if kind in ("all", "exists"):
        return _quantifier(over, body, slot, steps, kind)
    if kind == "exists_one":
        return _exactly_one(over, body, slot, steps)
    if kind == "filter":
        return _collect(over, None, body, slot, steps, kind)
    return _collect(over, body, guard, slot, steps, kind)


def _quantifier(over: Closure, body: Closure, slot: int, steps: int, kind: str) -> Closure:
    decides = kind == "exists"

    def quantify(frame: Frame) -> Any:
        error: EvaluationError | None = None
        slots = frame.slots
        for item in items_of(over(frame), kind):
            frame.left -= steps
            if frame.left < 0:
                raise BudgetExceeded
            slots[slot] = item
            try:
                value = body(frame)
            except EvaluationError as fault:
                error = error or fault
                frame.left -= _ABSORBED
                continue
            if value is decides:
                return decides
            if value is not True and value is not False:
                error = error or no_overload(f".{kind}()", value)
        if error is not None:
            raise error
        return not decides

    return quantify


def _exactly_one(over: Closure, body: Closure, slot: int, steps: int) -> Closure:
    def count(frame: Frame) -> bool:
        found = 0
        for item in items_of(over(frame), "exists_one"):
            frame.charge(steps)
            frame.slots[slot] = item
            found += _truth(body(frame), "exists_one")
        return found == 1

    return count


def _collect(
    over: Closure, body: Closure | None, condition: Closure | None, slot: int, steps: int, kind: str
) -> Closure:
    """Items for which `condition` holds (all without one), each as `body` has it (itself without one)."""

    def collect(frame: Frame) -> list[Any]:
        kept = []
        for item in items_of(over(frame), kind):
            frame.charge(steps)
            frame.slots[slot] = item
            if condition is None or _truth(condition(frame), kind):
                kept.append(item if body is None else body(frame))
        return kept

    return collect


def _truth(value: Any, kind: str) -> bool:
    if value is True or value is False:
        return bool(value)
    raise no_overload(f".{kind}()", value)
