"""YAML 1.2 text as plain data, with the place of every key and value.

The composed node tree of ruamel.yaml is walked once. Duplicate keys, keys that are not text, unknown tags and
documents that expand beyond reason are refused here, because no later step could see them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ext_proc.errors import ConfigError

YamlPath = tuple[str | int, ...]

MAX_NODES = 100_000  # aliases may expand exponentially; a configuration is far smaller
_TIMESTAMP = "tag:yaml.org,2002:timestamp"  # not in YAML 1.2's core schema: text, as it was written


@dataclass(frozen=True, slots=True)
class Positions:
    """Where in `origin` each YAML path stands. Lines and columns count from 1."""

    origin: str
    keys: dict[YamlPath, tuple[int, int]] = field(default_factory=dict)
    values: dict[YamlPath, tuple[int, int]] = field(default_factory=dict)
    over: tuple[Positions, frozenset[str]] | None = None
    """Those of another file, and the top-level keys that are from there."""

    def under(self, over: Positions, names: frozenset[str]) -> Positions:
        """These, but for the top-level keys `names`, which `over` has."""
        keys = {path: mark for path, mark in self.keys.items() if path[0] not in names}
        values = {path: mark for path, mark in self.values.items() if not path or path[0] not in names}
        return Positions(self.origin, keys | over.keys, values | over.values, (over, names))

    def where(self, path: YamlPath) -> str:
        """`file:line:column` of the path's key, or of the nearest thing around it that is written down."""
        if self.over is not None and path and path[0] in self.over[1]:
            return self.over[0].where(path)
        while path:
            mark = self.keys.get(path) or self.values.get(path)
            if mark:
                return f"{self.origin}:{mark[0]}:{mark[1]}"
            path = path[:-1]
        return f"{self.origin}:1:1"

    def where_value(self, path: YamlPath) -> str:
        """As `where`, but of the value."""
        if self.over is not None and path and path[0] in self.over[1]:
            return self.over[0].where_value(path)
        mark = self.values.get(path)
        return f"{self.origin}:{mark[0]}:{mark[1]}" if mark else self.where(path)


def show(path: YamlPath) -> str:
    """`connections.datadog.credentials[0].from`."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else (f".{part}" if out else part)
    return out


def read(text: str, origin: str) -> tuple[Any, Positions]:
    """The document's data (dict, list, str, int, float, bool, None) and its positions; ConfigError otherwise."""
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{origin}:{mark.line + 1}:{mark.column + 1}" if mark else origin
        said = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError("config.syntax", f"not YAML: {said}", where=where, remedy=_hint(text)) from None
    except YAMLError as error:
        said = " ".join(str(error).split())
        raise ConfigError("config.syntax", f"not YAML: {said}", where=origin) from None
    except RecursionError:
        raise ConfigError("config.syntax", "nested too deeply", where=origin) from None
    positions = Positions(origin)
    return _Walk(yaml, positions).value(root, ()), positions


def _hint(text: str) -> str:
    if "\t" in text:
        return "YAML is indented with spaces; there is a tab in the file."
    return "Check the indentation and quotes on this line and the one above."


class _Walk:
    def __init__(self, yaml: YAML, positions: Positions) -> None:
        self._yaml = yaml
        self._positions = positions
        self._nodes = 0
        self._open: set[int] = set()

    def value(self, node: Node | None, path: YamlPath) -> Any:
        if node is None:
            return None
        self._nodes += 1
        self._positions.values.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        if self._nodes > MAX_NODES or id(node) in self._open:
            raise self._refuse(path, "config.syntax", "the document's aliases expand without bound", "Write it out.")
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        self._open.add(id(node))
        try:
            if isinstance(node, SequenceNode):
                return [self.value(item, (*path, n)) for n, item in enumerate(node.value)]
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
        except RecursionError:
            raise self._refuse((), "config.syntax", "nested too deeply", "") from None
        finally:
            self._open.discard(id(node))
        raise self._refuse(path, "config.syntax", f"a {node.tag} node has no place here", "")

    def _mapping(self, node: MappingNode, path: YamlPath) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node, path) if isinstance(key_node, ScalarNode) else None
            mark = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key, str):
                raise ConfigError(
                    "config.key",
                    f"{_under(path)}a key must be text",
                    where=f"{self._positions.origin}:{mark[0]}:{mark[1]}",
                    remedy="Put it in quotes.",
                )
            if key in out:
                first = self._positions.keys[(*path, key)][0]
                raise ConfigError(
                    "config.duplicate_key",
                    f"{show((*path, key))}: written twice, first on line {first}",
                    where=f"{self._positions.origin}:{mark[0]}:{mark[1]}",
                    remedy="Keep one of them.",
                )
            self._positions.keys.setdefault((*path, key), mark)
            out[key] = self.value(value_node, (*path, key))
        return out

    def _scalar(self, node: ScalarNode, path: YamlPath) -> Any:
        if node.tag == _TIMESTAMP:
            return node.value
        if not str(node.tag).startswith("tag:yaml.org,2002:"):
            raise self._refuse(path, "config.syntax", f"the tag {node.tag} is not allowed", "Leave the tag out.")
        try:
            return self._yaml.constructor.construct_object(node)
        except (YAMLError, ValueError) as error:
            said = getattr(error, "problem", None) or error
            raise self._refuse(path, "config.syntax", f"cannot be read: {said}", "Put it in quotes.") from None

    def _refuse(self, path: YamlPath, reason: str, message: str, remedy: str) -> ConfigError:
        return ConfigError(reason, f"{_under(path)}{message}", where=self._positions.where_value(path), remedy=remedy)


def _under(path: YamlPath) -> str:
    return f"{show(path)}: " if path else ""
