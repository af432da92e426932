"""Timestamps and durations: CEL's texts for them, and what their getters give. They count microseconds here."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ext_proc.expressions.errors import EvaluationError

_TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))",
    re.ASCII,
)
_OFFSET = re.compile(r"([+-]?)(\d\d):(\d\d)", re.ASCII)
_DURATION = re.compile(r"[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:h|ms|us|µs|ns|m|s))+|[+-]?0", re.ASCII)
_PIECE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|us|µs|ns|m|s)", re.ASCII)
_NANOSECONDS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "µs": 10**3, "ns": 1}
LONGEST = 64
"""Of a duration's text, and of a time zone's name."""
_MOST_SECONDS = 315_576_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


def parse_timestamp(text: str) -> datetime:
    """RFC 3339; EvaluationError otherwise."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise EvaluationError("a timestamp is written as in 2026-05-09T12:00:00Z")
    year, month, day, hour, minute, second = (int(match[n]) for n in range(1, 7))
    micros = int((match[7] or "0").ljust(9, "0")[:6])
    try:
        moment = datetime(year, month, day, hour, minute, second, micros, tzinfo=UTC)
        if match[8]:
            shift = timedelta(hours=int(match[9]), minutes=int(match[10]))
            moment = moment - shift if match[8] == "+" else moment + shift
    except (ValueError, OverflowError):
        raise EvaluationError("the timestamp is out of range") from None
    return moment


def format_timestamp(moment: datetime) -> str:
    moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + _fraction(moment.microsecond) + "Z"


def from_seconds(seconds: int) -> datetime:
    try:
        return EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        raise EvaluationError("the timestamp is out of range") from None


def to_seconds(moment: datetime) -> int:
    return (moment - EPOCH) // _SECOND


def parse_duration(text: str) -> timedelta:
    """Go's form: `1h30m`, `-1.5s`; EvaluationError otherwise."""
    if len(text) > LONGEST or not _DURATION.fullmatch(text):
        raise EvaluationError("a duration is written as in 1h30m or 90s")
    nanoseconds = 0
    for number, unit in _PIECE.findall(text):
        whole, _, fraction = number.partition(".")
        scale = _NANOSECONDS[unit]
        fraction = fraction[:18] or "0"
        nanoseconds += int(whole or "0") * scale + int(fraction) * scale // 10 ** len(fraction)
    if nanoseconds > _MOST_SECONDS * 10**9:
        raise EvaluationError("the duration is out of range")
    found = timedelta(microseconds=nanoseconds // 1000)
    return -found if text.startswith("-") else found


def format_duration(duration: timedelta) -> str:
    micros = duration // timedelta(microseconds=1)
    seconds, rest = divmod(abs(micros), 10**6)
    return f"{'-' if micros < 0 else ''}{seconds}{_fraction(rest)}s"


def _fraction(micros: int) -> str:
    """As protobuf's JSON has it: none, three or six digits."""
    if not micros:
        return ""
    return f".{micros:06d}" if micros % 1000 else f".{micros // 1000:03d}"


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    if match := _OFFSET.fullmatch(name):
        shift = timedelta(hours=int(match[2]), minutes=int(match[3]))
        if shift < timedelta(days=1):
            return timezone(-shift if match[1] == "-" else shift)
    if len(name) <= LONGEST:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    raise EvaluationError("there is no such time zone")


def _calendar(read: Callable[[datetime], int]) -> Callable[[datetime, str], int]:
    def get(moment: datetime, zone: str) -> int:
        try:
            return read(moment.astimezone(_zone(zone) if zone else UTC))
        except OverflowError:
            raise EvaluationError("the timestamp is out of range") from None

    return get


def _within(unit: timedelta) -> Callable[[timedelta], int]:
    def get(duration: timedelta) -> int:
        return abs(duration) // unit * (-1 if duration < timedelta() else 1)

    return get


OF_TIMESTAMP: dict[str, Callable[[datetime, str], int]] = {
    "getFullYear": _calendar(lambda t: t.year),
    "getMonth": _calendar(lambda t: t.month - 1),
    "getDate": _calendar(lambda t: t.day),
    "getDayOfMonth": _calendar(lambda t: t.day - 1),
    "getDayOfWeek": _calendar(lambda t: t.isoweekday() % 7),
    "getDayOfYear": _calendar(lambda t: t.timetuple().tm_yday - 1),
    "getHours": _calendar(lambda t: t.hour),
    "getMinutes": _calendar(lambda t: t.minute),
    "getSeconds": _calendar(lambda t: t.second),
    "getMilliseconds": _calendar(lambda t: t.microsecond // 1000),
}
"""Getters of a timestamp in a time zone (empty: UTC)."""

OF_DURATION: dict[str, Callable[[timedelta], int]] = {
    "getHours": _within(timedelta(hours=1)),
    "getMinutes": _within(timedelta(minutes=1)),
    "getSeconds": _within(timedelta(seconds=1)),
    "getMilliseconds": lambda d: int(abs(d).microseconds // 1000) * (-1 if d < timedelta() else 1),
}
