"""The functions that expressions may call, each with its static types and its cost.

A function is called with the frame and the values of its target (if it is a method) and arguments. It checks their
types itself, because `dyn` may be anything, and charges what grows with them before it does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ext_proc.expressions import times
from ext_proc.expressions.conversions import CONVERSIONS
from ext_proc.expressions.types import (
    BOOL,
    BYTES,
    DURATION,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    TYPE,
    Type,
    list_of,
    map_of,
)
from ext_proc.expressions.values import TEXT_PER_STEP, Frame, TypeValue, name_of, no_overload


@dataclass(frozen=True, slots=True)
class Overload:
    """One form: the target's type (None for a plain function), the arguments' and the result's."""

    target: Type | None
    parameters: tuple[Type, ...]
    result: Type


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    overloads: tuple[Overload, ...]
    call: Callable[..., Any] = field(repr=False)
    doc: str = ""
    """One line for the reference."""
    same: bool = True
    """The same values always give the same result, so that it may be computed at load."""


Functions = Mapping[str, Function]


def _charge_search(frame: Frame, text: str, part: str, times: int = 1) -> None:
    """CPython's search (Objects/stringlib/fastsearch.h) is linear for most lengths. For the others it may compare all
    of `part` at each place, or at the last ones."""
    n, m = len(text), len(part)
    places = max(n - m, 0)
    if n >= _ALWAYS_SIMPLE and not (m < _SHORT and n < _SIMPLE_FOR_SHORT):
        places = min(places, _SIMPLE_AT_THE_END) if 4 * m >= n else 0
    frame.charge(times * (n // TEXT_PER_STEP + places * max(m - 1, 0) // _COMPARED_PER_STEP))


def _size(_: Frame, value: Any) -> int:
    if isinstance(value, str | bytes | list | dict):
        return len(value)
    raise no_overload("size()", value)


def _search(name: str) -> Callable[[Frame, Any, Any], bool]:
    def search(frame: Frame, text: Any, part: Any) -> bool:
        if type(text) is not str or type(part) is not str:
            raise no_overload(f"{name}()", text, part)
        if name == "startsWith":
            frame.charge(len(part) // TEXT_PER_STEP)
            return text.startswith(part)
        if name == "endsWith":
            frame.charge(len(part) // TEXT_PER_STEP)
            return text.endswith(part)
        _charge_search(frame, text, part)
        return part in text

    return search


def _letters(name: str, change: Callable[[str], str]) -> Callable[[Frame, Any], str]:
    def changed(frame: Frame, text: Any) -> str:
        if type(text) is not str:
            raise no_overload(f"{name}()", text)
        frame.charge(len(text) // TEXT_PER_STEP)
        return change(text)

    return changed


_OF_CALENDAR = 5
_OF_ZONE = 500  # steps: its rules may have to be read
_ALWAYS_SIMPLE, _SHORT, _SIMPLE_FOR_SHORT, _SIMPLE_AT_THE_END = 2500, 100, 30_000, 2000
_COMPARED_PER_STEP = 512


def _lower(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def _upper(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").upper().decode("utf-8", "surrogatepass")


def _split(frame: Frame, text: Any, separator: Any) -> list[str]:
    if type(text) is not str or type(separator) is not str:
        raise no_overload("split()", text, separator)
    if not separator:
        frame.charge(len(text))
        return list(text)
    _charge_search(frame, text, separator, times=3)  # counting, and splitting
    frame.charge(text.count(separator))
    return text.split(separator)


def _join(frame: Frame, items: Any, separator: Any = "") -> str:
    if not isinstance(items, list) or type(separator) is not str:
        raise no_overload("join()", items, separator)
    frame.charge(len(items))
    length = 0
    for item in items:
        if type(item) is not str:
            raise no_overload("join()", item)
        length += len(item) + len(separator)
    frame.charge(length // TEXT_PER_STEP)
    return separator.join(items)


def _replace(frame: Frame, text: Any, old: Any, new: Any) -> str:
    if type(text) is not str or type(old) is not str or type(new) is not str:
        raise no_overload("replace()", text, old, new)
    _charge_search(frame, text, old, times=3)  # counting, here and in Python's, and replacing
    count = text.count(old)
    frame.charge(count + (len(text) + count * max(len(new) - len(old), 0)) // TEXT_PER_STEP)
    return text.replace(old, new)


def _getter(name: str) -> Callable[..., int]:
    of_timestamp, of_duration = times.OF_TIMESTAMP[name], times.OF_DURATION.get(name)

    def get(frame: Frame, value: Any, zone: Any = "") -> int:
        kind = name_of(value)
        frame.charge(_OF_CALENDAR if zone == "" else _OF_ZONE)
        if kind == "google.protobuf.Timestamp" and type(zone) is str:
            return of_timestamp(value, zone)
        if kind == "google.protobuf.Duration" and of_duration is not None and zone == "":
            return of_duration(value)
        raise no_overload(f"{name}()", value)

    return get


def _same(_: Frame, value: Any) -> Any:
    return value


def _type_of(_: Frame, value: Any) -> TypeValue:
    return TypeValue(name_of(value))


def _no_pattern(*_: Any) -> bool:
    raise AssertionError("matches() is compiled with its pattern")


def _methods(name: str, call: Callable[..., Any], result: Type, *forms: tuple[Type, ...], doc: str) -> Function:
    return Function(name, tuple(Overload(target, tuple(rest), result) for target, *rest in forms), call, doc)


_LIST, _MAP = list_of(DYN), map_of(DYN, DYN)
_SIZED = (STRING, BYTES, _LIST, _MAP)

_ALL = [
    Function(
        "size",
        (*(Overload(None, (t,), INT) for t in _SIZED), *(Overload(t, (), INT) for t in _SIZED)),
        _size,
        "characters of a string, bytes, items of a list, members of a map",
    ),
    *(
        _methods(name, _search(name), BOOL, (STRING, STRING), doc=doc)
        for name, doc in (
            ("contains", "whether the text holds another"),
            ("startsWith", "whether it begins with it"),
            ("endsWith", "whether it ends with it"),
        )
    ),
    Function(
        "matches",
        (Overload(STRING, (STRING,), BOOL), Overload(None, (STRING, STRING), BOOL)),
        _no_pattern,
        "whether an RE2 pattern, written as a literal, is found in the text",
    ),
    _methods("lowerAscii", _letters("lowerAscii", _lower), STRING, (STRING,), doc="A-Z as a-z"),
    _methods("upperAscii", _letters("upperAscii", _upper), STRING, (STRING,), doc="a-z as A-Z"),
    _methods("trim", _letters("trim", str.strip), STRING, (STRING,), doc="without blanks at the ends"),
    _methods("split", _split, list_of(STRING), (STRING, STRING), doc="the pieces between a separator"),
    _methods("join", _join, STRING, (list_of(STRING),), (list_of(STRING), STRING), doc="strings put together"),
    _methods("replace", _replace, STRING, (STRING, STRING, STRING), doc="each occurrence replaced"),
    *(
        Function(
            name,
            (
                Overload(TIMESTAMP, (), INT),
                Overload(TIMESTAMP, (STRING,), INT),
                *([Overload(DURATION, (), INT)] if name in times.OF_DURATION else []),
            ),
            _getter(name),
            "of a timestamp, in UTC or in a time zone" + (", or of a duration" if name in times.OF_DURATION else ""),
        )
        for name in times.OF_TIMESTAMP
    ),
    *(
        Function(name, tuple(Overload(None, (t,), result) for t in sources), convert, f"converts to {name}")
        for name, (result, sources, convert) in CONVERSIONS.items()
    ),
    Function("dyn", (Overload(None, (DYN,), DYN),), _same, "the value, its type no longer checked at load"),
    Function("type", (Overload(None, (DYN,), TYPE),), _type_of, "the type of a value"),
]

FUNCTIONS: Functions = {function.name: function for function in _ALL}
"""CEL's standard functions, and some of its `strings` extension."""

TYPE_NAMES: Mapping[str, TypeValue] = {
    **{name: TypeValue(name) for name in ("bool", "bytes", "double", "int", "list", "map", "null_type", "string")},
    **{name: TypeValue(name) for name in ("type", "uint")},
}
"""Names of types that expressions may use as values: `type(x) == int`."""
