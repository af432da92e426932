"""Conditions of grants: CEL over `claims`, compiled at load, where all that can be known to be wrong is refused.

The engine is the Rust one behind `common-expression-language`; it implements the core of
https://github.com/google/cel-spec and no more, so unknown functions are refused here by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ext_proc.errors import ConfigError
from ext_proc.rules.engine import cel

ROOT = "claims"
MAX_LENGTH = 4096
MAX_NESTED = 2
"""Macros within macros; three levels over lists that a token can hold would take minutes."""

_TYPES = frozenset({"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"})
_FUNCTIONS = frozenset(
    {"size", "contains", "startsWith", "endsWith", "matches", "int", "uint", "double", "string", "bytes", "dyn", "type"}
    | {"timestamp", "duration", "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"}
    | {"getHours", "getMinutes", "getSeconds", "getMilliseconds"}
)
_MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "filter", "map"})
_WORDS = frozenset({"true", "false", "null", "in"})
_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*)
      | (?i:[rb]{0,2})(?P<string>\"{3}(?s:.*?)\"{3}|'{3}(?s:.*?)'{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>\d[\w.]*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<mark>\S)
    """,
    re.VERBOSE,
)


class ConditionError(Exception):
    """The condition could not be evaluated for these claims, or gave no boolean."""


@dataclass(frozen=True, slots=True)
class Condition:
    source: str
    _program: Any = field(repr=False)

    def holds(self, facts: Facts) -> bool:
        """Whether it is true of these claims. ConditionError where it cannot be said: a claim is missing, say."""
        try:
            result = self._program.execute(facts.context)
        except Exception as error:
            raise ConditionError(f"{type(error).__name__}: {str(error)[:200]}") from None
        if not isinstance(result, bool):
            raise ConditionError(f"it gave a {type(result).__name__}, not true or false")
        return result


class Facts:
    """Claims in the engine's own form; converting them costs a hundred times an evaluation."""

    __slots__ = ("context",)

    def __init__(self, claims: Mapping[str, Any]) -> None:
        self.context = cel.Context({ROOT: dict(claims)})


def compile_condition(source: str, place: str) -> Condition:
    """Compile a grant's `if`. ConfigError `config.condition`, beginning with `place`, where it can never work."""
    if len(source) > MAX_LENGTH:
        raise _refused(place, f"is longer than {MAX_LENGTH} characters", "Split the grant.")
    try:
        program = cel.compile(source)
    except ValueError as error:
        said = str(error).partition("ERROR: ")[2].partition("\n")[0].removeprefix("<input>:")
        raise _refused(place, f"is not CEL ({said or error})", "Correct the expression.") from None
    references = program.references()
    unknown = sorted(f for f in references["functions"] if f.isidentifier() and f not in _FUNCTIONS and f[0] != "_")
    if unknown:
        known = ", ".join(sorted(_FUNCTIONS | _MACROS | {"has"}))
        raise _refused(place, f"calls {unknown[0]}(), which does not exist", f"Known: {known}.")
    free, bound, nested = _names(source)
    strange = sorted(free | (set(references["variables"]) - bound - _TYPES - {ROOT}))
    if strange:
        raise _refused(place, f"names {strange[0]!r}, which is unknown", f"Only `{ROOT}` is known: {ROOT}.ref, say.")
    if nested > MAX_NESTED:
        raise _refused(place, f"nests more than {MAX_NESTED} macros", "Use fewer exists/all/map/filter within another.")
    _refuse_constants(program, place, constant=ROOT not in references["variables"])
    return Condition(source, program)


def _refuse_constants(program: Any, place: str, *, constant: bool) -> None:
    """Evaluate without any claims: what still has a value has it for every caller."""
    try:
        result = program.execute(cel.Context({}))
    except Exception as error:
        if constant:
            raise _refused(place, f"fails for every caller ({type(error).__name__})", "Correct it.") from None
        return
    if result is False:
        raise _refused(place, "is false for every caller", "Correct it, or remove the grant.")
    if result is not True:
        raise _refused(place, f"gives a {type(result).__name__}, not true or false", "Compare it with something.")


def _names(source: str) -> tuple[set[str], set[str], int]:
    """(names used but not bound where they stand, names bound by a macro, deepest nesting of macros).

    The engine lists a macro's own variable among the references, whether or not it is bound at each place.
    """
    tokens = [m for m in _TOKEN.finditer(source) if m.lastgroup != "comment"]
    words = [m["name"] or m["mark"] or "" for m in tokens]
    free: set[str] = set()
    bound: set[str] = set()
    deepest = 0
    scopes: list[str | None] = []
    for n, match in enumerate(tokens):
        word, before = words[n], words[n - 1] if n else ""
        after = words[n + 1] if n + 1 < len(words) else ""
        if word == "(" and before in _MACROS and n > 1 and words[n - 2] == "." and words[n + 2 : n + 3] == [","]:
            scopes.append(after)
            bound.add(after)
            deepest = max(deepest, sum(s is not None for s in scopes))
        elif word == "(":
            scopes.append(None)
        elif word == ")" and scopes:
            scopes.pop()
        elif match["name"] and before != "." and after != "(" and word not in _WORDS | _TYPES | {ROOT, *scopes}:
            free.add(word)
    return free, bound, deepest


def _refused(place: str, message: str, remedy: str) -> ConfigError:
    return ConfigError("config.condition", f"{place}: the condition {message}", remedy=remedy)
