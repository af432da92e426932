"""Reads douane.yaml: text -> data with positions -> models -> checks across fields. All faults at once, with places."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ext_proc.config.check import check
from ext_proc.config.expand import expand
from ext_proc.config.explain import explain, raise_all
from ext_proc.config.models import Config
from ext_proc.config.packs import HOLD_SETTINGS
from ext_proc.config.positions import Positions, YamlPath, read, show
from ext_proc.config.problems import Problem
from ext_proc.errors import ConfigError

MAX_BYTES = 1 << 20  # it travels to the workers and into the ledger as one message

# Sections whose defaults hold paths: written out before validation, so that these are resolved as well.
_SECTIONS: tuple[YamlPath, ...] = (("store",), ("hub",), ("gate",), ("recording",), ("recording", "spool"))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration. Every path in `config` is absolute, and its policies include those of its packs.

    `text` is the file as UTF-8 without a byte order mark and with \\n line ends; `digest` is its SHA-256 in hex,
    which exchanges carry and the ledger's `configs` explain. `path` is where it came from.
    """

    config: Config
    text: str
    digest: str
    path: Path
    positions: Positions = field(repr=False, compare=False)
    origins: tuple[YamlPath, ...] = field(default=(), repr=False, compare=False)
    """Where each of the policies is written down: in `policies`, or in the pack's use."""

    def where(self, *path: str | int) -> str:
        """`file:line:column` of a YAML path, for faults that only a later step can see."""
        return self.positions.where(path)

    def locate(self, error: ConfigError) -> ConfigError:
        """An error of a later step with its place filled in. Such steps know names, not lines: their messages begin
        with `grants.NAME: ` or `connections.NAME.scopes.SCOPE: `."""
        if error.where:
            return error
        place = error.message.partition(": ")[0].strip("`")
        path = self._written(place.split("."))
        where = self.positions.where(path) if path else str(self.path)
        return ConfigError(error.reason, error.message, where=where, remedy=error.remedy)

    def _written(self, parts: list[str]) -> YamlPath:
        path: list[str | int] = []
        for n, part in enumerate(parts):
            if n == 1 and parts[0] == "policies":
                return self._policy(".".join(parts[1:]))
            if n == 1 and parts[0] == "grants":
                names = [grant.name for grant in self.config.grants]
                if part not in names:
                    break
                path.append(names.index(part))
            elif (*path, part) in self.positions.keys:
                path.append(part)
        return tuple(path)

    def _policy(self, place: str) -> YamlPath:
        """A policy's place, and below it what is written down of `NAME.KEY...`. Names of packs' policies have a dot."""
        for n, policy in enumerate(self.config.policies):
            if place == policy.name or place.startswith(f"{policy.name}."):
                path = self.origins[n]
                for part in place[len(policy.name) + 1 :].split("."):
                    path = (*path, part) if (*path, part) in self.positions.keys else path
                return path
        return ()


def load(path: Path, snapshot: Path | None = None) -> Loaded:
    """Read and check the file. ConfigError (ConfigErrors for several) when it cannot be used.

    With `snapshot`, its text is read in the place of the file's: a supervisor keeps the last good text there, so that
    a child that starts again does not pick up an edit that was refused. Paths still mean the file's folder.
    """
    text = read_text(path, snapshot)
    return parse(text, str(path), path.absolute().parent)


def read_text(path: Path, snapshot: Path | None = None) -> str:
    """The file's text, or that of `snapshot`. ConfigError where it cannot be read."""
    try:
        raw = (snapshot or path).read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            "config.missing", "there is no such file", where=str(path), remedy="`douane init` writes one; -c names one."
        ) from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigError("config.unreadable", f"cannot be read: {why}", where=str(path)) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError("config.unreadable", f"is larger than {MAX_BYTES >> 10} KiB", where=str(path))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            "config.syntax", "is not UTF-8", where=f"{path}:{line}:1", remedy="Save it as UTF-8."
        ) from None
    return text


def parse(text: str, origin: str, base_dir: Path) -> Loaded:
    """Check a configuration's text. Relative paths mean `base_dir`; `origin` is what errors call the file."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    data, positions = read(text, origin)
    if not isinstance(data, dict):
        raise ConfigError(
            "config.value", "is no mapping of keys", where=f"{origin}:1:1", remedy="`douane init` writes an example."
        )
    return _checked(data, positions, text, origin, base_dir)


def parse_over(base: Loaded, text: str, origin: str) -> Loaded:
    """A configuration like `base` but for the top-level keys that `text` has. Its digest is that of `text`; relative
    paths mean the folder of `base`."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    data, positions = read(text, origin)
    below, _ = read(base.text, str(base.path))
    laid = base.positions.under(positions, frozenset(data))
    return _checked({**below, **data}, laid, text, origin, base.path.absolute().parent)


def _checked(data: dict[str, Any], positions: Positions, text: str, origin: str, base_dir: Path) -> Loaded:
    try:
        config = Config.model_validate(_with_sections(data), context={"base_dir": str(base_dir)})
    except ValidationError as error:
        raise_all(_in_order(explain(error, data, positions)))
        raise  # explain() never returns nothing
    config, origins, faults = expand(config)
    problems = dict.fromkeys([*faults, *(_at_origin(problem, origins) for problem in check(config))])
    raise_all(
        _in_order(
            [
                ConfigError(p.reason, f"{show(p.path)}: {p.message}", where=positions.where(p.path), remedy=p.remedy)
                for p in problems
            ]
        )
    )
    return Loaded(config, text, hashlib.sha256(text.encode()).hexdigest(), Path(origin), positions, origins)


def _at_origin(problem: Problem, origins: tuple[YamlPath, ...]) -> Problem:
    """A fault of a pack's policy is one of the pack's use, and of its settings where these are what it is about."""
    match problem.path:
        case ("policies", int(n), *below):
            origin = origins[n]
            if origin[0] == "packs" and below and below[0] in HOLD_SETTINGS:
                origin = (*origin[:2], "settings")
            return problem._replace(path=(*origin, *below))
    return problem


def json_schema() -> dict[str, Any]:
    """The JSON Schema of douane.yaml (2020-12), for editors and for `douane schema --json-schema`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(),
        "title": "douane.yaml",
    }


def _with_sections(data: dict[str, Any]) -> dict[str, Any]:
    data = dict(data)
    for *above, key in _SECTIONS:
        parent = data
        for part in above:
            child = parent.get(str(part))
            if not isinstance(child, dict):
                break
            parent[str(part)] = parent = dict(child)
        else:
            parent.setdefault(str(key), {})
    return data


def _in_order(errors: list[ConfigError]) -> list[ConfigError]:
    def place(error: ConfigError) -> tuple[int, int]:
        _, line, column = error.where.rsplit(":", 2)
        return int(line), int(column)

    return sorted(errors, key=place)
