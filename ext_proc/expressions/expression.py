"""An expression, compiled once and evaluated often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ext_proc.expressions.checker import check
from ext_proc.expressions.compiler import Compiler, cost
from ext_proc.expressions.errors import (
    BudgetExceeded,
    EvaluationError,
    ExpressionError,
    FactUnknown,
)
from ext_proc.expressions.functions import FUNCTIONS, Functions
from ext_proc.expressions.parser import parse
from ext_proc.expressions.syntax import Node
from ext_proc.expressions.trace import Tracer, trace
from ext_proc.expressions.types import BOOL, DYN, Schema, Type
from ext_proc.expressions.values import Closure, Frame, name_of

BUDGET = 50_000
"""Steps of one evaluation. The worst expressions take about 0.3 microseconds a step (bench/RESULTS.md)."""


class _Unknown(dict[str, Any]):
    def __missing__(self, path: str) -> Any:
        raise FactUnknown(path)


@dataclass(frozen=True, slots=True)
class Expression:
    """`facts`: the paths of the schema it looks at, so that the caller knows what must be gathered."""

    source: str
    type: Type
    facts: frozenset[str]
    _root: Node = field(repr=False)
    _slots: int = field(repr=False)
    _cost: int = field(repr=False)
    _closure: Closure = field(repr=False)
    _functions: Functions = field(repr=False)
    _folding: bool = field(repr=False)

    def evaluate(self, facts: Mapping[str, Any], budget: int = BUDGET, memo: dict[Any, Any] | None = None) -> Any:
        """Its value. `facts` holds, by their paths, at least those that it comes to; a mapping with `__missing__` may
        make them then. `memo` is where functions keep what several expressions need of the same facts.

        Raises EvaluationError where there is no value, BudgetExceeded, and FactUnreadable as `facts` raises it.
        """
        frame = Frame(facts, budget - self._cost, self._slots, {} if memo is None else memo)
        if frame.left < 0:
            raise BudgetExceeded
        try:
            return self._closure(frame)
        except RecursionError:  # a value nested deeper than Python compares
            raise BudgetExceeded from None

    def holds(self, facts: Mapping[str, Any], budget: int = BUDGET, memo: dict[Any, Any] | None = None) -> bool:
        """As `evaluate`, for a condition: EvaluationError also where the value is neither true nor false."""
        value = self.evaluate(facts, budget, memo)
        if value is True or value is False:
            return bool(value)
        raise EvaluationError(f"it gave {name_of(value)}, not true or false")

    def trace(
        self, facts: Mapping[str, Any], budget: int = BUDGET, memo: dict[Any, Any] | None = None
    ) -> dict[str, Any]:
        """The values that decided, by the source text of what selected them; see `trace`. Not for the hot path."""
        closure = Tracer(self.source, self._functions, folding=self._folding).compile(self._root)
        return trace(closure, Frame(facts, budget, self._slots, {} if memo is None else memo))


def compile_expression(
    source: str, schema: Schema, functions: Functions = FUNCTIONS, *, folding: bool = False
) -> Expression:
    """ExpressionError, with its offset and a remedy, where it can never work.

    `folding`: a member of a map that is not there by its exact name is found in other letters, as some JSON parsers
    would. For rules that deny.
    """
    try:
        checked = check(parse(source), schema, functions)
    except RecursionError:
        raise ExpressionError("is too deeply nested", 0, "Split it.") from None
    return Expression(
        source,
        checked.type,
        checked.facts,
        checked.root,
        checked.slots,
        cost(checked.root),
        Compiler(functions, folding=folding).compile(checked.root),
        functions,
        folding,
    )


def compile_condition(
    source: str, schema: Schema, functions: Functions = FUNCTIONS, *, folding: bool = False
) -> Expression:
    """As `compile_expression`, for a condition: ExpressionError also where it is never true, whatever the facts."""
    expression = compile_expression(source, schema, functions, folding=folding)
    if expression.type not in (BOOL, DYN):
        raise ExpressionError(f"gives {expression.type.a}, not true or false", 0, "Compare it with something.")
    try:
        value = expression.evaluate(_Unknown())
    except FactUnknown:
        return expression
    except (EvaluationError, BudgetExceeded) as error:
        if expression.facts:
            return expression
        raise ExpressionError(f"always fails ({error or 'it takes too many steps'})", 0, "Correct it.") from None
    if value is False:
        raise ExpressionError("is always false", 0, "Correct it, or remove it.")
    if value is not True:
        raise ExpressionError(f"gives {name_of(value)}, not true or false", 0, "Compare it with something.")
    return expression
