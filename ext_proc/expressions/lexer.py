"""Source text -> tokens, with the values of literals."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ext_proc.expressions.errors import NotCelError
from ext_proc.expressions.values import INT_MAX, UINT_MAX, UInt

_TOKEN = re.compile(
    r"""(?P<space>[ \t\n\f\r]+|//[^\n]*)
      | (?P<text>(?P<prefix>[bB]?[rR]?)
          (?P<quote>\"{3}|'{3}|"|'))
      | (?P<double>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?)
      | (?P<int>0x[0-9a-fA-F]+|\d+)(?P<unsigned>[uU]?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | `(?P<escaped>[A-Za-z0-9_.\-/ ]+)`
      | (?P<mark>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,()\[\]{}])
    """,
    re.VERBOSE,
)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"} | {c: c for c in "\\?\"'`"}
_HEX = {"x": 2, "X": 2, "u": 4, "U": 8}
_SURROGATES = range(0xD800, 0xE000)


class Token(NamedTuple):
    """`kind`: `literal` (with its value), `name`, `escaped` (a name in backticks), the mark itself, or `end`."""

    kind: str
    at: int
    end: int
    value: Any = None


def tokens(source: str) -> list[Token]:
    """All of `source`; NotCelError where something is no token."""
    found: list[Token] = []
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            raise NotCelError(f"{source[at]!r} is not understood", at)
        end = match.end()
        if match["quote"]:
            value, end = _text(source, match)
            found.append(Token("literal", at, end, value))
        elif match["double"]:
            found.append(Token("literal", at, end, float(match["double"])))
        elif match["int"]:
            found.append(Token("literal", at, end, _whole(match, at)))
        elif match["name"]:
            found.append(Token("name", at, end, match["name"]))
        elif match["escaped"]:
            found.append(Token("escaped", at, end, match["escaped"]))
        elif match["mark"]:
            found.append(Token(match["mark"], at, end))
        if (match["double"] or match["int"]) and source[end : end + 1].isidentifier():
            raise NotCelError(f"{source[end]!r} follows a number without a blank", end)
        at = end
    found.append(Token("end", len(source), len(source)))
    return found


def _whole(match: re.Match[str], at: int) -> int:
    """A whole number. One above int64 is kept where a minus may still make it the least of them."""
    digits = match["int"]
    if len(digits) > 20:
        raise NotCelError("the number is too large", at)
    value = int(digits, 16) if digits.startswith("0x") else int(digits)
    if match["unsigned"]:
        if value > UINT_MAX:
            raise NotCelError("the number is beyond 64 bits", at)
        return UInt(value)
    if value > INT_MAX + 1:
        raise NotCelError("the number is beyond 64 bits", at, "Write a double, such as 1e19, or `u` behind it.")
    return value


def _text(source: str, match: re.Match[str]) -> tuple[str | bytes, int]:
    """A string or bytes literal, and where it ends."""
    quote, prefix = match["quote"], match["prefix"].lower()
    at = match.end()
    raw, binary = "r" in prefix, "b" in prefix
    text: list[str] = []
    data = bytearray()
    while not source.startswith(quote, at):
        if at >= len(source) or (len(quote) == 1 and source[at] in "\n\r"):
            raise NotCelError("the text does not end", match.start(), f"Close it with {quote}.")
        char, after = source[at], at + 1
        octets = None
        if char == "\\" and not raw:
            char, octets, after = _escape(source, at, binary=binary)
        if binary:
            data += bytes([octets]) if octets is not None else char.encode()
        else:
            text.append(char)
        at = after
    return (bytes(data) if binary else "".join(text)), at + len(quote)


def _escape(source: str, at: int, *, binary: bool) -> tuple[str, int | None, int]:
    """(character, or in bytes the octet, and where the escape ends)."""
    kind = source[at + 1 : at + 2]
    if kind in _SIMPLE:
        return _SIMPLE[kind], None, at + 2
    if kind in _HEX and not (binary and kind in "uU"):
        digits, base, after = source[at + 2 : at + 2 + _HEX[kind]], 16, at + 2 + _HEX[kind]
        well = len(digits) == _HEX[kind] and all(c in "0123456789abcdefABCDEF" for c in digits)
    else:
        digits, base, after = source[at + 1 : at + 4], 8, at + 4
        well = len(digits) == 3 and digits[0] in "0123" and all(c in "01234567" for c in digits)
    if not well:
        raise NotCelError("the escape is not understood", at, r"Write \\ for a backslash, or a raw text: r'...'.")
    code = int(digits, base)
    if code > 0x10FFFF or code in _SURROGATES:
        raise NotCelError("the escape is no character", at)
    return chr(code), code if binary else None, after
