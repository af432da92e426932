"""Makes ordinary policies of the packs that a configuration chooses: their settings put in, their rules changed as
`rules` says. What is not there, or does not fit, is a Problem at its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from pydantic import ValidationError

from ext_proc.config.models import Config, Connection
from ext_proc.config.packs import HOLD_SETTINGS, PackFile, PackRule, PackUse, RuleChange, Setting, names, pack
from ext_proc.config.policies import Operations, PackedOperations, Policy
from ext_proc.config.positions import YamlPath
from ext_proc.config.problems import Problem, unknown

_HOLD_KEYS = tuple(HOLD_SETTINGS)
_WANTED = {
    "count": "a whole number from 1 on, such as 100",
    "size": "a size, such as 256KiB",
    "duration": "a duration, such as 30d",
    "texts": "a list of texts, such as [iframe]",
    "paths": "a list of names or paths as they are, such as [main, docs/CODEOWNERS]",
    "approvers": 'a list such as ["group:sre", "user:ada@example.com", local]',
}
# String literals are left as they are; outside of them, a setting or constant by its name.
_CONSTANT = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\b(settings|constants)\.([a-z0-9_]+)\b""")
_IN_PATH = re.compile(r"/\{settings\.([a-z0-9_]+)\}\Z")


class Expanded(NamedTuple):
    """`config` has the packs' policies after its own. `origins` is where each of its policies comes from."""

    config: Config
    origins: tuple[YamlPath, ...]
    problems: tuple[Problem, ...]


def expand(config: Config) -> Expanded:
    """Faulty uses of packs are left out, and told in `problems`."""
    policies = list(config.policies)
    origins: list[YamlPath] = [("policies", n) for n in range(len(policies))]
    connections = dict(config.connections)
    problems: list[Problem] = []
    taken: set[str] = set()
    for n, use in enumerate(config.packs):
        here: YamlPath = ("packs", n)
        faults = [*_faults(here, use, config, taken)]
        taken.add(use.prefix)
        if faults:
            problems += faults
            continue
        chosen = pack(use.pack)
        made = [*_policies(use, chosen)]
        policies += made
        origins += [(*here, "rules", policy.name.partition(".")[2]) for policy in made]
        connections[use.connection] = _connection(connections[use.connection], chosen)
    if not config.packs:
        return Expanded(config, tuple(origins), ())
    changed = config.model_copy(update={"policies": tuple(policies), "connections": connections})
    return Expanded(changed, tuple(origins), tuple(problems))


def _faults(here: YamlPath, use: PackUse, config: Config, taken: set[str]) -> Iterator[Problem]:
    if use.prefix in taken:
        yield Problem(
            (*here, "name" if use.name else "pack"),
            "config.duplicate_name",
            f"{use.prefix!r} is used twice",
            "Give one of them a `name` of its own.",
        )
    if use.connection not in config.connections:
        yield unknown((*here, "connection"), "connection", use.connection, config.connections)
    if use.pack not in names():
        yield unknown((*here, "pack"), "pack", use.pack, names())
        return
    chosen = pack(use.pack)
    known = {**chosen.settings, **HOLD_SETTINGS}
    for key, written in use.settings.items():
        path = (*here, "settings", key)
        if key not in known:
            yield unknown(path, "setting", key, known)
        elif (fault := _fault(known[key], written)) is not None:
            yield Problem(path, "config.value", fault, f"Write {_WANTED[known[key].type]}.")
    rules = [rule.name for rule in chosen.rules]
    for name, change in use.rules.items():
        if name not in rules:
            yield unknown((*here, "rules", name), "rule", name, rules)
        elif change.effect == "hold" and "approvers" not in use.settings:
            yield Problem(
                (*here, "rules", name, "effect"),
                "config.approvers",
                "nobody could approve it",
                'Add `approvers` to `settings`, such as ["group:sre"] or ["local"].',
            )


def _fault(setting: Setting, written: Any) -> str | None:
    try:
        setting.value(written)
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        return f"{written!r} is not {_WANTED[setting.type].partition(',')[0]} ({why})"
    return None


def _policies(use: PackUse, chosen: PackFile) -> Iterator[Policy]:
    known = {**chosen.settings, **HOLD_SETTINGS}
    settings = {
        name: setting.value(use.settings.get(name, setting.default))
        for name, setting in known.items()
        if name in use.settings or setting.default is not None
    }
    for rule in chosen.rules:
        change = use.rules.get(rule.name, RuleChange())
        if change.mode != "off":
            yield _policy(use, chosen, rule, change, settings)


def _policy(use: PackUse, chosen: PackFile, rule: PackRule, change: RuleChange, settings: Mapping[str, Any]) -> Policy:
    effect, message = change.effect or rule.effect, rule.message
    definition: dict[str, Any] = {}
    if effect == "hold" and "approvers" in settings:
        definition = {key: settings[key] for key in _HOLD_KEYS}
    elif effect == "hold":
        effect, message = "deny", f"{message}, and nobody was named to ask"
    if rule.when is not None:
        definition["when"] = put_in(rule.when, {"settings": settings, "constants": chosen.constants})
    policy = Policy.model_validate(
        {
            "name": rule.name,
            "match": {"connection": use.connection, "requests": requests(chosen, rule, settings)},
            "effect": effect,
            "mode": change.mode or rule.mode,
            "message": message,
            **definition,
        }
    )
    # With its dot it is no name that douane.yaml could give to a policy of its own.
    return policy.model_copy(update={"name": f"{use.prefix}.{rule.name}"})


def requests(chosen: PackFile, rule: PackRule, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Every `METHOD PATH` that a rule looks at."""
    written = [r for group in rule.match for patterns in chosen.operations[group].values() for r in patterns]
    for request in rule.requests:
        found = _IN_PATH.search(request)
        if found is None:
            written.append(request)
            continue
        for text in settings[found[1]]:
            path = f"{request[: found.start()]}/{text}"
            written += [path, f"{path}/**"]
    return tuple(dict.fromkeys(spelling for request in written for spelling in chosen.spelled(request)))


def put_in(when: str, values: Mapping[str, Mapping[str, Any]]) -> str:
    """A condition with its `settings.NAME` and `constants.NAME` as the literals that they stand for."""
    return _CONSTANT.sub(lambda m: literal(values[m[1]][m[2]]) if m[1] else m[0], when)


def literal(value: Any) -> str:
    """A number, text, duration or list of texts as CEL writes it."""
    if isinstance(value, timedelta):
        return f"duration('{value // timedelta(milliseconds=1)}ms')"
    if isinstance(value, tuple):
        return f"[{', '.join(map(literal, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _connection(connection: Connection, chosen: PackFile) -> Connection:
    update: dict[str, Any] = {"operations": _named(connection.operations, chosen)}
    if chosen.hold is not None and "hold" not in connection.model_fields_set:
        update["hold"] = chosen.hold
    return connection.model_copy(update=update)


def _named(own: Operations | None, chosen: PackFile) -> PackedOperations:
    fallback = dict(own.fallback) if isinstance(own, PackedOperations) else {}
    for group in chosen.operations.values():
        for name, patterns in group.items():
            fallback[name] = tuple(spelling for request in patterns for spelling in chosen.spelled(request))
    return PackedOperations(
        openapi=own.openapi if own else None, patterns=own.patterns if own else {}, fallback=fallback
    )
