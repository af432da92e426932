"""CEL's values as Python's: which type a value has, equality, order and arithmetic.

int, str, bytes, float, bool, None, list, dict, datetime and timedelta stand for themselves; `UInt` is CEL's uint. Whole
numbers from JSON are exact whatever their size; what arithmetic gives must fit 64 bits. Times count microseconds.

Work that grows with a value is charged to the frame *before* it is done: a step for each value visited, and one for
each `TEXT_PER_STEP` characters or bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn, TypeAlias

from ext_proc.expressions.errors import BudgetExceeded, EvaluationError

INT_MAX = 2**63 - 1
INT_MIN = -(2**63)
UINT_MAX = 2**64 - 1
TEXT_PER_STEP = 64


class UInt(int):
    """An unsigned number; `1u` is one, and it does not mix with ints in arithmetic."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class TypeValue:
    """What `type(x)` gives."""

    name: str


class Frame:
    """One evaluation: what is known, what may still be spent, and the variables of macros."""

    __slots__ = ("facts", "left", "memo", "seen", "slots")

    def __init__(self, facts: Any, budget: int, slots: int, memo: dict[Any, Any]) -> None:
        self.facts = facts
        self.left = budget
        self.slots: list[Any] = [None] * slots
        self.memo = memo
        self.seen: dict[str, Any] = {}

    def charge(self, steps: int) -> None:
        """Spend; BudgetExceeded when there is not so much left."""
        self.left -= steps
        if self.left < 0:
            raise BudgetExceeded


class Unknown:
    """A value that exists and is not known, such as one that is masked in a record. Whatever looks at it raises
    FactUnknown, which `&&`, `||`, `all` and `exists` absorb where the other side decides.

    `touch` is called then, and raises it.
    """

    __slots__ = ("touch",)

    def __init__(self, touch: Callable[[], NoReturn]) -> None:
        self.touch = touch

    def _touched(self, *_: object) -> NoReturn:
        self.touch()

    __bool__ = __len__ = __iter__ = __hash__ = _touched
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __getitem__ = __contains__ = _touched


Closure: TypeAlias = Callable[[Frame], Any]

_NAMES: dict[type, str] = {
    bool: "bool",
    int: "int",
    UInt: "uint",
    float: "double",
    str: "string",
    bytes: "bytes",
    type(None): "null_type",
    list: "list",
    dict: "map",
    datetime: "google.protobuf.Timestamp",
    timedelta: "google.protobuf.Duration",
    TypeValue: "type",
}
_NUMBERS = frozenset({int, UInt, float})
_ORDERED = frozenset({bool, str, bytes, datetime, timedelta})
_PLAIN = frozenset({bool, str, bytes, datetime, timedelta, type(None), TypeValue})


def name_of(value: Any) -> str:
    """The name of the value's type."""
    if type(value) is Unknown:
        value.touch()
    known = _NAMES.get(type(value))
    return known or ("map" if isinstance(value, dict) else "list")


def no_overload(operation: str, *operands: Any) -> EvaluationError:
    return EvaluationError(f"{operation} does not take {' and '.join(map(name_of, operands)) or 'that'}")


def equal(a: Any, b: Any, frame: Frame) -> bool:
    """CEL's `==`: numbers by their value whatever their types, other values of different types never."""
    kind = type(a)
    if kind is type(b) and kind in _PLAIN:
        if (kind is str or kind is bytes) and len(a) > TEXT_PER_STEP and len(a) == len(b):
            frame.charge(len(a) // TEXT_PER_STEP)
        return bool(a == b)
    if kind in _NUMBERS and type(b) in _NUMBERS:
        return bool(a == b)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        frame.charge(2 * len(a) + 3)
        for x, y in zip(a, b, strict=True):  # noqa: SIM110 (a generator would nest calls twice as deep)
            if not equal(x, y, frame):
                return False
        return True
    if isinstance(a, dict) and isinstance(b, dict) and len(a) == len(b):
        frame.charge(3 * len(a) + 4)
        for key, value in a.items():
            charge_key(key, frame)
            if key not in b or not equal(value, b[key], frame):
                return False
        return True
    for value in (a, b):
        if type(value) is Unknown:
            value.touch()
    return False


def charge_key(key: Any, frame: Frame) -> None:
    """Before a map is asked for it: one that it holds is compared, however long it is."""
    if type(key) is str and len(key) > TEXT_PER_STEP:
        frame.charge(len(key) // TEXT_PER_STEP)


def less(a: Any, b: Any, frame: Frame) -> bool:
    """CEL's `<`; EvaluationError between types that have no order."""
    kind = type(a)
    if (kind in _NUMBERS and type(b) in _NUMBERS) or (kind is type(b) and kind in _ORDERED):
        if kind is str or kind is bytes:
            frame.charge(len(a) // TEXT_PER_STEP)
        return bool(a < b)
    raise no_overload("<", a, b)


def contained(needle: Any, container: Any, frame: Frame) -> bool:
    """CEL's `in`: a list's values, a map's keys."""
    if isinstance(container, list):
        if type(needle) is str and len(needle) <= TEXT_PER_STEP:  # as Python's `==`, and at its speed
            frame.charge(len(container) // 8 + 1)
            return needle in container
        frame.charge(2 * len(container))
        return any(equal(needle, item, frame) for item in container)
    if isinstance(container, dict):
        if not is_key(needle) and type(needle) is not float:
            raise no_overload("in", needle, container)
        charge_key(needle, frame)
        return needle in container
    raise no_overload("in", needle, container)


def is_key(value: Any) -> bool:
    """Whether a map can have it as a key. Python takes True for 1; CEL does not."""
    kind = type(value)
    return kind is str or kind is int or kind is UInt or (kind is float and value.is_integer())


def _whole(value: int, kind: type) -> int:
    if kind is UInt:
        if not 0 <= value <= UINT_MAX:
            raise EvaluationError("uint overflow")
        return UInt(value)
    if not INT_MIN <= value <= INT_MAX:
        raise EvaluationError("int overflow")
    return value


def add(a: Any, b: Any, frame: Frame) -> Any:
    kind, other = type(a), type(b)
    if kind is other:
        if kind is int or kind is UInt:
            return _whole(int(a) + int(b), kind)
        if kind is float:
            return a + b
        if kind is str or kind is bytes:
            frame.charge((len(a) + len(b)) // TEXT_PER_STEP)
            return a + b
        if kind is timedelta:
            return _moment(lambda: a + b)
        if kind is list:
            frame.charge((len(a) + len(b)) // 8)
            return a + b
    elif {kind, other} == {datetime, timedelta}:
        return _moment(lambda: a + b)
    raise no_overload("+", a, b)


def subtract(a: Any, b: Any, _: Frame) -> Any:
    kind, other = type(a), type(b)
    if kind is other:
        if kind is int or kind is UInt:
            return _whole(int(a) - int(b), kind)
        if kind is float:
            return a - b
        if kind is timedelta or kind is datetime:
            return _moment(lambda: a - b)
    elif kind is datetime and other is timedelta:
        return _moment(lambda: a - b)
    raise no_overload("-", a, b)


def multiply(a: Any, b: Any, _: Frame) -> Any:
    kind = type(a)
    if kind is type(b):
        if kind is int or kind is UInt:
            _whole(a, kind), _whole(b, kind)  # thousands of digits, as JSON may have, take time to multiply
            return _whole(int(a) * int(b), kind)
        if kind is float:
            return a * b
    raise no_overload("*", a, b)


def divide(a: Any, b: Any, _: Frame) -> Any:
    """Whole numbers towards zero; doubles as IEEE 754 has it, infinities and all."""
    kind = type(a)
    if kind is type(b):
        if kind is int or kind is UInt:
            if b == 0:
                raise EvaluationError("division by zero")
            _whole(a, kind), _whole(b, kind)
            quotient = abs(int(a)) // abs(int(b))
            return _whole(quotient if (a < 0) == (b < 0) else -quotient, kind)
        if kind is float:
            if b:
                return a / b
            if math.isnan(a) or a == 0:
                return math.nan
            return math.copysign(math.inf, a) * math.copysign(1.0, b)
    raise no_overload("/", a, b)


def remainder(a: Any, b: Any, _: Frame) -> Any:
    kind = type(a)
    if kind is type(b) and (kind is int or kind is UInt):
        if b == 0:
            raise EvaluationError("modulus by zero")
        _whole(a, kind), _whole(b, kind)
        if a == INT_MIN and b == -1:
            raise EvaluationError("int overflow")
        rest = abs(int(a)) % abs(int(b))
        return _whole(-rest if a < 0 else rest, kind)
    raise no_overload("%", a, b)


def negate(a: Any) -> Any:
    kind = type(a)
    if kind is int:
        return _whole(-a, int)
    if kind is float:
        return -a
    raise no_overload("-", a)


def _moment(compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except OverflowError:
        raise EvaluationError("the time is out of range") from None
