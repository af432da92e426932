"""Finds the values at `masking.json` paths in JSON text as it arrives, with their byte positions.

Paths are those of `config.json_path`, names without regard to case. A path that leads to an object or array covers
every scalar below it. Several texts one after the other (JSON lines) are each looked at.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from ext_proc.config import json_path
from ext_proc.errors import ConfigError
from ext_proc.masking.errors import UninspectableError

DEPTH = 200
"""Deeper nesting is refused where paths are to be masked."""
LONGEST_KEY = 64 << 10
"""A longer key is refused where paths are to be masked."""

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]:,]|[^\s"{}\[\]:,]++', re.DOTALL)
_STRING_REST = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_SPACE = b" \t\r\n"

Step = str | int | None  # a case-folded name, an index, or any


@dataclass(frozen=True, slots=True)
class Path:
    steps: tuple[tuple[bool, Step], ...]  # (at any depth, step)


@dataclass(frozen=True, slots=True)
class Value:
    """A scalar to mask, at offsets in the whole text: a string's inside, or (`quoted`) a number or literal."""

    start: int
    end: int
    secret: bytes = field(repr=False)
    quoted: bool


def parse(path: str) -> Path:
    """Raises ConfigError for what is no path, or names whole bodies."""
    try:
        steps = json_path.parse(path).steps
    except json_path.JsonPathError as error:
        raise ConfigError("config.json_path", f"masking.json: {path!r}: {error}") from None
    if not steps:
        raise ConfigError(
            "config.whole_body",
            f"masking.json: {path!r} would mask whole bodies",
            remedy="Name the fields, such as $.user.email.",
        )
    return Path(tuple((s.descend, s.index if s.name is None else s.name) for s in steps))


class _Level:
    """An open object or array: which paths are alive in it, and its key or index."""

    __slots__ = ("array", "index", "key", "live", "masked")

    def __init__(self, array: bool, live: frozenset[tuple[int, int]], masked: bool) -> None:
        self.array = array
        self.live = live
        self.masked = masked
        self.index = 0
        self.key: str | None = None


class JsonValues:
    """One body's text. `strict` refuses malformed nesting; otherwise what cannot be JSON is no longer looked at."""

    def __init__(self, paths: tuple[Path, ...], *, strict: bool, request: bool) -> None:
        self._paths = paths
        self._strict = strict
        self._request = request
        self._levels: list[_Level] = []
        self._buffer = b""
        self._at = 0  # the offset of _buffer in the whole text
        self._inside: str = ""  # "masked": in a string of which a part was given out; "passed": in one that is not
        self._over = False
        self._roots = frozenset((i, 0) for i in range(len(paths)))
        self.value_from: int | None = None

    def feed(self, data: bytes, last: bool) -> list[Value]:
        """The values that are complete now. `value_from` is where an incomplete one begins."""
        if self._over:
            return []
        values: list[Value] = []
        self._buffer += data
        if self._inside and not self._leave_string(values, last):
            return values
        done = 0
        size = len(self._buffer)
        for token in _TOKEN.finditer(self._buffer):
            start, end = token.span()
            first = self._buffer[start]
            if first not in b'{}[]:,"' and end == size and not last:
                break
            if self._buffer[done:start].strip(_SPACE):
                break
            self._token(token[0], start, end, values)
            if self._given_up():
                return values
            done = end
        rest = self._buffer[done:]
        lead = len(rest) - len(rest.lstrip(_SPACE))
        self._at += done + lead
        self._buffer = rest[lead:]
        if self._buffer and (last or (self._buffer[:1] != b'"' and not self._partial_literal())):
            self._fail("it is not JSON")
        elif last and self._levels:
            self._fail("it ends within an object or array")
        self.value_from = None
        if self._buffer and self._masks_next():
            self.value_from = self._at + (self._buffer[:1] == b'"')
        elif self._buffer[:1] == b'"':
            if not self._key_next():
                self._inside = "passed"
                self._at += 1
                self._buffer = self._buffer[1:]
                self._leave_string(values, last)
            elif len(self._buffer) > LONGEST_KEY:
                self._fail("a key is too long")
        return values

    def force(self, upto: int) -> Value | None:
        """Gives out the incomplete value's part before `upto`; what follows stays masked."""
        if self.value_from is None or upto <= self.value_from:
            return None
        begin = self.value_from - self._at
        piece = self._buffer[begin : upto - self._at]
        self._buffer = self._buffer[upto - self._at :]
        self._at = self.value_from = upto
        self._inside = "masked"
        return Value(upto - len(piece), upto, piece, quoted=False)

    def _leave_string(self, values: list[Value], last: bool) -> bool:
        """Goes on within a string; True when it ended."""
        match = _STRING_REST.match(self._buffer)
        end = match.end() if match else 0
        closed = self._buffer[end : end + 1] == b'"'
        masked = self._inside == "masked"
        if masked and not closed and not last:
            self.value_from = self._at
            return False
        if masked and end:
            values.append(Value(self._at, self._at + end, self._buffer[:end], quoted=False))
        self._buffer = self._buffer[end + closed :]
        self._at += end + closed
        if closed:
            self._inside = ""
            self.value_from = None
        return closed

    def _key_next(self) -> bool:
        level = self._levels[-1] if self._levels else None
        return level is not None and not level.array and level.key is None

    def _partial_literal(self) -> bool:
        return self._buffer[:1] not in b'{}[]:,"' and not self._buffer.strip(b"+-.0123456789eEaflnrstu")

    def _given_up(self) -> bool:
        return self._over

    def _fail(self, what: str) -> None:
        if self._strict:
            raise UninspectableError(what, request=self._request)
        self._over = True
        self._buffer = b""
        self.value_from = None

    def _token(self, text: bytes, start: int, end: int, values: list[Value]) -> None:
        first = text[0]
        level = self._levels[-1] if self._levels else None
        if first == 0x2C:  # ,
            if level is None:
                self._fail("a comma stands outside")
            elif level.array:
                level.index += 1
            else:
                level.key = None
            return
        if first == 0x3A:  # :
            if level is None or level.array or level.key is None:
                self._fail("a colon stands where none may")
            return
        if first in b"]}":
            if level is None or level.array is not (first == 0x5D):
                self._fail("brackets do not match")
            else:
                self._levels.pop()
            return
        if level is not None and self._key_next():
            if first != 0x22:
                self._fail("an object's key is no string")
            else:
                level.key = _key(text).casefold()
            return
        if first in b"[{":
            if len(self._levels) >= DEPTH:
                self._fail(f"it is nested deeper than {DEPTH}")
                return
            live, masked = self._enter(level)
            self._levels.append(_Level(first == 0x5B, live, masked))
            return
        if self._masks_next():
            if first == 0x22:
                if end - start > 2:
                    values.append(Value(self._at + start + 1, self._at + end - 1, _inside(text), quoted=False))
            elif text not in (b"null", b"true", b"false"):
                values.append(Value(self._at + start, self._at + end, text, quoted=True))

    def _masks_next(self) -> bool:
        """Whether a scalar at the present place is to be masked."""
        level = self._levels[-1] if self._levels else None
        if level is None or (not level.array and level.key is None):
            return False
        return level.masked or self._enter(level)[1]

    def _enter(self, level: _Level | None) -> tuple[frozenset[tuple[int, int]], bool]:
        """The paths alive in the value at the present place, and whether a path ends there."""
        if level is None:
            return self._roots, False
        place: str | int | None = level.index if level.array else level.key
        live: set[tuple[int, int]] = set()
        masked = level.masked
        for path, matched in level.live:
            deep, step = self._paths[path].steps[matched]
            if deep:
                live.add((path, matched))
            if step is None or (step == place and isinstance(step, str) is isinstance(place, str)):
                if matched + 1 == len(self._paths[path].steps):
                    masked = True
                else:
                    live.add((path, matched + 1))
        return frozenset(live), masked


def _inside(text: bytes) -> bytes:
    if b"\\" not in text:
        return text[1:-1]
    try:
        return str(json.loads(text, strict=False)).encode("utf-8", "surrogatepass")
    except ValueError:
        return text[1:-1]


def _key(text: bytes) -> str:
    return _inside(text).decode("utf-8", "replace")
