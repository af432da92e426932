"""Functions that find what callers nest: `widgets()` and `find()`. Every value is visited once, and charged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ext_proc.expressions import FUNCTIONS, FactUnreadable, Function, Functions, Overload
from ext_proc.expressions.compiler import FOLDED_PER_STEP
from ext_proc.expressions.types import DYN, STRING, list_of
from ext_proc.expressions.values import TEXT_PER_STEP, Frame, Unknown, no_overload
from ext_proc.rules import strict_json

_LISTS = frozenset({"widgets", "cells", "panels", "tiles"})
_DEFINITION = "definition"
_MAY_BE_JSON = frozenset("{[ \t\r\n")


@dataclass(slots=True)
class _Index:
    """A document, walked through once: its widgets, and its members by their names in lower case."""

    document: Any
    widgets: list[Any] = field(default_factory=list)
    members: dict[str, list[Any]] = field(default_factory=dict)
    cost: int = 0
    complete: bool = False
    """False where the budget was used up on the way: then `cost` is what did not suffice."""


def widgets(frame: Frame, document: Any) -> list[Any]:
    """Every widget in a dashboard, a notebook or a part of one, at any depth, in their order.

    A widget is an object with a `definition`, and any object in a list named `widgets` (groups hold their widgets in
    `definition.widgets`), `cells`, `panels` or `tiles`. What is named `..._definition` (the source of a split graph) is
    the definition of a widget. JSON inside strings is read as well; letter case makes no difference.
    """
    return _indexed(frame, document).widgets


def find(frame: Frame, document: Any, name: Any) -> list[Any]:
    """The values of every member of that name, at any depth, whatever its letter case, also in JSON inside strings.
    Of a list of names all values, those of the first name first, for the price of one."""
    if type(name) is str:
        return _indexed(frame, document).members.get(_folded(frame, name), [])
    if type(name) is not list or not all(type(one) is str for one in name):
        raise no_overload("find()", document, name)
    members = _indexed(frame, document).members
    found = [value for one in dict.fromkeys(_folded(frame, one) for one in name) for value in members.get(one, [])]
    frame.charge(len(name) + len(found) // 8)
    return found


def _indexed(frame: Frame, document: Any) -> _Index:
    """The index of a document; where it was made before, at the same price."""
    if type(document) is Unknown:
        document.touch()
    known: _Index | None = frame.memo.get(id(document))
    if known is not None and known.document is document and (known.complete or frame.left < known.cost):
        frame.charge(known.cost)
        return known
    before = frame.left
    made = frame.memo[id(document)] = _Index(document)
    try:
        _walk(frame, document, made)
        made.complete = True
    finally:
        made.cost = before - frame.left
    return made


def _walk(frame: Frame, document: Any, into: _Index) -> None:
    members = into.members
    pending: list[tuple[Any, bool]] = [(document, False)]
    while pending:
        value, listed = pending.pop()
        below: list[tuple[Any, bool]] = []
        if type(value) is dict:
            frame.charge(1 + len(value))
            widget = listed
            for key, child in value.items():
                name = _folded(frame, key) if len(key) > TEXT_PER_STEP else key.casefold()
                if name in members:
                    members[name].append(child)
                else:
                    members[name] = [child]
                kind = type(child)
                if name.endswith(_DEFINITION):
                    if name == _DEFINITION and kind is dict:
                        widget = True
                    else:
                        into.widgets += [{_DEFINITION: one} for one in _objects(frame, child)]
                if kind is dict or kind is list or (kind is str and child[:1] in _MAY_BE_JSON):
                    below.append((child, name in _LISTS))
            if widget:
                into.widgets.append(value)
        elif type(value) is list:
            frame.charge(1 + len(value) // 4)
            below = [(item, listed) for item in value if type(item) in (dict, list, str)]
        elif type(value) is str:
            read = _read(frame, value)
            if read is not None:
                below.append((read, listed))
        below.reverse()
        pending += below


def _objects(frame: Frame, value: Any) -> list[Any]:
    """The objects that a definition may be: itself, those in a list, and those in JSON inside a string."""
    if type(value) is str:
        value = _read(frame, value)
    return [one for one in (value if type(value) is list else [value]) if type(one) is dict]


def _read(frame: Frame, text: str) -> Any:
    """The object or list that a string holds as JSON; None for other text. FactUnreadable where parsers may differ
    about what it holds: an upstream might find there what is not found here."""
    if text[:1] not in _MAY_BE_JSON:
        return None
    frame.charge(len(text) // TEXT_PER_STEP)
    if text.lstrip()[:1] not in ("{", "["):
        return None
    frame.charge(5 + len(text) * 8 // TEXT_PER_STEP)
    try:
        return strict_json.parse(text, folded=True)
    except strict_json.NotJsonError:
        return None
    except strict_json.StrictJsonError as error:
        raise FactUnreadable(f"as JSON in a string: {error}") from None


def _folded(frame: Frame, name: str) -> str:
    if len(name) > FOLDED_PER_STEP:
        frame.charge(len(name) // FOLDED_PER_STEP)
    return name.casefold()


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
        (Overload(None, (DYN, STRING), list_of(DYN)), Overload(None, (DYN, list_of(STRING)), list_of(DYN))),
        find,
        "the values of every member of that name, or of one of several, at any depth, whatever its letter case",
    ),
}
"""What policies may call."""
