"""Templates as named scopes: one for what a resource's requests read, and one for what they change."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ext_proc.backtest.templates import PARAMETER, Template

READS = frozenset({"GET", "HEAD", "OPTIONS"})
"""As the ledger counts `writes`: all other methods."""
_NO_RESOURCE = re.compile(r"api|apis|rest|v\d+\w*|", re.IGNORECASE)
_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_LONGEST = 80


def scopes(templates: Iterable[Template]) -> dict[str, list[Template]]:
    """Scopes by name, in the order of their names."""
    found: dict[str, list[Template]] = {}
    for template in templates:
        name = f"{_resource(template.segments)}:{'read' if template.method in READS else 'write'}"
        found.setdefault(name, []).append(template)
    return dict(sorted(found.items()))


def _resource(segments: tuple[str, ...]) -> str:
    """`/api/v2/monitor/{id}` is about `monitor`."""
    for segment in segments:
        if segment != PARAMETER and not _NO_RESOURCE.fullmatch(segment):
            return _NO_NAME.sub("-", segment).strip("-._")[:_LONGEST] or "other"
    return "root"
