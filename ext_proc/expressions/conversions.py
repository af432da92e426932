"""Conversions between types: int(), uint(), double(), string(), bytes(), bool(), timestamp(), duration()."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from ext_proc.expressions import times
from ext_proc.expressions.errors import EvaluationError
from ext_proc.expressions.types import BOOL, BYTES, DOUBLE, DURATION, INT, STRING, TIMESTAMP, UINT, Type
from ext_proc.expressions.values import INT_MAX, INT_MIN, TEXT_PER_STEP, UINT_MAX, Frame, UInt, no_overload

_WHOLE = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_DOUBLE = re.compile(
    r"[+-]?(?:\d++\.?\d*+|\.\d++)(?:[eE][+-]?\d++)?|[+-]?(?:inf|infinity)|nan", re.ASCII | re.IGNORECASE
)
_LONGEST = 400
_DIGITS_PER_STEP = 16
_OF_TIME = 50  # steps: a pattern, and arithmetic
_OF_TEXT = 10
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def _ranged(value: int, least: int, most: int, name: str) -> int:
    if not least <= value <= most:
        raise EvaluationError(f"the number is out of {name}'s range")
    return value


def _number(value: Any, name: str) -> int:
    """What int() and uint() share: a whole number from a number or a text."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise EvaluationError(f"the number is out of {name}'s range")
        return int(value)
    if type(value) is str:
        if not _WHOLE.fullmatch(value):
            raise EvaluationError(f"the text is no {name}")
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    raise no_overload(f"{name}()", value)


def _int(_: Frame, value: Any) -> int:
    if isinstance(value, datetime):
        return times.to_seconds(value)
    if isinstance(value, float) and not -(2.0**63) < value < 2.0**63:
        raise EvaluationError("the number is out of int's range")
    return _ranged(_number(value, "int"), INT_MIN, INT_MAX, "int")


def _uint(_: Frame, value: Any) -> int:
    if isinstance(value, float) and value < 0:
        raise EvaluationError("the number is out of uint's range")
    if type(value) is str and value.startswith(("-", "+")):
        raise EvaluationError("the text is no uint")
    return UInt(_ranged(_number(value, "uint"), 0, UINT_MAX, "uint"))


def _double(frame: Frame, value: Any) -> float:
    if type(value) is str:
        frame.charge(min(len(value), _LONGEST) // _DIGITS_PER_STEP)
        if len(value) > _LONGEST or not _DOUBLE.fullmatch(value):
            raise EvaluationError("the text is no double")
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    raise no_overload("double()", value)


def _string(frame: Frame, value: Any) -> str:
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int or kind is UInt:
        frame.charge((value.bit_length() // 64) ** 2 // 16)  # JSON's may have thousands of digits
        return str(int(value))
    if kind is float:
        return repr(value).removesuffix(".0")
    if kind is bytes:
        frame.charge(len(value) // TEXT_PER_STEP)
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError:
            raise EvaluationError("the bytes are not UTF-8") from None
    if kind is datetime:
        frame.charge(_OF_TEXT)
        return times.format_timestamp(value)
    if kind is timedelta:
        frame.charge(_OF_TEXT)
        return times.format_duration(value)
    raise no_overload("string()", value)


def _bytes(frame: Frame, value: Any) -> bytes:
    if type(value) is bytes:
        return value
    if type(value) is str:
        frame.charge(len(value) // TEXT_PER_STEP)
        return value.encode("utf-8", "surrogatepass")
    raise no_overload("bytes()", value)


def _bool(_: Frame, value: Any) -> bool:
    if type(value) is bool:
        return value
    if type(value) is str:
        if value in _TRUE or value in _FALSE:
            return value in _TRUE
        raise EvaluationError("the text is neither true nor false")
    raise no_overload("bool()", value)


def _timestamp(frame: Frame, value: Any) -> datetime:
    frame.charge(_OF_TIME)
    if isinstance(value, datetime):
        return value
    if type(value) is int:
        return times.from_seconds(value)
    if type(value) is str:
        return times.parse_timestamp(value)
    raise no_overload("timestamp()", value)


def _duration(frame: Frame, value: Any) -> timedelta:
    frame.charge(_OF_TIME)
    if isinstance(value, timedelta):
        return value
    if type(value) is str:
        frame.charge(min(len(value), times.LONGEST))
        return times.parse_duration(value)
    raise no_overload("duration()", value)


CONVERSIONS: dict[str, tuple[Type, tuple[Type, ...], Callable[[Frame, Any], Any]]] = {
    "int": (INT, (INT, UINT, DOUBLE, STRING, TIMESTAMP), _int),
    "uint": (UINT, (INT, UINT, DOUBLE, STRING), _uint),
    "double": (DOUBLE, (INT, UINT, DOUBLE, STRING), _double),
    "string": (STRING, (STRING, BOOL, INT, UINT, DOUBLE, BYTES, TIMESTAMP, DURATION), _string),
    "bytes": (BYTES, (BYTES, STRING), _bytes),
    "bool": (BOOL, (BOOL, STRING), _bool),
    "timestamp": (TIMESTAMP, (TIMESTAMP, STRING, INT), _timestamp),
    "duration": (DURATION, (DURATION, STRING), _duration),
}
"""name -> (result, the types it converts from, how)."""
