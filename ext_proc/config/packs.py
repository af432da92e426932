"""The shape of `packs` in douane.yaml, and of the files that packs are.

A pack is a file of this package (`ext_proc/rules/packs/NAME.yaml`): policies that are ready for one API, with settings.
`expand` makes ordinary policies of those that a configuration chooses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic_core.core_schema import CoreSchema, no_info_before_validator_function

from ext_proc.config.approvals import HoldAnswer
from ext_proc.config.base import Model
from ext_proc.config.policies import Approver
from ext_proc.config.positions import read
from ext_proc.config.scalars import Duration, Name, Size


class RuleChange(Model):
    effect: Literal["deny", "hold"] | None = None
    """Another effect than the pack's."""
    mode: Literal["enforce", "observe", "off"] | None = None
    """`observe` records what the rule would have done, and does nothing; `off` leaves the rule out."""


class _OrOff:
    """`off` for `{mode: off}`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(lambda v: {"mode": v} if v == "off" else v, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"const": "off"}, handler(core)]}


class PackUse(Model):
    pack: Name
    """Which pack: `douane policy packs` lists them."""
    connection: Name
    """The connection that its rules look at."""
    name: Name | None = None
    """What its policies' names begin with; by default the pack's name. For a pack that is used twice."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The pack's settings (docs/packs.md), and those of all packs: `approvers`, `quorum`, `wait`, `validity`,
    `expires`."""
    rules: dict[str, Annotated[RuleChange, _OrOff()]] = Field(default_factory=dict)
    """Changes to single rules: `off`, or another `mode` or `effect`."""

    @property
    def prefix(self) -> str:
        """What stands before the dot in its policies' names."""
        return self.name or self.pack


_MOST = 100


def _in_path(value: str) -> str:
    """A file, folder or branch as it stands in a path."""
    text = value.strip("/")
    if not _IN_PATH.fullmatch(text):
        raise ValueError("wildcards, blanks and % have no meaning here")
    return text


_IN_PATH = re.compile(r"[^\s{}*?#%\\]+")
_Text = Annotated[str, Field(min_length=1, max_length=200)]
SETTING_TYPES: Mapping[str, TypeAdapter[Any]] = {
    "count": TypeAdapter(Annotated[int, Field(ge=1, le=1_000_000, strict=True)]),
    "size": TypeAdapter(Annotated[Size, Field(ge=1)]),
    "duration": TypeAdapter(Annotated[Duration, Field(gt=timedelta(0))]),
    "texts": TypeAdapter(Annotated[tuple[_Text, ...], Field(min_length=1, max_length=_MOST)]),
    "paths": TypeAdapter(
        Annotated[tuple[Annotated[_Text, AfterValidator(_in_path)], ...], Field(min_length=1, max_length=_MOST)]
    ),
    "approvers": TypeAdapter(Annotated[tuple[Approver, ...], Field(min_length=1)]),
}
"""What a setting may be."""


class _Data(BaseModel):
    """What our own files hold; as strict as douane.yaml, of which it is no part."""

    model_config = Model.model_config


class Setting(_Data):
    type: Literal["count", "size", "duration", "texts", "paths", "approvers"]
    """Which values it takes."""
    default: Any = None
    """As it would be written in douane.yaml; none for `approvers`."""
    about: str
    """One line."""

    def value(self, written: Any) -> Any:
        """What was written, as Python; pydantic's ValidationError where it is none of these."""
        return SETTING_TYPES[self.type].validate_python(written)


HOLD_SETTINGS: Mapping[str, Setting] = {
    "approvers": Setting(
        type="approvers",
        about="Who may approve what the rules hold. Without it, rules that would hold deny.",
    ),
    "quorum": Setting(type="count", default=1, about="How many of them must."),
    "wait": Setting(type="duration", default="50s", about="How long a held request waits."),
    "validity": Setting(type="duration", default="15m", about="How long an approval may be used."),
    "expires": Setting(type="duration", default="1h", about="How long approval may be given."),
}
"""The settings that all packs have."""


class PackRule(_Data):
    name: Name
    """The policy is called `PACK.NAME`."""
    why: str
    """What it protects from."""
    effect: Literal["deny", "hold"]
    mode: Literal["enforce", "observe"] = "enforce"
    match: tuple[str, ...] = ()
    """Groups of `operations`."""
    requests: tuple[str, ...] = ()
    """`METHOD PATH` patterns that have no name. A path may end in `/{settings.NAME}`: each of its texts, and below."""
    when: str | None = None
    """CEL; `settings.NAME` and `constants.NAME` are put in."""
    message: str
    """What the caller is told."""


class PackFile(_Data):
    pack: Name
    about: str
    """Which API it is for."""
    hold: HoldAnswer | None = None
    """What clients of this API understand when a request is held, where the connection says nothing of its own."""
    settings: dict[Name, Setting] = Field(default_factory=dict)
    aliases: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Beginnings of paths under which the API serves the same."""
    methods: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Methods that the API takes in the place of another."""
    apart: tuple[str, ...] = ()
    """`METHOD PATH`s that would be the same by `methods`, and are calls of their own."""
    operations: dict[Name, dict[str, tuple[str, ...]]] = Field(default_factory=dict)
    """Groups of names for calls."""
    constants: dict[Name, str] = Field(default_factory=dict)
    """Texts that several conditions use."""
    rules: tuple[PackRule, ...]

    def spelled(self, request: str) -> tuple[str, ...]:
        """A `METHOD PATH`, and what else means the same by `methods` and `aliases`."""
        method, _, path = request.partition(" ")
        paths = [path]
        paths += [
            f"{other}{path[len(start) :]}"
            for start, spellings in self.aliases.items()
            if path == start or path.startswith(f"{start}/")
            for other in spellings
        ]
        others = [f"{other} {path}" for other in self.methods.get(method, ()) for path in paths]
        return (*(f"{method} {path}" for path in paths), *(one for one in others if one not in self.apart))


_FOLDER = files("ext_proc") / "rules" / "packs"


def names() -> tuple[str, ...]:
    """Every pack there is."""
    return tuple(
        sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))
    )


@lru_cache(maxsize=8)
def pack(name: str) -> PackFile:
    """One of `names()`."""
    text = (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    data, _ = read(text, f"{name}.yaml")
    return PackFile.model_validate(data)
