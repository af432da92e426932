"""The configuration that is tried: a whole file, or policies laid over the present one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ext_proc.config import Loaded, load
from ext_proc.config.load import parse_over, read_text
from ext_proc.config.positions import read

OVERLAYS = frozenset({"policies", "packs", "sessions"})
"""A file with nothing else is laid over the present configuration."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """`over` is the file that it was laid over, None for a whole configuration."""

    loaded: Loaded
    over: Path | None

    @property
    def said(self) -> str:
        """Which it is, in words."""
        if self.over is None:
            return f"{self.loaded.path}: a whole configuration; its scopes, grants and policies are tried"
        return f"{self.loaded.path}: policies alone; they are tried in the place of those in {self.over}"


def candidate(file: Path, present: Path) -> Candidate:
    """ConfigError where it cannot be used, or where it needs the present configuration and there is none."""
    text = read_text(file)
    data, _ = read(text, str(file))
    if isinstance(data, dict) and data and data.keys() <= OVERLAYS:
        return Candidate(parse_over(load(present), text, str(file)), present)
    return Candidate(load(file), None)
