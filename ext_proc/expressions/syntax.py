"""The syntax tree. Nodes are frozen; `at` and `end` are offsets of their text in the source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Node:
    at: int
    end: int

    def children(self) -> tuple[Node, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Literal(Node):
    value: Any


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A name that nothing has resolved yet: a root, a macro's variable or a type. `absolute`: it began with a dot."""

    name: str
    absolute: bool = False


@dataclass(frozen=True, slots=True)
class Fact(Node):
    """A resolved path into the schema, such as `request.json`."""

    path: str


@dataclass(frozen=True, slots=True)
class Variable(Node):
    """A resolved variable of a macro; `slot` is its place in the frame."""

    name: str
    slot: int


@dataclass(frozen=True, slots=True)
class Select(Node):
    """`operand.field`; with `test`, `has(operand.field)`."""

    operand: Node
    field: str
    test: bool = False

    def children(self) -> tuple[Node, ...]:
        return (self.operand,)


@dataclass(frozen=True, slots=True)
class Index(Node):
    operand: Node
    key: Node

    def children(self) -> tuple[Node, ...]:
        return (self.operand, self.key)


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`name(arguments)` or `target.name(arguments)`."""

    name: str
    target: Node | None
    arguments: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        return self.arguments if self.target is None else (self.target, *self.arguments)


@dataclass(frozen=True, slots=True)
class Unary(Node):
    operator: str
    operand: Node

    def children(self) -> tuple[Node, ...]:
        return (self.operand,)


@dataclass(frozen=True, slots=True)
class Binary(Node):
    operator: str
    left: Node
    right: Node

    def children(self) -> tuple[Node, ...]:
        return (self.left, self.right)


@dataclass(frozen=True, slots=True)
class Conditional(Node):
    condition: Node
    then: Node
    otherwise: Node

    def children(self) -> tuple[Node, ...]:
        return (self.condition, self.then, self.otherwise)


@dataclass(frozen=True, slots=True)
class ListOf(Node):
    items: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        return self.items


@dataclass(frozen=True, slots=True)
class MapOf(Node):
    entries: tuple[tuple[Node, Node], ...]

    def children(self) -> tuple[Node, ...]:
        return tuple(node for entry in self.entries for node in entry)


@dataclass(frozen=True, slots=True)
class Macro(Node):
    """`range.kind(variable, body)`; `map` with three arguments has a `guard` as well."""

    kind: str
    range: Node
    variable: str
    body: Node
    guard: Node | None = None
    slot: int = -1

    def children(self) -> tuple[Node, ...]:
        return (self.range, self.body) if self.guard is None else (self.range, self.guard, self.body)


def walk(root: Node) -> Iterator[tuple[Node, int]]:
    """Every node below and including `root` with its depth (the root's is 1), without recursion."""
    pending = [(root, 1)]
    while pending:
        node, depth = pending.pop()
        yield node, depth
        pending.extend((child, depth + 1) for child in node.children())
