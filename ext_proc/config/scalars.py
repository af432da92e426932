"""The scalar types of douane.yaml: names, addresses, durations, sizes and paths, each with its own complaint."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
)

DURATION_PATTERN = r"^(\d+(?:\.\d+)?)(ms|s|m|h|d)$"
_DURATION = re.compile(DURATION_PATTERN)
SIZE_PATTERN = r"^(\d+)(B|KiB|MiB|GiB|TiB)?$"
_SIZE = re.compile(SIZE_PATTERN)
NAME_PATTERN = r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$"
SCOPE_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_:.-]{0,99}$"
HEADER_NAME_PATTERN = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$"
HOST_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$"
LISTEN_PATTERN = r"^(\[[0-9a-fA-F:]+\]|[0-9.]+|localhost):\d{1,5}$"
ENV_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def _duration(value: object) -> object:
    if isinstance(value, str):
        match = _DURATION.match(value)
        if not match:
            raise ValueError(f"{value!r} is not a duration; write a number and ms, s, m, h or d, such as 50s or 15m")
        return timedelta(seconds=float(match[1]) * _DURATION_UNITS[match[2]])
    if isinstance(value, int | float):
        raise ValueError(f"{value!r} has no unit; write a number and ms, s, m, h or d, such as 50s or 15m")
    return value


def _size(value: object) -> object:
    if isinstance(value, str):
        match = _SIZE.match(value)
        if not match:
            raise ValueError(f"{value!r} is not a size; write a number and B, KiB, MiB, GiB or TiB, such as 512MiB")
        return int(match[1]) * _SIZE_UNITS[match[2]]
    return value


def _not_an_address(value: str) -> str:
    if value.replace(".", "").isdigit():
        raise ValueError(f"{value!r} is an address; TLS mode goes by host name (SNI carries no address)")
    return value


def _absolute(value: str, info: ValidationInfo) -> str:
    base: str | None = (info.context or {}).get("base_dir")
    if not value or "\0" in value:
        raise ValueError("is no path; name a file or a folder")
    return os.path.normpath(PurePath(base) / value) if base is not None else value


def absolute_after(prefix: str) -> Any:
    def resolve(value: str, info: ValidationInfo) -> str:
        return prefix + _absolute(value[len(prefix) :], info) if value.startswith(prefix) else value

    return AfterValidator(resolve)


def absolute_command(value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    if not value[0]:
        raise ValueError("the command's name is empty; write the program and its arguments")
    return (_absolute(value[0], info), *value[1:]) if "/" in value[0] else value


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(lambda d: f"{d.total_seconds():g}s", return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["50s", "15m", "400d"]}),
]
Size = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema({"type": ["string", "integer"], "pattern": _SIZE.pattern, "examples": ["64KiB", "1GiB"]}),
]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
ScopeName = Annotated[str, StringConstraints(pattern=SCOPE_NAME_PATTERN)]
HeaderName = Annotated[str, StringConstraints(pattern=HEADER_NAME_PATTERN, to_lower=True)]
Host = Annotated[str, StringConstraints(pattern=HOST_PATTERN, to_lower=True), AfterValidator(_not_an_address)]
Listen = Annotated[str, StringConstraints(pattern=LISTEN_PATTERN)]
PathText = Annotated[str, AfterValidator(_absolute), WithJsonSchema({"type": "string", "format": "path"})]
"""A file or folder, relative to the folder of douane.yaml."""
