"""Our own engine for CEL (github.com/google/cel-spec): exact step budget, checked against a schema, and traceable.

`source -> lexer -> parser -> checker -> compiler -> closures`, evaluated over plain Python values. It differs from the
specification where docs/policies.md says so.
"""

from ext_proc.expressions.errors import (
    BudgetExceeded,
    EvaluationError,
    ExpressionError,
    FactUnknown,
    FactUnreadable,
)
from ext_proc.expressions.expression import BUDGET, Expression, compile_condition, compile_expression
from ext_proc.expressions.functions import FUNCTIONS, Function, Functions, Overload
from ext_proc.expressions.types import Schema, Type
from ext_proc.expressions.values import Unknown

__all__ = [
    "BUDGET",
    "FUNCTIONS",
    "BudgetExceeded",
    "EvaluationError",
    "Expression",
    "ExpressionError",
    "FactUnknown",
    "FactUnreadable",
    "Function",
    "Functions",
    "Overload",
    "Schema",
    "Type",
    "Unknown",
    "compile_condition",
    "compile_expression",
]
