"""ClickHouse's own syntax tree, read from what EXPLAIN AST prints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ext_proc.hub.store.faults import denied

_LINE = re.compile(r"^( *)(.*?)(?: \(children (\d+)\))?$")
_ALIAS = re.compile(r" \(alias .*\)$")


@dataclass(slots=True)
class Node:
    """One line of EXPLAIN AST: `Function file (alias x) (children 1)` is kind `Function`, text `file`."""

    kind: str
    text: str
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[tuple[Node, Node | None]]:
        """Every node with its parent, from the root down."""
        stack: list[tuple[Node, Node | None]] = [(self, None)]
        while stack:
            node, parent = stack.pop()
            yield node, parent
            stack.extend((child, node) for child in reversed(node.children))


def parse(printed: str) -> Node:
    """The tree. QueryError ACCESS_DENIED when the numbers of children do not add up: then a name holds a line break,
    and what is printed cannot be trusted."""
    roots: list[Node] = []
    open_nodes: list[tuple[Node, int]] = []
    for line in printed.rstrip("\n").split("\n"):
        found = _LINE.match(line)
        if found is None or not found[2]:
            raise denied("The query cannot be inspected")
        depth = len(found[1])
        while len(open_nodes) > depth:
            _complete(open_nodes.pop())
        if depth != len(open_nodes):
            raise denied("The query cannot be inspected")
        kind, _, text = _ALIAS.sub("", found[2]).partition(" ")
        node = Node(kind, text.strip())
        (open_nodes[-1][0].children if open_nodes else roots).append(node)
        open_nodes.append((node, int(found[3] or 0)))
    while open_nodes:
        _complete(open_nodes.pop())
    if len(roots) != 1:
        raise denied("The query cannot be inspected")
    return roots[0]


def _complete(opened: tuple[Node, int]) -> None:
    node, announced = opened
    if len(node.children) != announced:
        raise denied("The query cannot be inspected")
