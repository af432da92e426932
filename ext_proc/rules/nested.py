"""Functions that find what callers nest: `widgets()` and `find()`. Every value is visited once, and charged."""

from __future__ import annotations

from typing import Any

from ext_proc.expressions import FUNCTIONS, Function, Functions, Overload
from ext_proc.expressions.types import DYN, STRING, list_of
from ext_proc.expressions.values import TEXT_PER_STEP, Frame
from ext_proc.rules import strict_json

_LISTS = frozenset({"widgets", "cells", "panels", "tiles"})
_DEFINITION = "definition"


def widgets(frame: Frame, document: Any) -> list[Any]:
    """Every widget in a dashboard, a notebook or a part of one, at any depth, in their order.

    A widget is an object with a `definition`, and any object in a list named `widgets` (groups hold their widgets in
    `definition.widgets`), `cells`, `panels` or `tiles`. What is named `..._definition` (the source of a split graph) is
    the definition of a widget. JSON inside strings is read as well; letter case makes no difference.
    """
    return _remembered(frame, ("widgets",), document, _widgets)


def find(frame: Frame, document: Any, name: Any) -> list[Any]:
    """The values of every member of that name, at any depth, whatever its letter case, also in JSON inside strings."""
    if type(name) is not str:
        return []
    folded = name.casefold()
    return _remembered(frame, ("find", folded), document, lambda f, d: _members(f, d, folded))


def _remembered(frame: Frame, key: tuple[str, ...], document: Any, compute: Any) -> list[Any]:
    """What was found in the same document before, at the same price."""
    at = (*key, id(document))
    known = frame.memo.get(at)
    if known is not None and known[0] is document:
        frame.charge(known[2])
        found: list[Any] = known[1]
        return found
    before = frame.left
    found = compute(frame, document)
    frame.memo[at] = (document, found, before - frame.left)
    return found


def _widgets(frame: Frame, document: Any) -> list[Any]:
    found: list[Any] = []
    pending: list[tuple[Any, bool]] = [(document, False)]
    while pending:
        value, listed = pending.pop()
        below: list[tuple[Any, bool]] = []
        if type(value) is str:
            read = _read(frame, value)
            if read is not None:
                below.append((read, listed))
        elif type(value) is list:
            frame.charge(2 + len(value))
            below = [(item, listed) for item in value if type(item) in (dict, list, str)]
        elif type(value) is dict:
            frame.charge(3 + 2 * len(value))
            widget = listed
            for key, child in value.items():
                name = key.casefold()
                if name.endswith(_DEFINITION):
                    if name == _DEFINITION and type(child) is dict:
                        widget = True
                    else:
                        found += [{_DEFINITION: one} for one in _objects(frame, child)]
                if type(child) in (dict, list, str):
                    below.append((child, name in _LISTS))
            if widget:
                found.append(value)
        pending.extend(reversed(below))
    return found


def _objects(frame: Frame, value: Any) -> list[Any]:
    """The objects that a definition may be: itself, those in a list, and those in JSON inside a string."""
    if type(value) is str:
        value = _read(frame, value)
    return [one for one in (value if type(value) is list else [value]) if type(one) is dict]


def _members(frame: Frame, document: Any, wanted: str) -> list[Any]:
    found: list[Any] = []
    pending: list[Any] = [document]
    while pending:
        value = pending.pop()
        below: list[Any] = []
        if type(value) is str:
            read = _read(frame, value)
            if read is not None:
                below.append(read)
        elif type(value) is list:
            frame.charge(2 + len(value))
            below = [item for item in value if type(item) in (dict, list, str)]
        elif type(value) is dict:
            frame.charge(3 + 2 * len(value))
            for key, child in value.items():
                if key.casefold() == wanted:
                    found.append(child)
                if type(child) in (dict, list, str):
                    below.append(child)
        pending.extend(reversed(below))
    return found


def _read(frame: Frame, text: str) -> Any:
    """The object or list that a string holds as JSON; None for other text."""
    if len(text) < 2 or text.lstrip()[:1] not in ("{", "["):
        return None
    frame.charge(5 + len(text) * 4 // TEXT_PER_STEP)
    try:
        return strict_json.parse(text, folded=True)
    except strict_json.StrictJsonError:
        return None


POLICY_FUNCTIONS: Functions = {
    **FUNCTIONS,
    "widgets": Function(
        "widgets",
        (Overload(None, (DYN,), list_of(DYN)),),
        widgets,
        "every widget of a dashboard or notebook, at any depth, in groups and in JSON inside strings",
    ),
    "find": Function(
        "find",
        (Overload(None, (DYN, STRING), list_of(DYN)),),
        find,
        "the values of every member of that name, at any depth, whatever its letter case",
    ),
}
"""What policies may call."""
