"""OpenAPI 3 documents, read for one thing: which `METHOD PATH` is which operation.

Published documents have megabytes of YAML, which takes a general parser half a minute; see `outline`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ext_proc.config.outline import outline
from ext_proc.errors import ConfigError

MAX_BYTES = 32 << 20
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_:./-]{0,199}")


def operations(path: Path) -> dict[str, tuple[str, ...]]:
    """operationId -> its `METHOD PATH` patterns, base paths of the servers included. ConfigError otherwise."""
    try:
        status = path.stat()
        return _read(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigError("config.missing_file", f"{path} cannot be read: {why}", remedy="Correct the path.") from None


@lru_cache(maxsize=8)
def _read(path: Path, _mtime: int, size: int) -> dict[str, tuple[str, ...]]:
    if size > MAX_BYTES:
        raise _refused(path, f"is larger than {MAX_BYTES >> 20} MiB")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise _refused(path, "is not UTF-8") from None
    document = _json(text) if text.lstrip().startswith("{") else outline(text) or _yaml(text, path)
    if document is None or not str(document.get("openapi", "")).startswith("3."):
        raise _refused(path, "is no OpenAPI 3 document")
    found: dict[str, dict[str, None]] = {}
    for name, request in _operations(document):
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
    urls = [s["url"] for s in servers if isinstance(s, dict) and isinstance(s.get("url"), str)] if servers else []
    bases = []
    for url in urls:
        plain = re.sub(r"\{[^{}]*\}", "{x}", url)
        rest = urlsplit(plain.replace("{", "%7B").replace("}", "%7D")).path.replace("%7B", "{").replace("%7D", "}")
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

    try:
        document = YAML(typ="safe").load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise _refused(path, f"is no YAML ({str(error).splitlines()[0][:80]})") from None
    return document if isinstance(document, dict) else None
