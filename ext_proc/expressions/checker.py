"""Resolves names against the schema and refuses at load what can never work: unknown names, members and functions,
values of types that do not fit. The result is a tree of facts and variables, ready to be compiled.

`dyn` may be anything; what is below it can only be checked when it is evaluated.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from ext_proc.expressions import operators
from ext_proc.expressions.errors import BudgetExceeded, EvaluationError, ExpressionError
from ext_proc.expressions.functions import TYPE_NAMES, Function, Functions
from ext_proc.expressions.parser import MACROS
from ext_proc.expressions.patterns import Pattern, PatternError, compile_pattern
from ext_proc.expressions.syntax import (
    Binary,
    Call,
    Conditional,
    Fact,
    Index,
    ListOf,
    Literal,
    Macro,
    MapOf,
    Name,
    Node,
    Select,
    Unary,
    Variable,
)
from ext_proc.expressions.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DYN,
    INT,
    NULL,
    NUMBERS,
    STRING,
    TYPE,
    UINT,
    Schema,
    Type,
    fits,
    joined,
    list_of,
    map_of,
    may_equal,
)
from ext_proc.expressions.values import Frame, UInt

_OF_LITERALS = {bool: BOOL, int: INT, UInt: UINT, float: DOUBLE, str: STRING, bytes: BYTES, type(None): NULL}
_FOLDING_BUDGET = 1000
_LISTED = 12

_Scope: TypeAlias = Mapping[str, tuple[int, Type]]


@dataclass(frozen=True, slots=True)
class Checked:
    """`facts` are the paths of the schema that the tree looks at; `slots` is how many variables it needs at once."""

    root: Node
    type: Type
    facts: frozenset[str]
    slots: int


@dataclass(frozen=True, slots=True)
class _Record:
    """Not a value, but a place in the schema below which there are values."""

    path: str
    fields: Mapping[str, Type | Schema]


def check(root: Node, schema: Schema, functions: Functions) -> Checked:
    """ExpressionError, with its offset and a remedy, at the first thing that can never work."""
    checker = _Checker(schema, functions)
    node, kind = checker.value(root, {})
    return Checked(node, kind, frozenset(checker.facts), checker.slots)


class _Checker:
    def __init__(self, schema: Schema, functions: Functions) -> None:
        self._schema = schema
        self._functions = functions
        self.facts: set[str] = set()
        self.slots = 0

    def value(self, node: Node, scope: _Scope) -> tuple[Node, Type]:
        """The node resolved, and its type; refused where it is only a place in the schema."""
        resolved, kind = self._visit(node, scope)
        if isinstance(kind, _Record):
            raise ExpressionError(
                f"{kind.path!r} is no value by itself", node.at, f"Name what of it: {_listed(kind.path, kind.fields)}."
            )
        return resolved, kind

    def _visit(self, node: Node, scope: _Scope) -> tuple[Node, Type | _Record]:
        match node:
            case Literal():
                return node, _OF_LITERALS[type(node.value)]
            case Name():
                return self._name(node, scope)
            case Select():
                return self._select(node, scope)
            case Index():
                return self._index(node, scope)
            case Call():
                return self._call(node, scope)
            case Unary():
                operand, kind = self.value(node.operand, scope)
                return replace(node, operand=operand), operators.unary(node, kind)
            case Binary():
                left, a = self.value(node.left, scope)
                right, b = self.value(node.right, scope)
                return replace(node, left=left, right=right), operators.binary(node, a, b)
            case Conditional():
                condition = self._bool(node.condition, scope, "the condition before `?`")
                then, a = self.value(node.then, scope)
                otherwise, b = self.value(node.otherwise, scope)
                return replace(node, condition=condition, then=then, otherwise=otherwise), joined([a, b])
            case ListOf():
                items = [self.value(item, scope) for item in node.items]
                return replace(node, items=tuple(i for i, _ in items)), list_of(joined([t for _, t in items]))
            case MapOf():
                return self._map(node, scope)
            case Macro():
                return self._macro(node, scope)
        raise AssertionError(f"the parser makes no {type(node).__name__}")

    def _name(self, node: Name, scope: _Scope) -> tuple[Node, Type | _Record]:
        if node.name in scope and not node.absolute:
            slot, kind = scope[node.name]
            return Variable(node.at, node.end, node.name, slot), kind
        if node.name in self._schema:
            return self._member_of(node, node.name, self._schema[node.name])
        if node.name in TYPE_NAMES:
            return Literal(node.at, node.end, TYPE_NAMES[node.name]), TYPE
        known = [*self._schema, *scope]
        raise ExpressionError(f"names {node.name!r}, which is unknown", node.at, _remedy(node.name, known, "Known"))

    def _member_of(self, node: Node, path: str, found: Type | Schema) -> tuple[Node, Type | _Record]:
        if not isinstance(found, Type):
            return node, _Record(path, found)
        self.facts.add(path)
        return Fact(node.at, node.end, path), found

    def _select(self, node: Select, scope: _Scope) -> tuple[Node, Type | _Record]:
        operand, kind = self._visit(node.operand, scope)
        if isinstance(kind, _Record):
            path = f"{kind.path}.{node.field}"
            if node.field not in kind.fields:
                raise ExpressionError(
                    f"names {path!r}, which is unknown",
                    node.at,
                    _remedy(node.field, kind.fields, f"{kind.path!r} has", kind.path),
                )
            if node.test:
                raise ExpressionError(f"has({path}) is always true", node.at, f"Compare {path} with something.")
            return self._member_of(node, path, kind.fields[node.field])
        if kind.name == "map":
            found = kind.arguments[1]
        elif kind == DYN:
            found = DYN
        else:
            raise ExpressionError(f"asks {kind.a} for {node.field!r}; it has no members", node.at, "Correct it.")
        return replace(node, operand=operand), BOOL if node.test else found

    def _index(self, node: Index, scope: _Scope) -> tuple[Node, Type]:
        operand, kind = self._visit(node.operand, scope)
        key, of_key = self.value(node.key, scope)
        if isinstance(kind, _Record):
            raise ExpressionError(
                f"{kind.path!r} is not indexed", node.at, f"Name what of it: {_listed(kind.path, kind.fields)}."
            )
        if kind.name == "list":
            if of_key != DYN and of_key not in NUMBERS:
                raise ExpressionError(f"indexes a list with {of_key.a}", node.key.at, "Use a whole number.")
            found = kind.arguments[0]
        elif kind.name == "map":
            if not may_equal(of_key, kind.arguments[0]):
                raise ExpressionError(f"indexes {kind.a} with {of_key.a}", node.key.at, f"Use {kind.arguments[0].a}.")
            found = kind.arguments[1]
        elif kind == DYN:
            found = DYN
        else:
            raise ExpressionError(f"indexes {kind.a}", node.at, "Only lists and maps have an index.")
        return replace(node, operand=operand, key=key), found

    def _map(self, node: MapOf, scope: _Scope) -> tuple[Node, Type]:
        keys: list[Type] = []
        values: list[Type] = []
        entries = []
        for key, value in node.entries:
            resolved, kind = self.value(key, scope)
            if kind not in (DYN, STRING, INT, UINT):
                raise ExpressionError(f"has {kind.a} as a key", key.at, "A key is a string or a whole number.")
            keys.append(kind)
            item, of_item = self.value(value, scope)
            values.append(of_item)
            entries.append((resolved, item))
        return replace(node, entries=tuple(entries)), map_of(joined(keys), joined(values))

    def _macro(self, node: Macro, scope: _Scope) -> tuple[Node, Type]:
        over, kind = self.value(node.range, scope)
        if kind != DYN and kind.name not in ("list", "map"):
            raise ExpressionError(f".{node.kind}() goes over {kind.a}", node.at, "It takes a list or a map.")
        slot = max((n for n, _ in scope.values()), default=-1) + 1
        self.slots = max(self.slots, slot + 1)
        inner = {**scope, node.variable: (slot, DYN if kind == DYN else kind.arguments[0])}
        guard = None if node.guard is None else self._bool(node.guard, inner, f"the condition of .{node.kind}()")
        if node.kind == "map":
            body, of_body = self.value(node.body, inner)
            result = list_of(of_body)
        else:
            body = self._bool(node.body, inner, f"the condition of .{node.kind}()")
            result = BOOL if node.kind != "filter" else (DYN if kind == DYN else list_of(kind.arguments[0]))
        return replace(node, range=over, body=body, guard=guard, slot=slot), result

    def _bool(self, node: Node, scope: _Scope, what: str) -> Node:
        resolved, kind = self.value(node, scope)
        if kind not in (BOOL, DYN):
            raise ExpressionError(f"{what} is {kind.a}, not true or false", node.at, "Compare it with something.")
        return resolved

    def _call(self, node: Call, scope: _Scope) -> tuple[Node, Type]:
        function = self._functions.get(node.name)
        if function is None:
            raise ExpressionError(
                f"calls {node.name}(), which does not exist",
                node.at if node.target is None else node.target.end + 1,
                _remedy(node.name, [*self._functions, *MACROS, "has"], "Known"),
            )
        target = None if node.target is None else self.value(node.target, scope)
        arguments = [self.value(argument, scope) for argument in node.arguments]
        result = _result(node, function, None if target is None else target[1], [kind for _, kind in arguments])
        resolved = replace(
            node, target=None if target is None else target[0], arguments=tuple(one for one, _ in arguments)
        )
        if node.name == "matches":
            return _with_pattern(resolved), result
        return _folded(resolved, function, result)


def _result(node: Call, function: Function, target: Type | None, given: list[Type]) -> Type:
    forms = [o for o in function.overloads if (o.target is None) == (target is None)]
    forms = [o for o in forms if len(o.parameters) == len(given)]
    if not forms:
        known = dict.fromkeys(_shown(function.name, o.target, o.parameters) for o in function.overloads)
        raise ExpressionError(
            f"{node.name}() is called with {len(given)} argument{'s' * (len(given) != 1)}"
            + ("" if target is None else f" on {target.a}"),
            node.at,
            f"Write {' or '.join(known)}.",
        )
    fitting = [
        o
        for o in forms
        if (target is None or o.target is None or fits(target, o.target))
        and all(fits(have, want) for have, want in zip(given, o.parameters, strict=True))
    ]
    if not fitting:
        have = " and ".join(str(t) for t in ([target] if target is not None else []) + given)
        raise ExpressionError(
            f"{node.name}() does not take {have}",
            node.at,
            f"Write {' or '.join(dict.fromkeys(_shown(function.name, o.target, o.parameters) for o in forms))}.",
        )
    return joined([o.result for o in fitting])


def _with_pattern(node: Call) -> Node:
    pattern = node.arguments[-1]
    if not isinstance(pattern, Literal) or type(pattern.value) is not str:
        raise ExpressionError(
            "matches() takes a pattern that is written as a literal", pattern.at, "Put the alternatives in it: 'a|b'."
        )
    try:
        compiled: Pattern = compile_pattern(pattern.value)
    except PatternError as error:
        raise ExpressionError(f"the pattern is not RE2's: {error}", pattern.at, "Correct the pattern.") from None
    text = node.target if node.target is not None else node.arguments[0]
    return replace(node, target=text, arguments=(Literal(pattern.at, pattern.end, compiled),))


def _folded(node: Call, function: Function, result: Type) -> tuple[Node, Type]:
    """A call on literals alone, computed now: a timestamp that is none is found at load."""
    operands = ([node.target] if node.target is not None else []) + list(node.arguments)
    if not function.same or not all(isinstance(o, Literal) for o in operands):
        return node, result
    try:
        value = function.call(Frame({}, _FOLDING_BUDGET, 0, {}), *[o.value for o in operands if isinstance(o, Literal)])
    except EvaluationError as error:
        raise ExpressionError(f"{node.name}(): {error}", node.at, "Correct it.") from None
    except BudgetExceeded:
        return node, result
    return Literal(node.at, node.end, value), result


def _shown(name: str, target: Type | None, parameters: Iterable[Type]) -> str:
    called = f"{name}({', '.join(map(str, parameters))})"
    return called if target is None else f"{target}.{called}"


def _listed(path: str, names: Iterable[str]) -> str:
    return ", ".join(f"{path}.{name}" for name in sorted(names)[:_LISTED])


def _remedy(name: str, known: Iterable[str], introduction: str, path: str = "") -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {path + '.' if path else ''}{near[0]}?"
    return f"{introduction}: {', '.join(names)}." if names else ""
