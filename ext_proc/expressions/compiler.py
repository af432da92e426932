"""Resolved tree -> closures, once. Evaluating calls them with a frame.

Steps are charged where work repeats: an evaluation begins with the number of its nodes, each turn of a macro costs the
nodes of its body, absorbed errors cost extra, and what grows with a value is charged by it (`values`). A side that was
not needed is charged as if it ran, so a rule's cost hardly depends on luck.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ext_proc.expressions import macros
from ext_proc.expressions.errors import EvaluationError
from ext_proc.expressions.functions import Functions
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
    Node,
    Select,
    Unary,
    Variable,
)
from ext_proc.expressions.values import (
    Closure,
    Frame,
    add,
    charge_key,
    contained,
    divide,
    equal,
    is_key,
    less,
    multiply,
    name_of,
    negate,
    no_overload,
    remainder,
    subtract,
)

FOLDED_PER_STEP = 16
"""Characters of a name whose letter case a step makes one."""
ERROR_STEPS = 10
"""What an error costs that the other side of && or || absorbs: raising one takes as long as ten nodes."""

_ARITHMETIC: dict[str, Callable[[Any, Any, Frame], Any]] = {
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "%": remainder,
    "in": contained,
}


def cost(node: Node) -> int:
    """Steps that evaluating it once takes, without the turns of macros in it, which are charged one by one."""
    steps, pending = 0, [node]
    while pending:
        one = pending.pop()
        steps += 1
        pending.extend((one.range,) if isinstance(one, Macro) else one.children())
    return steps


class Compiler:
    """`folding`: a member that is not there by its exact name is looked for without regard to letter case."""

    def __init__(self, functions: Functions, *, folding: bool) -> None:
        self._functions = functions
        self._folding = folding

    def compile(self, node: Node) -> Closure:
        match node:
            case Literal():
                value = node.value
                return lambda _: value
            case Fact():
                path = node.path
                return lambda frame: frame.facts[path]
            case Variable():
                slot = node.slot
                return lambda frame: frame.slots[slot]
            case Select():
                return self._has(node) if node.test else self._member(self.compile(node.operand), node.field)
            case Index():
                return self._index(node)
            case Call():
                return self._call(node)
            case Unary():
                return self._unary(node)
            case Binary():
                return self._binary(node)
            case Conditional():
                return self._conditional(node)
            case ListOf():
                items = [self.compile(item) for item in node.items]
                return lambda frame: [item(frame) for item in items]
            case MapOf():
                return self._map(node)
            case Macro():
                return self.macro(node)
        raise AssertionError(f"the checker makes no {type(node).__name__}")

    def macro(self, node: Macro) -> Closure:
        return self.over(node, self.compile(node.range))

    def over(self, node: Macro, items: Closure) -> Closure:
        """The macro over what `items` gives."""
        guard = None if node.guard is None else self.compile(node.guard)
        steps = 1 + cost(node.body) + (cost(node.guard) if node.guard is not None else 0)
        return macros.compile_macro(node, items, self.compile(node.body), guard, steps)

    def _member(self, operand: Closure, field: str) -> Closure:
        other = self._other_case(field)

        def member(frame: Frame) -> Any:
            value = operand(frame)
            try:
                return value[field]
            except KeyError:
                name = other(value, frame)
                if name is None:
                    raise EvaluationError(f"there is no member {field!r}") from None
                return value[name]
            except (TypeError, IndexError):
                raise EvaluationError(f"{name_of(value)} has no member {field!r}") from None

        return member

    def _other_case(self, field: str) -> Callable[[dict[Any, Any], Frame], str | None]:
        """The name in other letters that a map has; None where it has none, or they are not looked for."""
        if not self._folding:
            return lambda _value, _frame: None
        folded = field.casefold()
        longest = len(folded)  # folding makes nothing shorter, so that longer names need not be
        quarters = 2 + longest // 8

        def search(value: dict[Any, Any], frame: Frame) -> str | None:
            frame.charge(len(value) * quarters // 4)
            for name in value:
                if type(name) is str and len(name) <= longest and name.casefold() == folded:
                    return name
            return None

        return search

    def _other_case_of(self, key: Any, value: dict[Any, Any], frame: Frame) -> str | None:
        """As `_other_case`, for a key that is computed."""
        if not self._folding or type(key) is not str:
            return None
        frame.charge(len(key) // FOLDED_PER_STEP)
        return self._other_case(key)(value, frame)

    def _has(self, node: Select) -> Closure:
        operand, field = self.compile(node.operand), node.field
        other = self._other_case(field)

        def has(frame: Frame) -> bool:
            value = operand(frame)
            if not isinstance(value, dict):
                raise EvaluationError(f"{name_of(value)} has no members")
            return field in value or other(value, frame) is not None

        return has

    def _index(self, node: Index) -> Closure:
        operand, key = self.compile(node.operand), self.compile(node.key)

        def index(frame: Frame) -> Any:
            value, at = operand(frame), key(frame)
            if isinstance(value, dict):
                if not is_key(at):
                    raise no_overload("an index of a map", at)
                charge_key(at, frame)
                try:
                    return value[at]
                except KeyError:
                    name = self._other_case_of(at, value, frame)
                    if name is None:
                        raise EvaluationError("there is no such key") from None
                    return value[name]
            if not isinstance(value, list):
                raise no_overload("an index", value)
            if not is_key(at) or type(at) is str:
                raise no_overload("an index of a list", at)
            n = int(at)
            if not 0 <= n < len(value):
                raise EvaluationError("the index is beyond the list")
            return value[n]

        return index

    def _call(self, node: Call) -> Closure:
        operands = ([node.target] if node.target is not None else []) + list(node.arguments)
        if node.name == "matches":
            text, pattern = self.compile(operands[0]), node.arguments[0]
            assert isinstance(pattern, Literal)
            found_in = pattern.value.found_in
            return lambda frame: found_in(text(frame), frame)
        call = self._functions[node.name].call
        compiled = [self.compile(operand) for operand in operands]
        if len(compiled) == 1:
            (only,) = compiled
            return lambda frame: call(frame, only(frame))
        if len(compiled) == 2:
            first, second = compiled
            return lambda frame: call(frame, first(frame), second(frame))
        return lambda frame: call(frame, *[operand(frame) for operand in compiled])

    def _unary(self, node: Unary) -> Closure:
        operand = self.compile(node.operand)
        if node.operator == "-":
            return lambda frame: negate(operand(frame))

        def invert(frame: Frame) -> bool:
            value = operand(frame)
            if value is True:
                return False
            if value is False:
                return True
            raise no_overload("!", value)

        return invert

    def _binary(self, node: Binary) -> Closure:
        if node.operator in ("&&", "||"):
            return self.logical(node)
        left, right = self.compile(node.left), self.compile(node.right)
        match node.operator:
            case "==" | "!=":
                return _equality(left, right, node, negated=node.operator == "!=")
            case "<":
                return lambda frame: less(left(frame), right(frame), frame)
            case ">":
                return lambda frame: _greater(left(frame), right(frame), frame)
            case "<=":
                return lambda frame: _at_most(left(frame), right(frame), frame)
            case ">=":
                return lambda frame: _at_least(left(frame), right(frame), frame)
            case "in" if isinstance(node.right, ListOf) and all(isinstance(i, Literal) for i in node.right.items):
                return _in_literals(left, [i.value for i in node.right.items if isinstance(i, Literal)])
            case "in" if self._folding:
                return self._contained(left, right)
        compute = _ARITHMETIC[node.operator]
        return lambda frame: compute(left(frame), right(frame), frame)

    def _contained(self, left: Closure, right: Closure) -> Closure:
        def member(frame: Frame) -> bool:
            needle, container = left(frame), right(frame)
            if contained(needle, container, frame):
                return True
            return isinstance(container, dict) and self._other_case_of(needle, container, frame) is not None

        return member

    def logical(self, node: Binary) -> Closure:
        return logical(self.compile(node.left), self.compile(node.right), decides=node.operator == "||")

    def _conditional(self, node: Conditional) -> Closure:
        condition, then, otherwise = (self.compile(n) for n in (node.condition, node.then, node.otherwise))

        def choose(frame: Frame) -> Any:
            value = condition(frame)
            if value is True:
                return then(frame)
            if value is False:
                return otherwise(frame)
            raise no_overload("? :", value)

        return choose

    def _map(self, node: MapOf) -> Closure:
        entries = [(self.compile(key), self.compile(value)) for key, value in node.entries]

        def make(frame: Frame) -> dict[Any, Any]:
            made: dict[Any, Any] = {}
            for key, value in entries:
                name = key(frame)
                if not is_key(name) or type(name) is float:
                    raise no_overload("a map's key", name)
                charge_key(name, frame)
                if name in made:
                    raise EvaluationError("a map has the same key twice")
                made[name] = value(frame)
            return made

        return make


def logical(left: Closure, right: Closure, *, decides: bool) -> Closure:
    """`||` (a True on either side decides) or `&&` (a False does), whatever error the other side gives."""
    name = "||" if decides else "&&"

    def combine(frame: Frame) -> Any:
        try:
            value = left(frame)
            if value is decides:
                return decides
            if value is not (not decides):
                raise no_overload(name, value)
        except EvaluationError:
            frame.charge(ERROR_STEPS)
            if right(frame) is decides:
                return decides
            raise
        value = right(frame)
        if value is True or value is False:
            return value
        raise no_overload(name, value)

    return combine


def _equality(left: Closure, right: Closure, node: Binary, *, negated: bool) -> Closure:
    if isinstance(node.right, Literal) and type(node.right.value) is str:
        text = node.right.value

        def compare(frame: Frame) -> bool:
            return (left(frame) == text) is not negated

        return compare  # a string equals strings only, also in Python's eyes
    if negated:
        return lambda frame: not equal(left(frame), right(frame), frame)
    return lambda frame: equal(left(frame), right(frame), frame)


def _greater(a: Any, b: Any, frame: Frame) -> bool:
    return less(b, a, frame)


def _at_most(a: Any, b: Any, frame: Frame) -> bool:
    return less(a, b, frame) or bool(a == b)


def _at_least(a: Any, b: Any, frame: Frame) -> bool:
    return less(b, a, frame) or bool(a == b)


def _in_literals(left: Closure, values: list[Any]) -> Closure:
    texts = frozenset(value for value in values if type(value) is str)

    def member(frame: Frame) -> bool:
        value = left(frame)
        if type(value) is str:
            return value in texts
        return contained(value, values, frame)

    return member
