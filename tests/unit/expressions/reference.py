"""Google's own implementation (cel-cpp), which ours is compared with, and expressions made at random."""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta
from typing import Any

from cel_expr_python import cel

from ext_proc.expressions import BudgetExceeded, EvaluationError, ExpressionError, compile_expression
from ext_proc.expressions.types import DYN
from ext_proc.expressions.values import TypeValue, UInt

DATA: dict[str, Any] = {
    "x": {
        "title": "Überblick: main",
        "n": 42,
        "neg": -7,
        "f": 2.5,
        "whole": 3.0,
        "t": True,
        "f_": False,
        "nil": None,
        "empty": "",
        "tags": ["env:prod", "team:sre", "env:dev"],
        "nums": [3, 1, 2, 2.0, -1],
        "mixed": [1, "1", True, None, 1.0, [1], {"a": 1}],
        "nested": {"deep": {"er": [1, {"k": "v"}]}},
        "widgets": [
            {"id": 1, "definition": {"type": "note", "content": "hi"}},
            {"id": 2, "definition": {"type": "iframe", "url": "https://a.example"}},
            {"id": 3},
        ],
        "none": [],
        "nobody": {},
        "kubernetes.io": {"namespace": "ci"},
    },
    "y": 5,
}

_ENV = cel.NewEnv(variables=dict.fromkeys(DATA, cel.Type.DYN))
_SCHEMA = dict.fromkeys(DATA, DYN)
ERROR = ("error",)
REFUSED = ("refused",)
FOLDED = ("refused", "a literal that cannot be converted")


def theirs(source: str, *, checked: bool) -> Any:
    """The reference's value in a form that can be compared, or ERROR. Its checker is stricter than ours about mixed
    types in `?:` and lists; without it, what it computes is compared."""
    try:
        value = _ENV.compile(source, disable_check=not checked).eval(data=DATA)
    except RuntimeError:
        return ERROR
    if value.type() == cel.Type.ERROR:
        return ERROR
    return _form(value.plain_value(), unsigned=value.type() == cel.Type.UINT)


def ours(source: str, **options: Any) -> Any:
    """Our value in the same form, ERROR, or REFUSED or FOLDED where it can never work."""
    try:
        value = compile_expression(source, _SCHEMA, **options).evaluate(DATA, 10_000_000)
    except ExpressionError as error:
        return FOLDED if "(): " in error.message else REFUSED
    except (EvaluationError, BudgetExceeded):
        return ERROR
    return _form(value, unsigned=isinstance(value, UInt))


def _form(value: Any, *, unsigned: bool = False) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str | datetime | timedelta):
        return type(value).__name__, value
    if isinstance(value, float):
        return "double", "nan" if math.isnan(value) else value
    if isinstance(value, int):
        return "uint" if unsigned else "int", int(value)
    if isinstance(value, bytes | bytearray):
        return "bytes", bytes(value)
    if isinstance(value, list):
        return "list", [_form(item)[1] for item in value]
    if isinstance(value, dict):
        return "map", {key: _form(item)[1] for key, item in value.items()}
    if isinstance(value, TypeValue):
        return "type", value.name
    return "type", {"map": "map", "list": "list"}.get(str(value).lower().partition("<")[0], str(value).lower())


class Maker:
    """Makes expressions, well typed for the most part, so that not all of them are errors."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._variables: list[str] = []

    def any(self, depth: int) -> str:
        kind = self._random.choice(["bool", "bool", "bool", "int", "str", "list", "dyn"])
        return str(getattr(self, f"_{kind}")(depth))

    def _pick(self, *options: str) -> str:
        return self._random.choice(options)

    def _leaf(self, *literals: str) -> str:
        return self._pick(*literals, *self._variables) if self._random.random() < 0.9 else self._dyn(0)

    def _bool(self, depth: int) -> str:
        if depth <= 0:
            return self._leaf("true", "false", "x.t", "x.f_", "has(x.title)", "has(x.gone)", "x.gone")
        d = depth - 1
        match self._random.randrange(11):
            case 0 | 1:
                return f"({self._bool(d)} {self._pick('&&', '||')} {self._bool(d)})"
            case 2:
                return f"!{self._bool(d)}"
            case 3:
                return f"({self._int(d)} {self._pick('<', '<=', '>', '>=', '==', '!=')} {self._int(d)})"
            case 4:
                return f"({self._str(d)} {self._pick('<', '<=', '>', '>=', '==', '!=')} {self._str(d)})"
            case 5:
                return f"{self._str(d)}.{self._pick('contains', 'startsWith', 'endsWith')}({self._str(d)})"
            case 6:
                return f"({self._dyn(d)} in {self._list(d)})"
            case 7:
                return f"({self._bool(d)} ? {self._bool(d)} : {self._bool(d)})"
            case 8 | 9:
                return self._macro(self._pick("all", "exists", "exists_one"), d)
            case _:
                return f"({self._dyn(d)} {self._pick('==', '!=')} {self._dyn(d)})"

    def _macro(self, kind: str, depth: int) -> str:
        name = f"v{len(self._variables)}"
        over = self._list(depth)
        self._variables.append(name)
        body = self._bool(depth)
        self._variables.pop()
        return f"{over}.{kind}({name}, {body})"

    def _int(self, depth: int) -> str:
        if depth <= 0:
            return self._leaf("0", "1", "-3", "7", "9223372036854775807", "x.n", "x.neg", "y", "x.f", "2.5", "3u")
        d = depth - 1
        match self._random.randrange(6):
            case 0 | 1:
                return f"({self._int(d)} {self._pick('+', '-', '*', '/', '%')} {self._int(d)})"
            case 2:
                return f"-({self._int(d)})"
            case 3:
                return f"size({self._pick(self._str(d), self._list(d))})"
            case 4:
                return f"{self._pick('int', 'double', 'uint')}({self._pick(self._int(d), self._str(d))})"
            case _:
                return f"({self._bool(d)} ? {self._int(d)} : {self._int(d)})"

    def _str(self, depth: int) -> str:
        if depth <= 0:
            return self._leaf("''", "'a'", "'main'", "'env:prod'", "'12'", "'ü'", "x.title", "x.empty", "x.tags[0]")
        d = depth - 1
        match self._random.randrange(4):
            case 0:
                return f"({self._str(d)} + {self._str(d)})"
            case 1:
                return f"({self._bool(d)} ? {self._str(d)} : {self._str(d)})"
            case 2:
                return f"string({self._pick(self._bool(d), self._str(d), 'x.n')})"
            case _:
                return f"x.tags[{self._int(d)}]"

    def _list(self, depth: int) -> str:
        if depth <= 0:
            return self._leaf("[]", "[1, 2]", "x.tags", "x.nums", "x.mixed", "x.none", "x.widgets", "x.nested")
        d = depth - 1
        match self._random.randrange(4):
            case 0:
                return f"[{self._dyn(d)}, {self._dyn(d)}]"
            case 1:
                return self._macro("filter", d)
            case 2:
                return self._macro("map", d)
            case _:
                return f"({self._list(d)} + {self._list(d)})"

    def _dyn(self, depth: int) -> str:
        if depth <= 0:
            leaves = (
                "x",
                "x.nil",
                "null",
                "1",
                "'a'",
                "x.nested.deep.er[1].k",
                "x.gone.more",
                "x.mixed[3]",
                "{'a': 1}",
            )
            return self._pick(*leaves, *self._variables)
        return self._pick(self._bool(depth - 1), self._int(depth - 1), self._str(depth - 1), self._dyn(0))


def agree(source: str) -> bool:
    """Whether both give the same: the value, an error, or a refusal of what the reference's checker refuses too."""
    mine = ours(source)
    if mine == FOLDED:
        return True  # that theirs might not come to it does not make int('a') right
    if mine == REFUSED:
        return bool(theirs(source, checked=True) == ERROR)
    return bool(mine == theirs(source, checked=False))
