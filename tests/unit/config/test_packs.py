"""Packs chosen in douane.yaml: what becomes of them, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ext_proc.config import ConfigErrors, Loaded, parse
from ext_proc.config.expand import literal, put_in, requests
from ext_proc.config.packs import names, pack
from ext_proc.errors import ConfigError
from ext_proc.rules import Policies, all_operations

TEXT = """\
version: 1
issuers: {{ci: {{issuer: "https://ci.example", audience: douane}}}}
connections:
  dd: {{listen: "127.0.0.1:15001", upstream: "https://api.datadoghq.com"{connection}}}
approvals:
  sign_in: {{issuer: "https://login.example", client_id: douane}}
  actors: {{ci: {{claim: actor, same: true}}}}
policies:
  - {{name: mine, effect: deny, match: {{requests: ["POST /mine"]}}}}
packs:
{packs}
"""
HERE = Path("/nowhere")


def load(*packs: str, connection: str = "") -> Loaded:
    text = TEXT.format(packs="\n".join(f"  - {one}" for one in packs), connection=connection)
    return parse(text, "douane.yaml", HERE)


def faults(*packs: str) -> list[ConfigError]:
    with pytest.raises(ConfigError) as caught:
        load(*packs)
    return list(caught.value.errors) if isinstance(caught.value, ConfigErrors) else [caught.value]


def policy(loaded: Loaded, name: str) -> Any:
    return next(one for one in loaded.config.policies if one.name == name)


def test_its_rules_become_policies_after_ones_own() -> None:
    loaded = load("{pack: datadog, connection: dd}")
    assert [one.name for one in loaded.config.policies] == [
        "mine",
        *(f"datadog.{rule.name}" for rule in pack("datadog").rules),
    ]
    assert {one.match.connection for one in loaded.config.policies[1:]} == {"dd"}


@pytest.mark.parametrize("name", names())
def test_every_pack_compiles_with_its_defaults(name: str) -> None:
    for settings in ("{}", "{approvers: [local]}"):
        loaded = load(f"{{pack: {name}, connection: dd, settings: {settings}}}")
        rules = Policies(loaded.config, all_operations(loaded.config)).rules
        assert len(rules) == 1 + len(pack(name).rules)


def test_without_approvers_what_would_hold_denies() -> None:
    loaded = load("{pack: datadog, connection: dd}")
    assert {one.effect for one in loaded.config.policies} == {"deny"}
    assert policy(loaded, "datadog.muting").message == "muting needs a person, and nobody was named to ask"


def test_with_approvers_it_holds_as_the_settings_say() -> None:
    settings = '{approvers: ["group:sre"], quorum: 2, wait: 20s, validity: 5m, expires: 2h}'
    muting = policy(load(f"{{pack: datadog, connection: dd, settings: {settings}}}"), "datadog.muting")
    assert (muting.effect, muting.approvers, muting.quorum) == ("hold", ("group:sre",), 2)
    assert (muting.wait, muting.validity, muting.expires) == (
        timedelta(seconds=20),
        timedelta(minutes=5),
        timedelta(hours=2),
    )


def test_settings_are_put_in_as_constants() -> None:
    loaded = load("{pack: datadog, connection: dd, settings: {max_widgets: 7, max_body: 1KiB, max_age: 1d}}")
    assert policy(loaded, "datadog.widget-count").when == "size(widgets(request.json)) > 7"
    assert policy(loaded, "datadog.payload-size").when == "request.size > 1024"
    assert "now - duration('86400000ms')" in policy(loaded, "datadog.stale-time-frames").when
    assert '["iframe"]' in policy(loaded, "datadog.widget-types").when
    for one in loaded.config.policies:
        assert "settings." not in (one.when or "")
        assert "constants." not in (one.when or "")


def test_a_setting_changes_the_version_of_the_rules_that_use_it_only() -> None:
    def digests(settings: str) -> dict[str, str]:
        config = load(f"{{pack: datadog, connection: dd, settings: {settings}}}").config
        return {rule.name: rule.digest for rule in Policies(config).rules}

    one, other = digests("{}"), digests("{max_widgets: 7}")
    assert {name for name in one if one[name] != other[name]} == {"datadog.widget-count"}


def test_single_rules_are_changed_or_switched_off() -> None:
    loaded = load(
        "{pack: datadog, connection: dd, settings: {approvers: [local]}, rules: "
        "{muting: {mode: observe}, mass-writes: off, access: {mode: off}, "
        "deletions: {effect: deny}, mint-credentials: {effect: hold}}}"
    )
    assert policy(loaded, "datadog.muting").mode == "observe"
    assert policy(loaded, "datadog.deletions").effect == "deny"
    assert policy(loaded, "datadog.mint-credentials").effect == "hold"
    left = {one.name for one in loaded.config.policies}
    assert {f"datadog.{rule.name}" for rule in pack("datadog").rules} - left == {
        "datadog.mass-writes",
        "datadog.access",
    }


def test_the_datadog_pack_answers_held_requests_as_its_clients_understand() -> None:
    assert load("{pack: datadog, connection: dd}").config.connections["dd"].hold.status == 429
    assert load("{pack: datadog, connection: dd}").config.connections["dd"].hold.reset_header == "x-ratelimit-reset"
    own = load("{pack: datadog, connection: dd}", connection=", hold: {status: 425}").config.connections["dd"].hold
    assert (own.status, own.reset_header) == (425, None)
    assert load("{pack: github, connection: dd}").config.connections["dd"].hold.status == 409


def test_a_pack_may_be_used_twice_under_two_names() -> None:
    loaded = load("{pack: datadog, connection: dd}", "{pack: datadog, connection: dd, name: eu}")
    assert policy(loaded, "eu.muting").effect == "deny"
    assert len({one.name for one in loaded.config.policies}) == 1 + 2 * len(pack("datadog").rules)


def test_its_names_for_calls_give_way() -> None:
    """To one's own, and nothing that a scope stands for grows by a pack."""
    use = "{pack: datadog, connection: dd}"
    operations = all_operations(load(use).config)["dd"]
    assert operations.of("POST", "/api/v1/dashboard") == "CreateDashboard"
    assert operations.of("POST", "/api/v1/monitor/7/mute") == "monitor.mute"
    patterns = '{dashboards: ["* /api/v1/dashboard/**", "* /api/v1/dashboard"], GetAPIKey: ["GET /api/v1/api_key/{k}"]}'
    own = all_operations(load(use, connection=f", operations: {{patterns: {patterns}}}").config)["dd"]
    assert own.of("POST", "/api/v1/dashboard") == "dashboards"
    assert own.names["GetAPIKey"] == ("GET /api/v1/api_key/{k}",)
    assert own.of("GET", "/api/v2/api_keys/7") == ""


@pytest.mark.parametrize(
    ("use", "reason", "words", "remedy"),
    [
        ("{pack: datdog, connection: dd}", "config.unknown_pack", "'datdog'", "datadog"),
        ("{pack: datadog, connection: d}", "config.unknown_connection", "'d'", "dd"),
        (
            "{pack: datadog, connection: dd, settings: {max_widget: 1}}",
            "config.unknown_setting",
            "'max_widget'",
            "max_widgets",
        ),
        ("{pack: datadog, connection: dd, rules: {mutings: off}}", "config.unknown_rule", "'mutings'", "muting"),
        ("{pack: datadog, connection: dd, rules: {muting: of}}", "config.value", "must be a mapping", ""),
        ("{pack: datadog, connection: dd, rules: {muting: {effect: allow}}}", "config.value", "'deny' or 'hold'", ""),
        ("{pack: datadog, connection: dd, rules: {muting: {effect: hold}}}", "config.approvers", "nobody", "approvers"),
        ("{pack: datadog, connection: dd, settings: {max_widgets: 0}}", "config.value", "0", "100"),
        ("{pack: datadog, connection: dd, settings: {max_widgets: many}}", "config.value", "'many'", "100"),
        ("{pack: datadog, connection: dd, settings: {max_body: 5 apples}}", "config.value", "5 apples", "256KiB"),
        ("{pack: datadog, connection: dd, settings: {max_age: 3}}", "config.value", "3", "30d"),
        ("{pack: datadog, connection: dd, settings: {forbidden_widgets: []}}", "config.value", "[]", "iframe"),
        ("{pack: datadog, connection: dd, settings: {approvers: [sre]}}", "config.value", "sre", "group:sre"),
        (
            "{pack: github, connection: dd, settings: {protected_branches: ['release/*']}}",
            "config.value",
            "wildcards",
            "main",
        ),
        ("{pack: datadog, connection: dd, settings: {approvers: [local], wait: 3h}}", "config.value", "wait", ""),
        ("{pack: datadog, connection: dd, more: 1}", "config.unknown_key", "more", ""),
    ],
)
def test_what_is_refused(use: str, reason: str, words: str, remedy: str) -> None:
    found = faults(use)
    assert [error.where.rpartition(":")[0] for error in found] == ["douane.yaml:11"] * len(found)
    assert reason in {error.reason for error in found}
    assert words in " ".join(error.message for error in found)
    assert remedy in " ".join(error.remedy for error in found)


def test_two_of_one_name_are_refused() -> None:
    [fault] = faults("{pack: datadog, connection: dd}", "{pack: datadog, connection: dd}")
    assert (fault.reason, fault.where) == ("config.duplicate_name", "douane.yaml:12:6")


def test_a_fault_of_a_later_step_has_the_uses_place() -> None:
    loaded = load("{pack: datadog, connection: dd, rules: {muting: {mode: observe}}}")
    for message, where in (
        ("policies.datadog.muting.when: is odd", "douane.yaml:11:45"),
        ("policies.datadog.access: is odd", "douane.yaml:11:37"),
        ("policies.mine.match: is odd", "douane.yaml:9:32"),
        ("policies.nobody.match: is odd", "douane.yaml"),
    ):
        assert loaded.locate(ConfigError("config.condition", message)).where.startswith(where)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (7, "7"),
        (timedelta(days=400), "duration('34560000000ms')"),
        ('it\'s "so" \\d', '"it\'s \\"so\\" \\\\d"'),
        (("a", "b"), '["a", "b"]'),
    ],
)
def test_literals(value: Any, written: str) -> None:
    assert literal(value) == written


def test_only_names_outside_of_strings_are_put_in() -> None:
    when = "x == 'settings.a' && \"constants.b\" != settings.a && my_settings.a"
    assert (
        put_in(when, {"settings": {"a": 1}, "constants": {}})
        == "x == 'settings.a' && \"constants.b\" != 1 && my_settings.a"
    )


@pytest.mark.parametrize("name", names())
def test_every_pack_is_whole(name: str) -> None:
    chosen = pack(name)
    assert chosen.pack == name
    assert len({rule.name for rule in chosen.rules}) == len(chosen.rules)
    used = {group for rule in chosen.rules for group in rule.match}
    assert used == set(chosen.operations)
    words = " ".join([rule.when or "" for rule in chosen.rules] + [r for rule in chosen.rules for r in rule.requests])
    assert [key for key in chosen.settings if f"settings.{key}" not in words] == []
    settings = {key: one.value(one.default) for key, one in chosen.settings.items()}
    for rule in chosen.rules:
        assert requests(chosen, rule, settings), rule.name
        assert rule.why.endswith(".")
        assert not rule.message.endswith(".")
