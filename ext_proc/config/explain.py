"""Pydantic's complaints in the words of someone who edits douane.yaml, each with its place and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ext_proc.config import models, policies, scalars
from ext_proc.config.positions import Positions, YamlPath, show
from ext_proc.errors import ConfigError

_SHAPES = {
    scalars.NAME_PATTERN: "a name: lower-case letters, digits, - and _, at most 63, no - or _ at the ends",
    scalars.SCOPE_NAME_PATTERN: "a scope's name: letters, digits and _ : . -, at most 100",
    scalars.HEADER_NAME_PATTERN: "a header's name",
    scalars.HOST_PATTERN: "a host name",
    scalars.LISTEN_PATTERN: "ADDRESS:PORT with a numeric address, such as 127.0.0.1:15001",
    scalars.ENV_PATTERN: "the name of an environment variable",
    policies.OPERATION_PATTERN: "an operation's name",
    policies.APPROVER_PATTERN: "an approver: group:NAME, user:NAME or local",
}
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping (`key: value` lines)",
    "model_type": "a mapping (`key: value` lines)",
    "model_attributes_type": "a mapping (`key: value` lines)",
    "time_delta_type": "a duration, such as 50s or 15m",
    "time_delta_parsing": "a duration, such as 50s or 15m",
}


class ConfigErrors(ConfigError):  # noqa: N818 (the plural says what it is)
    """Several things are wrong at once; `errors` holds each. It reads as the first, and says how many follow."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = tuple(errors)
        first = self.errors[0]
        super().__init__(first.reason, first.message, where=first.where, remedy=first.remedy)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


def raise_all(errors: list[ConfigError]) -> None:
    """Raise what there is: nothing, the one error, or all of them together."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ConfigErrors(errors)


def explain(error: ValidationError, data: Any, positions: Positions) -> list[ConfigError]:
    """One ConfigError for each faulty place, in the file's order."""
    found: dict[tuple[YamlPath, str], ConfigError] = {}
    wanted: dict[YamlPath, list[str]] = {}
    for detail in error.errors():
        path = written_path(detail["loc"], data)
        if detail["type"] in _WANTED:  # members of one union complain one by one about the same value
            options = wanted.setdefault(path, [])
            if _WANTED[detail["type"]] not in options:
                options.append(_WANTED[detail["type"]])
            given = _given(detail["input"])
            message = f"{show(path)}: must be {' or '.join(options)}, not {given}"
            found[path, "type"] = ConfigError(
                "config.value", message, where=positions.where_value(path), remedy=_type_remedy(detail)
            )
            continue
        found.setdefault((path, detail["type"]), _one(detail, path, positions))
    for path, kind in list(found):
        if kind == "missing" and any(
            other_kind == "extra_forbidden" and other[:-1] == path[:-1] and _near(str(other[-1]), [str(path[-1])])
            for other, other_kind in found
        ):
            del found[path, kind]  # it is there, misspelt
    faulty = [path for path, _ in found]
    # A list where text was possible too: what is wrong inside the list says more.
    return [
        one
        for (path, kind), one in found.items()
        if kind != "type" or not any(len(other) > len(path) and other[: len(path)] == path for other in faulty)
    ]


def written_path(loc: tuple[str | int, ...], data: Any) -> YamlPath:
    """Pydantic's location without what is not in the file: names of union members, `[key]`."""
    path: list[str | int] = []
    for n, part in enumerate(loc):
        if isinstance(data, dict):
            if part in data:
                path.append(part)
                data = data[part]
            elif n == len(loc) - 1 and part != "[key]" and not str(part).startswith("source-"):
                path.append(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            path.append(part)
            data = data[part]
    return tuple(path)


def _one(detail: ErrorDetails, path: YamlPath, positions: Positions) -> ConfigError:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        parent = show(path[:-1]) or "the file"
        return ConfigError(
            "config.missing_key",
            f"{parent}: `{path[-1]}` is missing",
            where=positions.where(path[:-1]),
            remedy=f"Add `{path[-1]}:`; docs/configuration.md says what it means.",
        )
    if kind == "extra_forbidden":
        return _unknown_key(path, positions)
    whole = isinstance(detail["input"], dict) or detail["loc"][-1] == "[key]"
    where = positions.where(path) if whole else positions.where_value(path)
    given = _given(detail["input"])
    if kind == "literal_error":
        message, remedy = f"must be {context['expected']}, not {given}", ""
    elif kind == "string_pattern_mismatch":
        shape = _SHAPES.get(context["pattern"], f"text like {context['pattern']}")
        message, remedy = f"{given} is not {shape}", ""
    elif kind == "too_short" or kind == "string_too_short":
        message, remedy = "must not be empty", ""
    elif kind in ("value_error", "source_form"):
        said = str(context.get("error", detail["msg"]))
        message, _, remedy = said.partition("; ")
        remedy = remedy[:1].upper() + remedy[1:] + "." if remedy else ""
    else:
        message, remedy = f"{given}: {detail['msg'][:1].lower()}{detail['msg'][1:]}", ""
    return ConfigError("config.value", f"{show(path)}: {message}", where=where, remedy=remedy)


def _unknown_key(path: YamlPath, positions: Positions) -> ConfigError:
    key, known = str(path[-1]), keys_at(path[:-1])
    near = _near(key, known)
    remedy = f"Did you mean `{near[0]}`?" if near else f"Known here: {', '.join(known)}."
    return ConfigError("config.unknown_key", f"{show(path)}: unknown key", where=positions.where(path), remedy=remedy)


def _near(key: str, known: list[str]) -> list[str]:
    return difflib.get_close_matches(key, known, n=1, cutoff=0.6)


def keys_at(path: YamlPath) -> list[str]:
    """The keys that douane.yaml may have at `path`, from the published JSON Schema."""
    schema = models.Config.model_json_schema()
    found = _expand(schema, schema)
    for part in path:
        below: list[dict[str, Any]] = []
        for node in found:
            if isinstance(part, int):
                nexts = [node.get("items")]
            else:
                free = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
                nexts = [node["properties"][part]] if part in node.get("properties", {}) else free
            below += [e for n in nexts if isinstance(n, dict) for e in _expand(n, schema)]
        found = below
    return sorted({key for node in found for key in node.get("properties", {})})


def _expand(node: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" in node:
        return _expand(schema["$defs"][node["$ref"].rpartition("/")[2]], schema)
    options = [*node.get("anyOf", []), *node.get("oneOf", []), *node.get("allOf", [])]
    return [e for option in options for e in _expand(option, schema)] or [node]


def _given(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _type_remedy(detail: ErrorDetails) -> str:
    if detail["type"] == "string_type" and isinstance(detail["input"], int | float):
        return f"Put it in quotes: '{detail['input']}'."
    return ""
