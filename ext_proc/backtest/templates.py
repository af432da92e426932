"""Paths grouped into templates: `/api/v1/dashboard/abc-def-ghi` and its siblings become `/api/v1/dashboard/{id}`.

A tree of segments. What is an identifier by its form goes under one branch at once, so that memory grows with the
words of an API and not with what it holds. Then, where very many words stand side by side and lead to the same things,
they are taken for names. Doubt is decided for the narrower template: one more line, rather than one more right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ext_proc.backtest.identifiers import is_identifier, is_named, is_telling, shape

PARAMETER = "{}"
MANY_WORDS = 32
"""So many words at one place that lead to the same things are names: an API has 20 kinds of usage report, not 32."""
MANY_NAMES = 8
"""The same for words with capitals, digits or dots, as people write names."""
MOST_WORDS = 1000
"""A place with more words than this is one of names whatever they lead to: memory is bounded."""
MOST_SEGMENTS = 64
"""A longer path is no API's; it is left out, and `skipped` counts it."""
_MOST_SHOWN = 3
_NO_NAME = re.compile(r"[^a-z0-9]+")


@dataclass(slots=True)
class Use:
    """How often, and when last (ISO 8601, UTC; times compare as text)."""

    count: int = 0
    last: str = ""

    def add(self, count: int, last: str) -> None:
        self.count += count
        self.last = max(self.last, last)


@dataclass(frozen=True, slots=True)
class Template:
    """`GET /api/v1/monitor/{monitor_id}`, or an operation of the connection's document that was used. `words` are some
    literal segments that it covers beside identifiers."""

    method: str
    segments: tuple[str, ...]
    use: Use
    words: tuple[str, ...] = ()
    operation: str = ""

    @property
    def request(self) -> str:
        """As `scopes` in douane.yaml have it, each parameter named after what stands before it."""
        if self.operation:
            return f"operation {self.operation}"
        names = []
        for n, segment in enumerate(self.segments):
            names.append(f"{{{_named_after(self.segments[n - 1] if n else '')}}}" if segment == PARAMETER else segment)
        return f"{self.method} /{'/'.join(names)}"


@dataclass(slots=True)
class _Node:
    below: dict[str, _Node] = field(default_factory=dict)
    uses: dict[str, Use] = field(default_factory=dict)
    shapes: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)

    def child(self, segment: str) -> _Node:
        if segment != PARAMETER and is_identifier(segment):
            if len(self.shapes) < MOST_WORDS:
                self.shapes.add(shape(segment))
            segment = PARAMETER
        found = self.below.get(segment)
        if found is None:
            if len(self.below) > MOST_WORDS:
                self.join(word for word in list(self.below) if word not in (PARAMETER, ""))
                return self.child(PARAMETER) if segment else self.below.setdefault(segment, _Node())
            found = self.below[segment] = _Node()
        return found

    def join(self, words: Iterator[str]) -> None:
        """Take these children for names: from here on they are one."""
        names = self.below.setdefault(PARAMETER, _Node())
        for word in words:
            names.take(self.below.pop(word))
            if len(names.words) < _MOST_SHOWN:
                names.words.add(word)

    def take(self, other: _Node) -> None:
        for method, use in other.uses.items():
            self.uses.setdefault(method, Use()).add(use.count, use.last)
        for segment, node in other.below.items():
            self.below.setdefault(segment, _Node()).take(node)
        self.shapes |= other.shapes

    def signature(self) -> frozenset[tuple[str, str]]:
        """What can be done here and below, as (method, path from here on)."""
        here = {(method, "") for method in self.uses}
        below = {(m, f"/{segment}{rest}") for segment, node in self.below.items() for m, rest in node.signature()}
        return frozenset(here | below)


class Templates:
    """Collects the requests of one connection; `found` groups them."""

    def __init__(self) -> None:
        self._root = _Node()
        self.skipped = 0

    def add(self, method: str, path: str, count: int = 1, last: str = "") -> None:
        """`path` begins with a slash and has no query."""
        if path.count("/") > MOST_SEGMENTS:
            self.skipped += count
            return
        node = self._root
        for segment in path.split("/")[1:]:
            node = node.child(segment)
        node.uses.setdefault(method, Use()).add(count, last)

    def found(self) -> list[Template]:
        """The templates, by path and method. Together they cover all that was added. Ends the collecting."""
        _group(self._root)
        return sorted(_templates(self._root, ()), key=lambda t: (t.segments, t.method))


def _group(node: _Node) -> None:
    """Join names with each other and with the identifiers beside them, from the top, so that what is joined is grouped
    as one."""
    telling = {form for form in node.shapes if is_telling(form)}
    alike = [word for word in node.below if word not in (PARAMETER, "") and shape(word) in telling]
    if alike:
        node.join(iter(alike))
    groups: dict[frozenset[tuple[str, str]], list[str]] = {}
    for word, child in node.below.items():
        if word not in (PARAMETER, ""):
            groups.setdefault(child.signature(), []).append(word)
    for words in groups.values():
        if len(words) >= MANY_WORDS or sum(map(is_named, words)) >= MANY_NAMES:
            node.join(iter(words))
    for child in node.below.values():
        _group(child)


def _templates(node: _Node, above: tuple[str, ...]) -> Iterator[Template]:
    parameter = node.below.get(PARAMETER)
    folded: dict[str, list[str]] = {}
    for segment, child in node.below.items():
        if segment not in (PARAMETER, "") and parameter is not None:
            _fold(child, parameter, segment, folded)
    for method, use in node.uses.items():
        yield Template(method, above, use)
    for segment, child in node.below.items():
        for template in _templates(child, (*above, segment)):
            words = folded.get(f"{template.method} {'/'.join(template.segments[len(above) + 1 :])}", ())
            if segment == PARAMETER and words:
                shown = tuple(sorted({*words, *template.words}))[:_MOST_SHOWN]
                template = Template(template.method, template.segments, template.use, shown)
            yield template


def _fold(child: _Node, parameter: _Node, word: str, folded: dict[str, list[str]], rest: str = "") -> None:
    """What `{id}` beside a word allows needs no line of its own: it would be read as if it did."""
    for method in [m for m in child.uses if m in parameter.uses]:
        use = child.uses.pop(method)
        parameter.uses[method].add(use.count, use.last)
        folded.setdefault(f"{method} {rest}", []).append(word)
    for segment, node in child.below.items():
        twin = parameter.below.get(segment)
        if twin is not None:
            _fold(node, twin, word, folded, f"{rest}/{segment}".lstrip("/"))


def _named_after(segment: str) -> str:
    """`monitors` gives `monitor_id`, `custom-variables` gives `custom_variable_id`."""
    name = _NO_NAME.sub("_", segment.lower()).strip("_")
    if not name or segment == PARAMETER or name[0].isdigit():
        return "id"
    if name.endswith("ies"):
        name = f"{name[:-3]}y"
    elif name.endswith(("xes", "ches", "shes", "sses")):
        name = name[:-2]
    elif len(name) > 3 and name.endswith("s") and not name.endswith(("ss", "us", "is")):
        name = name[:-1]
    return f"{name}_id"
