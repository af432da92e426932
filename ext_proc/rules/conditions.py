"""Conditions in douane.yaml: expressions whose faults are faults of the configuration, with place and column."""

from __future__ import annotations

from ext_proc.errors import ConfigError
from ext_proc.expressions import FUNCTIONS, Expression, ExpressionError, Functions, Schema, compile_condition
from ext_proc.expressions.types import DYN

CLAIMS: Schema = {"claims": DYN}
"""What a grant's condition may look at."""


def condition(
    source: str, place: str, schema: Schema, functions: Functions = FUNCTIONS, *, folding: bool = False
) -> Expression:
    """Compile it. ConfigError `config.condition`, beginning with `place`, where it can never work."""
    try:
        return compile_condition(source, schema, functions, folding=folding)
    except ExpressionError as error:
        line = source.count("\n", 0, error.at) + 1
        column = error.at - (source.rfind("\n", 0, error.at) + 1) + 1
        at = f"column {column}" if line == 1 else f"line {line}, column {column}"
        raise ConfigError(
            "config.condition", f"{place}: the condition {error.message} ({at})", remedy=error.remedy
        ) from None
