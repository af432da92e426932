"""OpenAPI 3 documents, read for one thing: which `METHOD PATH` is which operation.

Published documents have megabytes of YAML, which takes a general parser half a minute; see `outline`.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ext_proc.config.outline import outline
from ext_proc.errors import ConfigError

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

MAX_BYTES = 32 << 20
MAX_PATTERNS = 50_000
"""`METHOD PATH`s; Microsoft Graph has some 15,000. Each server of a document multiplies them."""
_MAX_MERGED = 1_000_000
"""Pairs that YAML's merge keys may add up to: they multiply from mapping to mapping."""
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_:./-]{0,199}")


def operations(path: Path) -> dict[str, tuple[str, ...]]:
    """operationId -> its `METHOD PATH` patterns, base paths of the servers included. ConfigError otherwise."""
    try:
        status = path.stat()
        return _read(path, status.st_mtime_ns, status.st_size, stat.S_ISREG(status.st_mode))
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigError("config.missing_file", f"{path} cannot be read: {why}", remedy="Correct the path.") from None


@lru_cache(maxsize=8)
def _read(path: Path, _mtime: int, _size: int, regular: bool) -> dict[str, tuple[str, ...]]:
    if not regular and not path.is_dir():  # a device or a pipe may have no end; a folder says so itself
        raise _refused(path, "is no regular file")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise _refused(path, f"is larger than {MAX_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _refused(path, "is not UTF-8") from None
    document = _json(text) if text.lstrip().startswith("{") else outline(text) or _yaml(text, path)
    if document is None or not str(document.get("openapi", "")).startswith("3."):
        raise _refused(path, "is no OpenAPI 3 document")
    found: dict[str, dict[str, None]] = {}
    for n, (name, request) in enumerate(_operations(document)):
        if n >= MAX_PATTERNS:
            raise _refused(path, f"has more than {MAX_PATTERNS} paths, counted for each of its servers")
        found.setdefault(name, {})[request] = None
    if not found:
        raise _refused(path, "names no operation")
    return {name: tuple(requests) for name, requests in found.items()}


def _refused(path: Path, why: str) -> ConfigError:
    return ConfigError(
        "config.openapi", f"{path} {why}", remedy="Name an OpenAPI 3 document whose operations have an operationId."
    )


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    bases = _bases(document) or [""]
    paths = document.get("paths")
    for path, item in paths.items() if isinstance(paths, dict) else ():
        if not isinstance(item, dict) or not isinstance(path, str) or not path.startswith("/"):
            continue
        of_path = _bases(item) or bases
        for method, operation in item.items():
            if method in _METHODS and isinstance(operation, dict):
                name = operation.get("operationId")
                if isinstance(name, str) and _NAME.fullmatch(name):
                    for base in _bases(operation) or of_path:
                        pattern = _pattern(base + path)
                        if pattern is not None:
                            yield name, f"{method.upper()} {pattern}"


def _bases(item: dict[str, Any]) -> list[str]:
    """The path parts of an item's `servers`, each once."""
    servers = item.get("servers")
    entries = servers if isinstance(servers, list) else []
    urls = [s["url"] for s in entries if isinstance(s, dict) and isinstance(s.get("url"), str)]
    bases = []
    for url in urls:
        plain = re.sub(r"\{[^{}]*\}", "{x}", url)
        try:
            rest = urlsplit(plain.replace("{", "%7B").replace("}", "%7D")).path.replace("%7B", "{").replace("%7D", "}")
        except ValueError:  # no URL, so no server that its operations could be at
            continue
        bases.append(rest.rstrip("/") if rest.startswith("/") else "")
    return list(dict.fromkeys(bases))


def _pattern(path: str) -> str | None:
    """A templated path as scopes write it: a segment with a template in it is any one. None for what has none."""
    if any(c in path for c in "?#*\\ "):
        return None
    segments = path.split("/")[1:]
    return "/" + "/".join(f"{{p{n}}}" if "{" in s else s for n, s in enumerate(segments))


def _json(text: str) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _yaml(text: str, path: Path) -> dict[str, Any] | None:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe")
    try:
        if "<<" in text and _merged(yaml.compose(text)) > _MAX_MERGED:
            raise _refused(path, "has merge keys (<<) that expand beyond reason")
        document = yaml.load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise _refused(path, f"is no YAML ({str(error).splitlines()[0][:80]})") from None
    return document if isinstance(document, dict) else None


def _merged(root: Node | None) -> int:
    """How many pairs the largest mapping has once its merge keys are replaced by what they stand for."""
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    sizes: dict[int, int] = {}

    def pairs(node: Node) -> int:
        if isinstance(node, SequenceNode):
            return sum(pairs(item) for item in node.value)
        if not isinstance(node, MappingNode):
            return 0
        if id(node) not in sizes:
            sizes[id(node)] = _MAX_MERGED + 1  # for one that merges itself
            sizes[id(node)] = sum(pairs(value) if key.value == "<<" else 1 for key, value in node.value)
        return sizes[id(node)]

    todo, seen, largest = [root], set[int](), 0
    while todo:
        node = todo.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            largest = max(largest, pairs(node))
            todo += [part for pair in node.value for part in pair]
        elif isinstance(node, SequenceNode):
            todo += node.value
    return largest
