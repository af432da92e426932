"""Names for requests: from a connection's OpenAPI document and its own patterns.

Where two fit one request, the more literal path has it (`/dashboard/lists` before `/dashboard/{id}`), and then a method
before `*`. Own patterns, the document and packs are asked apart, in this order; the first that knows the request names
it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

from ext_proc.config import Config, Connection
from ext_proc.config.openapi import operations as read_openapi
from ext_proc.config.policies import PackedOperations
from ext_proc.errors import ConfigError
from ext_proc.rules.scopes import Scopes, parse


class _Source:
    """Operations of which a request has one at most."""

    def __init__(self, requests: Mapping[str, Iterable[str]], place: str) -> None:
        ranked = sorted(
            (_rank(request, f"{place}.{name}"), name, request) for name, all_ in requests.items() for request in all_
        )
        self._names = [name for _, name, _ in ranked]
        self._scopes = Scopes({str(n): (request,) for n, (_, _, request) in enumerate(ranked)}, place=place)

    def exact(self, method: str, path: str) -> str:
        fitting = self._scopes.matching(method, path)
        return self._names[int(fitting[0])] if fitting else ""

    def possible(self, method: str, path: str) -> frozenset[str]:
        """What some server may take it for. A template that loses against a literal path is not among them."""
        exact = self._scopes.matching(method, path)
        beaten = set(exact[1:])
        return frozenset(self._names[int(n)] for n in self._scopes.resembling(method, path) if n not in beaten)


class Operations:
    """One connection's. ConfigError where its document cannot be read or a pattern is malformed."""

    def __init__(self, connection: Connection | None, name: str) -> None:
        place = f"connections.{name}.operations"
        settings = None if connection is None else connection.operations
        self._requests: dict[str, tuple[str, ...]] = {}
        sources = []
        if settings is not None:
            document: dict[str, tuple[str, ...]] = {}
            if settings.openapi is not None:
                try:
                    document = read_openapi(Path(settings.openapi))
                except ConfigError as error:
                    raise ConfigError(error.reason, f"{place}.openapi: {error.message}", remedy=error.remedy) from None
            sources = [_Source(settings.patterns, f"{place}.patterns"), _Source(document, f"{place}.openapi")]
            for requests in (document, settings.patterns):
                for operation, patterns in requests.items():
                    self._requests[operation] = (*self._requests.get(operation, ()), *patterns)
            if isinstance(settings, PackedOperations):
                # A pack must not widen what a scope's `operation NAME` has stood for without it.
                packed = {name: r for name, r in settings.fallback.items() if name not in self._requests}
                self._requests.update(packed)
                sources.append(_Source(packed, f"{place} of a pack"))
        self._sources = sources

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """Every operation with its `METHOD PATH` patterns."""
        return self._requests

    def of(self, method: str, path: str) -> str:
        """The operation of a request exactly as sent; empty where none is known. For allowing, and for the record."""
        for source in self._sources:
            if name := source.exact(method, path):
                return name
        return ""

    def possible(self, method: str, path: str) -> frozenset[str]:
        """Every operation that some server could find in the request. For denying."""
        return frozenset().union(*(source.possible(method, path) for source in self._sources))

    def require(self, operation: str, place: str) -> None:
        """ConfigError `config.unknown_operation` where there is none of that name."""
        if operation in self._requests:
            return
        near = difflib.get_close_matches(operation, self._requests, n=1)
        remedy = f"Did you mean `{near[0]}`?" if near else "Name it in the connection's `operations`."
        raise ConfigError("config.unknown_operation", f"{place}: there is no operation {operation!r}", remedy=remedy)


def all_operations(config: Config) -> dict[str, Operations]:
    """By connection."""
    return {name: Operations(connection, name) for name, connection in config.connections.items()}


def _rank(request: str, place: str) -> tuple[tuple[int, ...], bool]:
    method, segments = parse(request, place)
    return tuple({"{}": 1, "**": 2}.get(segment, 0) for segment in segments), method == "*"
