"""Which types operators take, and what they give; refused at load where no values of these types ever fit."""

from __future__ import annotations

from ext_proc.expressions.errors import ExpressionError
from ext_proc.expressions.syntax import Binary, Unary
from ext_proc.expressions.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NUMBERS,
    STRING,
    TIMESTAMP,
    UINT,
    Type,
    joined,
    may_equal,
)

_SAME = {
    "+": (INT, UINT, DOUBLE, STRING, BYTES, DURATION),
    "-": (INT, UINT, DOUBLE, DURATION),
    "*": (INT, UINT, DOUBLE),
    "/": (INT, UINT, DOUBLE),
    "%": (INT, UINT),
}
_MIXED = {
    ("+", TIMESTAMP, DURATION): TIMESTAMP,
    ("+", DURATION, TIMESTAMP): TIMESTAMP,
    ("-", TIMESTAMP, DURATION): TIMESTAMP,
    ("-", TIMESTAMP, TIMESTAMP): DURATION,
}
_ORDERED = frozenset({BOOL, STRING, BYTES, TIMESTAMP, DURATION})


def unary(node: Unary, kind: Type) -> Type:
    if node.operator == "!":
        if kind not in (BOOL, DYN):
            raise ExpressionError(f"`!` takes true or false, not {kind.a}", node.at, "Compare it with something.")
        return BOOL
    if kind not in (INT, DOUBLE, DYN):
        raise ExpressionError(f"`-` takes a number, not {kind.a}", node.at, "Correct it.")
    return kind


def binary(node: Binary, a: Type, b: Type) -> Type:
    match node.operator:
        case "&&" | "||":
            for operand, kind in ((node.left, a), (node.right, b)):
                if kind not in (BOOL, DYN):
                    raise ExpressionError(
                        f"`{node.operator}` takes true or false, not {kind.a}", operand.at, "Compare it with something."
                    )
            return BOOL
        case "==" | "!=":
            if not may_equal(a, b):
                raise _never(node, f"compares {a.a} with {b.a}, which are never equal", _wanted(a, b))
            return BOOL
        case "<" | "<=" | ">" | ">=":
            if DYN not in (a, b) and not (a in NUMBERS and b in NUMBERS) and not (a == b and a in _ORDERED):
                raise _never(node, f"`{node.operator}` does not order {a.a} and {b.a}", "Convert one of them.")
            return BOOL
        case "in":
            if b != DYN and b.name not in ("list", "map"):
                raise _never(node, f"`in` looks into {b.a}", "It takes a list or a map; for text, write .contains().")
            if b != DYN and not may_equal(a, b.arguments[0]):
                raise _never(node, f"looks for {a.a} in {b.a}, where none is ever found", "Correct one of them.")
            return BOOL
    return _arithmetic(node, a, b)


def _arithmetic(node: Binary, a: Type, b: Type) -> Type:
    same = _SAME[node.operator]
    if a == DYN or b == DYN:
        other = b if a == DYN else a
        lists = node.operator == "+" and other.name == "list"
        if other != DYN and other not in (*same, TIMESTAMP, DURATION) and not lists:
            raise _never(node, f"`{node.operator}` does not take {other.a}", "Correct it.")
        return other if other in (STRING, BYTES, INT, UINT, DOUBLE) else DYN
    if a == b and a in same:
        return a
    if (node.operator, a, b) in _MIXED:
        return _MIXED[node.operator, a, b]
    if node.operator == "+" and a.name == b.name == "list":
        return Type("list", (joined([a.arguments[0], b.arguments[0]]),))
    raise _never(
        node,
        f"`{node.operator}` does not take {a.a} and {b.a}",
        "CEL converts nothing by itself: int(), double(), string().",
    )


def _wanted(a: Type, b: Type) -> str:
    listed = a if a.name == "list" else b if b.name == "list" else None
    if listed is not None:
        return "Write `x in list`, or list.exists(x, ...)."
    return "Convert one of them."


def _never(node: Binary, message: str, remedy: str) -> ExpressionError:
    return ExpressionError(message, node.at, remedy)
