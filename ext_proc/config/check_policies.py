"""What is wrong with policies beyond their shape: names used twice, keys that an effect does not have, holds that
nobody could approve, patterns and connections that do not exist."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from ext_proc.config.models import Config
from ext_proc.config.policies import Policy
from ext_proc.config.positions import YamlPath
from ext_proc.config.problems import Problem, json_path, request, twice, unknown

_OF_EFFECT = {
    "deny": {"message"},
    "hold": {"message", "approvers", "quorum", "wait", "validity", "expires"},
    "allow": {"mask", "rate"},
    "flag": {"message"},
    "mask": {"mask"},
    "withhold": {"message"},
}
_ALWAYS = {"name", "match", "effect", "when", "mode"}
_LONGEST_WAIT = timedelta(minutes=10)
_SHORTEST, _LONGEST_SPAN = timedelta(seconds=1), timedelta(days=1)


def policies(config: Config) -> Iterator[Problem]:
    names: set[str] = set()
    for n, policy in enumerate(config.policies):
        here: YamlPath = ("policies", n)
        if policy.name in names:
            yield twice((*here, "name"), policy.name)
        names.add(policy.name)
        yield from _match(here, policy, config)
        yield from _keys(here, policy)
        if policy.effect == "hold":
            yield from _hold(here, policy)
        if policy.mask is not None:
            yield from _mask(here, policy)
        if policy.rate is not None and not _SHORTEST <= policy.rate.per <= _LONGEST_SPAN:
            yield Problem((*here, "rate", "per"), "config.value", "must be between 1s and 1d", "Write 1m.")
    if not _SHORTEST <= config.sessions.window <= _LONGEST_SPAN:
        yield Problem(("sessions", "window"), "config.value", "must be between 1s and 1d", "Write 10m.")


def operations(config: Config) -> Iterator[Problem]:
    for name, connection in config.connections.items():
        if connection.operations is not None:
            for operation, requests in connection.operations.patterns.items():
                for n, text in enumerate(requests):
                    yield from request(("connections", name, "operations", "patterns", operation, n), text)


def _match(here: YamlPath, policy: Policy, config: Config) -> Iterator[Problem]:
    connection = policy.match.connection
    if connection is not None and connection not in config.connections:
        yield unknown((*here, "match", "connection"), "connection", connection, config.connections)
    if not policy.match.requests:
        yield Problem((*here, "match", "requests"), "config.value", "matches nothing", "Leave it out for all.")
    if not policy.match.operation and "operation" in policy.match.model_fields_set:
        yield Problem((*here, "match", "operation"), "config.value", "matches nothing", "Leave it out for all.")
    for m, text in enumerate(policy.match.requests):
        yield from request((*here, "match", "requests", m), text)


def _keys(here: YamlPath, policy: Policy) -> Iterator[Problem]:
    known = _ALWAYS | _OF_EFFECT[policy.effect]
    for key in sorted(policy.model_fields_set - known):
        others = sorted(effect for effect, keys in _OF_EFFECT.items() if key in keys)
        yield Problem(
            (*here, key),
            "config.value",
            f"the effect {policy.effect!r} has no `{key}`",
            f"It belongs to {' and '.join(others)}.",
        )
    if policy.effect == "allow" and policy.mask is None and policy.rate is None:
        yield Problem(
            here,
            "config.value",
            "an `allow` without obligations does nothing",
            "Add `mask` or `rate`; what is allowed is for grants to say.",
        )


def _hold(here: YamlPath, policy: Policy) -> Iterator[Problem]:
    if not policy.approvers:
        yield Problem(
            here, "config.approvers", "nobody could approve it", 'Add `approvers`, such as ["group:sre"] or ["local"].'
        )
    people = set(policy.approvers)
    if len(people) != len(policy.approvers):
        yield Problem((*here, "approvers"), "config.duplicate_name", "names an approver twice", "Name each once.")
    single = all(approver.startswith("user:") or approver == "local" for approver in people)
    if people and single and policy.quorum > len(people):
        yield Problem(
            (*here, "quorum"),
            "config.approvers",
            f"{policy.quorum} must approve, and only {len(people)} may",
            "Lower the quorum, or name more approvers.",
        )
    for key in ("wait", "validity", "expires"):
        if not getattr(policy, key):
            yield Problem((*here, key), "config.value", "must be longer than nothing", "Write 50s, 15m or 1h.")
    if policy.wait > _LONGEST_WAIT:
        yield Problem(
            (*here, "wait"),
            "config.value",
            "no client waits longer than 10m",
            "Lower it; the same request, sent again, finds its approval as long as `expires` says.",
        )
    if policy.expires < policy.wait:
        yield Problem((*here, "expires"), "config.value", "is shorter than `wait`", "Raise it, or lower `wait`.")


def _mask(here: YamlPath, policy: Policy) -> Iterator[Problem]:
    assert policy.mask is not None
    if policy.effect == "mask" and policy.mask.headers:
        yield Problem(
            (*here, "mask", "headers"), "config.value", "only bodies are masked in responses", "Write `json` paths."
        )
    if not policy.mask.headers and not policy.mask.json_paths:
        yield Problem((*here, "mask"), "config.value", "masks nothing", "Name `headers` or `json` paths.")
    for n, text in enumerate(policy.mask.json_paths):
        yield from json_path((*here, "mask", "json", n), text)
