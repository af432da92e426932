"""The subset of JSON paths (RFC 9535) that douane.yaml uses: `$`, `.name`, `['name']`, `[3]`, `[*]`, `.*` and `..`.

One pass over the document, each value visited once whatever the path, without recursion: a hostile body costs time in
proportion to its size. Member names are compared without regard to case, as Go's encoding/json reads them: a rule on
`type` must see `Type` too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Location = tuple[str | int, ...]
"""Member names and array indexes from the root down."""

MAX_STEPS = 32

_STEP = re.compile(
    r"""(?P<dots>\.\.?)(?P<name>[^\W\d][\w-]*|\*)
      | (?P<deep>\.\.)?\[(?:(?P<index>0|[1-9][0-9]{0,8})|(?P<any>\*)|'(?P<single>[^'\\]*)'|"(?P<double>[^"\\]*)")\]
    """,
    re.VERBOSE,
)


class JsonPathError(ValueError):
    """A path that is not in the subset; the message says where."""


@dataclass(frozen=True, slots=True)
class Step:
    """A member `name` (case-folded), an `index`, or any child where both are None; at any depth if `descend`."""

    descend: bool
    name: str | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True)
class JsonPath:
    text: str
    steps: tuple[Step, ...]

    def find(self, document: Any) -> Iterator[tuple[Location, Any]]:
        """Every (location, value) the path names in `document` (Python's JSON values), each once, in any order."""
        final = 1 << len(self.steps)
        if final == 1:
            yield (), document
            return
        plans: dict[int, _Plan] = {}
        # An entry holds the set of steps (as bits) that a container's children may take next.
        pending: list[tuple[Any, Any, int]] = [(document, None, 1)]
        while pending:
            value, trail, state = pending.pop()
            plan = plans.get(state)
            if plan is None:
                plan = plans[state] = _plan(self.steps, state)
            children: Any
            if type(value) is dict:
                children, named, folded = value.items(), plan.names, True
            elif type(value) is list:
                children, named, folded = enumerate(value), plan.indexes, False
            else:
                continue
            for key, child in children:
                after = plan.always | named.get(key.casefold() if folded else key, 0)
                if after & final:
                    yield _location((trail, key)), child
                    after &= ~final
                if after and type(child) in (dict, list):
                    pending.append((child, (trail, key), after))


@dataclass(slots=True)
class _Plan:
    """What a child's state is: `always`, and what its name or index adds."""

    always: int
    names: dict[Any, int]
    indexes: dict[Any, int]


def _plan(steps: tuple[Step, ...], state: int) -> _Plan:
    plan = _Plan(0, {}, {})
    for n, step in enumerate(steps):
        if not state >> n & 1:
            continue
        if step.descend:
            plan.always |= 1 << n
        reached = 1 << (n + 1)
        if step.name is not None:
            plan.names[step.name] = plan.names.get(step.name, 0) | reached
        elif step.index is not None:
            plan.indexes[step.index] = plan.indexes.get(step.index, 0) | reached
        else:
            plan.always |= reached
    return plan


def _location(trail: Any) -> Location:
    keys = []
    while trail is not None:
        trail, key = trail
        keys.append(key)
    return tuple(reversed(keys))


def parse(text: str) -> JsonPath:
    """Compile a path; JsonPathError says at which character it stops being one."""
    if not text.startswith("$"):
        raise JsonPathError("a JSON path begins with $")
    steps: list[Step] = []
    at = 1
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise JsonPathError(
                f"{text[at : at + 20]!r} at character {at + 1} is not understood; "
                "write .name, ['name'], [3], [*] or ..name"
            )
        quoted = match["double"] if match["single"] is None else match["single"]
        name = quoted if match["name"] in (None, "*") else match["name"]
        steps.append(
            Step(
                descend=match["dots"] == ".." or match["deep"] is not None,
                name=None if name is None else name.casefold(),
                index=None if match["index"] is None else int(match["index"]),
            )
        )
        at = match.end()
    if len(steps) > MAX_STEPS:
        raise JsonPathError(f"a JSON path has at most {MAX_STEPS} steps")
    return JsonPath(text, tuple(steps))
