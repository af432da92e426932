"""`METHOD PATH` patterns, compiled to a tree, so that the number of scopes hardly costs a request anything.

`*` is any method. In the path, `{name}` is one segment that is not empty, and `**`, at the end only, is the rest, also
an empty one: `/api/**` fits `/api/` and `/api/v1/x`, not `/api`. All else is compared as sent, byte for byte: letter
case, a final slash, `;parameters` and percent-encoding make a difference; text beyond ASCII stands for its
percent-encoding. A path that is not plain (see `paths`) fits nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ext_proc.errors import ConfigError
from ext_proc.rules.paths import encoded, folded, is_plain

_METHOD = re.compile(r"\*|[A-Z]+(?:-[A-Z]+)*")
_LITERAL = re.compile(r"[^{}*?#\x00-\x20\x7f\\]+")
_PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")


class _Node:
    __slots__ = ("end", "literals", "parameter", "rest")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.end: list[tuple[str, int]] = []
        self.rest: list[tuple[str, int]] = []


class Scopes:
    """Which of a set of named patterns a request fits. ConfigError `config.scope` where a pattern is malformed."""

    def __init__(self, scopes: Mapping[str, Sequence[str]], *, place: str = "scopes") -> None:
        """`place` is where they stand in douane.yaml, for messages."""
        self._names = tuple(scopes)
        self._exact = _Node()
        self._folded = _Node()
        for n, (name, requests) in enumerate(scopes.items()):
            for request in requests:
                method, segments = parse(request, f"{place}.{name}")
                _insert(self._exact, segments, method, n)
                _insert(self._folded, _fold(segments), method, n)

    def matching(self, method: str, path: str) -> tuple[str, ...]:
        """The names that fit the request exactly as sent, in the order of the configuration. For allowing."""
        if not is_plain(path):
            return ()
        return self._found(_walk(self._exact, path.split("/")[1:], method))

    def resembling(self, method: str, path: str) -> tuple[str, ...]:
        """The names that some server could find in the request: never fewer than `matching`. For denying."""
        if not is_plain(path):
            return self._names
        exact = _walk(self._exact, path.split("/")[1:], method.upper())
        return self._found({*exact, *_walk(self._folded, folded(path), method.upper(), lenient=True)})

    def _found(self, found: Iterator[int] | set[int]) -> tuple[str, ...]:
        return tuple(self._names[n] for n in sorted(set(found)))


def parse(request: str, place: str) -> tuple[str, list[str]]:
    """`METHOD PATH` as (method, segments), a segment being text, `{}` or `**`; ConfigError `config.scope` otherwise."""
    method, space, path = request.partition(" ")
    if not space or not _METHOD.fullmatch(method) or not path.startswith("/"):
        raise _malformed(place, request, "it is not `METHOD PATH`, such as 'GET /api/v1/{id}'")
    segments = path.split("/")[1:]
    parsed = []
    for n, segment in enumerate(segments):
        last = n == len(segments) - 1
        if segment == "**" and last:
            parsed.append("**")
        elif _PARAMETER.fullmatch(segment):
            parsed.append("{}")
        elif segment in (".", "..") or not (_LITERAL.fullmatch(segment) or (not segment and last)):
            raise _malformed(place, request, f"the segment {segment!r} is neither text nor {{name}}; ** ends a path")
        else:
            parsed.append(encoded(segment))
    if not is_plain("/" + "/".join("x" if s in ("{}", "**") else s for s in parsed)):
        raise _malformed(place, request, "no request can fit it: its path could be read in several ways")
    return method, parsed


def _malformed(place: str, request: str, why: str) -> ConfigError:
    return ConfigError("config.scope", f"{place}: {request!r} is malformed: {why}", remedy="Correct the pattern.")


def _fold(segments: list[str]) -> list[str]:
    """A pattern's segments as `folded` would give them, its placeholders kept."""
    result: list[str] = []
    for segment in segments:
        result += [segment] if segment in ("{}", "**") else folded(f"/{segment}")
    return result


def _insert(node: _Node, segments: list[str], method: str, n: int) -> None:
    for segment in segments:
        if segment == "**":
            node.rest.append((method, n))
            return
        if segment == "{}":
            node.parameter = node.parameter or _Node()
            node = node.parameter
        else:
            node = node.literals.setdefault(segment, _Node())
    node.end.append((method, n))


def _walk(root: _Node, segments: list[str], method: str, *, lenient: bool = False) -> Iterator[int]:
    """The indexes of the patterns that fit; `lenient`: also without a final slash. Work: segments times patterns."""
    nodes = [root]
    for segment in segments:
        below = []
        for node in nodes:
            yield from (i for m, i in node.rest if m in ("*", method))
            if segment in node.literals:
                below.append(node.literals[segment])
            if segment and node.parameter is not None:
                below.append(node.parameter)
        nodes = below
    for node in nodes:
        ends = node.end + node.rest if lenient else node.end
        yield from (i for m, i in ends if m in ("*", method))
