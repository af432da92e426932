"""JSON read in the one way every parser agrees on (RFC 8259), so that a rule and the upstream see the same document.

Refused: a name that occurs twice in an object (parsers disagree on which counts), NaN and Infinity, any encoding but
UTF-8, a byte order mark, text after the value, nesting deeper than `MAX_DEPTH`, and more values than `MAX_WORK`.
"""

from __future__ import annotations

import itertools
import json
from typing import Any, NoReturn

MAX_DEPTH = 256

MAX_WORK = 400_000
"""In values, of which an object counts as ten: about 30 ms."""

_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_NO_MARKS = bytes(set(range(256)) - set(b'{,"'))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_BLOCK = 128


class StrictJsonError(ValueError):
    """The text is not JSON, or parsers could read it in different ways. The message holds none of the text."""


class NotJsonError(StrictJsonError):
    """The text is not JSON at all."""


def parse(data: bytes | str, *, max_depth: int = MAX_DEPTH, folded: bool = False) -> Any:
    """The document as Python values; StrictJsonError otherwise. Time and memory are linear in the input.

    `folded`: names that differ in letter case only are the same name, as some parsers have it, and so occur twice.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError:
        raise StrictJsonError("it is not UTF-8") from None
    if _depth_exceeds(text, max_depth):
        raise StrictJsonError(f"it is nested more than {max_depth} deep")
    if _too_much(text, MAX_WORK):
        raise StrictJsonError("it holds too many values")
    try:
        return json.loads(text, object_pairs_hook=_folded if folded else _object, parse_constant=_constant)
    except StrictJsonError:
        raise
    except json.JSONDecodeError as error:
        raise NotJsonError(f"it is not JSON (line {error.lineno} column {error.colno})") from None
    except ValueError:  # an integer with more digits than Python converts
        raise StrictJsonError("it holds a number that is too long") from None
    except RecursionError:
        raise StrictJsonError("it is nested too deep") from None


def _depth_exceeds(text: str, limit: int) -> bool:
    """Counted on the brackets outside of strings. What is not JSON may be misjudged; the parser refuses it anyway."""
    if text.count("[") + text.count("{") <= limit:
        return False
    depth = 0
    brackets = _outside(text, _NO_BRACKETS)
    for start in range(0, len(brackets), _BLOCK):  # a block at a time, at the speed of memory
        block = brackets[start : start + _BLOCK]
        opening = block.count(b"[") + block.count(b"{")
        if depth + opening > limit and max(itertools.accumulate(map(_STEP.__getitem__, block), initial=depth)) > limit:
            return True
        depth += 2 * opening - len(block)
    return False


def _outside(text: str, delete: bytes) -> bytes:
    """What is outside of strings, without the bytes of `delete`."""
    if "\\" in text:
        text = text.replace("\\\\", "").replace('\\"', "")
    return b"".join(text.encode("utf-8", "replace").translate(None, delete).split(b'"')[::2])


def _too_much(text: str, limit: int) -> bool:
    """Whether it holds so many values that to read it takes too long; an object takes as long as ten others."""
    if 10 * text.count("{") + text.count(",") <= limit:
        return False
    marks = _outside(text, _NO_MARKS)
    return 10 * marks.count(b"{") + marks.count(b",") > limit


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise StrictJsonError("an object in it has the same name twice")
    return members


def _folded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs) or (len(pairs) > 1 and len({*map(str.casefold, members)}) != len(pairs)):
        raise StrictJsonError("an object in it has the same name twice")
    return members


def _constant(_: str) -> NoReturn:
    raise StrictJsonError("it holds NaN or Infinity, which are not JSON")
