from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ext_proc.config import ConfigErrors, load, parse
from ext_proc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = """\
version: 1
store: {url: "embedded:./var/store"}
issuers:
  github: {issuer: "https://token.actions.githubusercontent.com", audience: douane}
connections:
  datadog:
    listen: 127.0.0.1:15001
    hosts: [api.datadoghq.com]
    upstream: https://api.datadoghq.com
    identity: {headers: [dd-api-key, authorization]}
    credentials:
      - {header: dd-api-key, from: {env: DOUANE_DD_API_KEY}}
      - {header: dd-application-key, from: {file: ./secrets/app-key}}
    scopes:
      dashboards:write: ["POST /api/v1/dashboard", "PUT /api/v1/dashboard/{id}"]
  local:
    listen: 127.0.0.1:15002
    upstream: http://127.0.0.1:9000/base
    credentials: [{bearer: true, from: {exec: [./key.sh, --now], lifetime: 1m}}]
    scopes: {all: ["* /**"]}
gate: {tls_listen: 127.0.0.1:15443}
grants:
  - name: infra-main
    issuer: github
    if: "claims.repository_id == '74'"
    allow: {datadog: ["dashboards:write"]}
policies:
  - {name: no-iframes, match: {connection: datadog}, effect: deny, when: "'iframe' in find(request.json, 'type')"}
masking: {json: ["$.user.email"]}
recording: {retention: 400d}
"""


def refuse(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, "douane.yaml", Path("/srv/douane"))
    return caught.value


def test_a_good_configuration_has_absolute_paths_and_a_digest() -> None:
    loaded = parse(GOOD, "douane.yaml", Path("/srv/douane"))
    config = loaded.config
    assert config.store.url == "embedded:/srv/douane/var/store"
    assert config.hub.listen == "unix:/srv/douane/var/run/hub.sock"
    assert config.hub.path == "/srv/douane/var/hub"
    assert config.gate.run_dir == "/srv/douane/var/run"
    assert config.recording.spool.path == "/srv/douane/var/spool"
    assert config.connections["datadog"].credentials[1].source.file == "/srv/douane/secrets/app-key"  # type: ignore[union-attr]
    assert config.connections["local"].credentials[0].source.exec == ("/srv/douane/key.sh", "--now")  # type: ignore[union-attr]
    assert loaded.digest == hashlib.sha256(GOOD.encode()).hexdigest()
    assert loaded.where("connections", "datadog", "upstream") == "douane.yaml:9:5"


def test_the_digest_is_of_the_text_that_workers_get() -> None:
    loaded = parse("\ufeff" + GOOD.replace("\n", "\r\n"), "douane.yaml", Path("/srv"))
    assert loaded.text == GOOD
    assert parse(loaded.text, "elsewhere.yaml", Path("/srv")).digest == loaded.digest


def swap(old: str, new: str) -> Callable[[], str]:
    def change() -> str:
        assert GOOD.count(old) == 1, f"{old!r} occurs {GOOD.count(old)} times"
        return GOOD.replace(old, new)

    return change


def add(more: str) -> Callable[[], str]:
    return lambda: GOOD + more


BAD: list[tuple[str, Callable[[], str], str, int, str]] = [
    # what, change, reason, line, a part of message or remedy
    ("tab", swap("  github:", "\tgithub:"), "config.syntax", 4, "spaces"),
    ("open quote", swap('audience: douane}', 'audience: "douane}'), "config.syntax", 15, "quotes"),
    ("tag", swap("audience: douane}", "audience: !!python/name:os.system x}"), "config.syntax", 4, "tag"),
    ("duplicate key", add("version: 1\n"), "config.duplicate_key", 31, "first on line 1"),
    ("duplicate connection", swap("  local:", "  datadog:"), "config.duplicate_key", 16, "datadog"),
    ("number as key", swap("scopes: {all:", "scopes: {1:"), "config.key", 20, "quotes"),
    ("empty", lambda: "", "config.value", 1, "mapping"),
    ("a list", lambda: "- version: 1\n", "config.value", 1, "mapping"),
    ("no version", swap("version: 1\n", "\n"), "config.missing_key", 1, "version"),
    ("wrong version", swap("version: 1\n", "version: 2\n"), "config.value", 1, "must be 1"),
    ("unknown root", add("conections: {}\n"), "config.unknown_key", 31, "`connections`"),
    ("misspelt key", swap("    upstream: https", "    upstraem: https"), "config.unknown_key", 9, "`upstream`"),
    ("unknown key, nothing near", swap("recording: {", "recording: {zzz: 1, "), "config.unknown_key", 30, "retention"),
    ("missing upstream", swap("    upstream: https://api.datadoghq.com\n", ""), "config.missing_key", 6, "upstream"),
    ("no place for a credential", swap("{bearer: true, from", "{from"), "config.value", 19, "exactly one place"),
    ("two places", swap("{bearer: true, from", "{bearer: true, query: k, from"), "config.value", 19, "exactly one"),
    ("two sources", swap("{env: DOUANE_DD_API_KEY}", "{env: A, file: b}"), "config.value", 12, "env: NAME"),
    ("no source", swap("{env: DOUANE_DD_API_KEY}", "{}"), "config.value", 12, "env: NAME"),
    ("bad env name", swap("env: DOUANE_DD_API_KEY", "env: A-B"), "config.value", 12, "environment variable"),
    ("empty file", swap("{file: ./secrets/app-key}", "{file: ''}"), "config.value", 13, "no path"),
    ("empty exec", swap("[./key.sh, --now]", "[]"), "config.value", 19, "empty"),
    ("exec as text", swap("[./key.sh, --now]", "./key.sh"), "config.value", 19, "a list"),
    ("same place twice", swap("dd-application-key", "dd-api-key"), "config.duplicate_name", 13, "twice"),
    ("credential in host", swap("dd-application-key", "host"), "config.value", 13, "host"),
    ("capital in a name", swap("  local:", "  Local:"), "config.value", 16, "lower-case"),
    ("duration without unit", swap("400d", "400"), "config.value", 30, "no unit"),
    ("retention under a day", swap("400d", "23h"), "config.value", 30, "at least 1d"),
    ("upstream over http", swap("http://127.0.0.1:9000/base", "http://example.com"), "config.plain_http", 18, "https"),
    ("upstream with user", swap("https://api.d", "https://u:p@api.d"), "config.value", 9, "user"),
    ("upstream no URL", swap("https://api.datadoghq.com\n", "api.datadoghq.com\n"), "config.value", 9, "https://HOST"),
    ("issuer over http", swap("https://token.actions.githubusercontent.com", "http://i.x"), "config.plain_http", 4, ""),
    ("HS256", swap("audience: douane}", "audience: douane, algorithms: [HS256]}"), "config.value", 4, "RS256"),
    ("empty audience", swap("audience: douane}", "audience: ''}"), "config.value", 4, "empty"),
    ("listen beyond loopback", swap("127.0.0.1:15002", "0.0.0.0:15002"), "config.not_loopback", 17, "127.0.0.1"),
    ("listen by name", swap("127.0.0.1:15002", "example.com:15002"), "config.value", 17, "127.0.0.1:15001"),
    ("port too large", swap("127.0.0.1:15002", "127.0.0.1:75002"), "config.value", 17, "65535"),
    ("listen twice", swap("127.0.0.1:15002", "127.0.0.1:15001"), "config.duplicate_listen", 17, "datadog"),
    ("listen on the console's", swap("127.0.0.1:15002", "127.0.0.1:15000"), "config.duplicate_listen", 17, "console"),
    ("no way in", swap("    listen: 127.0.0.1:15002\n", ""), "config.value", 16, "listen"),
    ("host twice", swap("    listen: 127.0.0.1:15002\n", "    hosts: [API.datadoghq.com]\n"),
     "config.duplicate_host", 17, "datadog"),
    ("host is an address", swap("[api.datadoghq.com]", "[10.0.0.1]"), "config.value", 8, "address"),
    ("hosts without a port", swap("gate: {tls_listen: 127.0.0.1:15443}\n", "\n"), "config.tls_listen", 8, "15443"),
    ("scope without method", swap("PUT /api", "/api"), "config.scope", 15, "METHOD PATH"),
    ("scope with query", swap("PUT /api/v1/dashboard/{id}", "PUT /api?x=1"), "config.scope", 15, "query"),
    ("scope with ** inside", swap("PUT /api/v1/dashboard/{id}", "PUT /**/x"), "config.scope", 15, "**"),
    ("scope with half a segment", swap("dashboard/{id}", "dashboard/x{id}"), "config.scope", 15, "{id}"),
    ("grant: unknown issuer", swap("issuer: github\n", "issuer: gitlab\n"), "config.unknown_issuer", 24, "github"),
    ("grant: unknown connection", swap("{datadog: [\"d", "{datadgo: [\"d"), "config.unknown_connection", 26, "datadog"),
    ("grant: unknown scope", swap('datadog: ["dashboards:write"]', 'datadog: ["dashboards:wirte"]'),
     "config.unknown_scope", 26, "dashboards:write"),
    ("grant: empty allow", swap('{datadog: ["dashboards:write"]}', "{}"), "config.value", 26, "grants nothing"),
    ("policy: unknown connection", swap("{connection: datadog}", "{connection: x}"),
     "config.unknown_connection", 28, ""),
    ("policy: a key of another effect", swap("effect: deny,", "effect: deny, quorum: 2,"), "config.value", 28, "hold"),
    ("hold: nobody may approve", swap("effect: deny,", "effect: hold,"), "config.approvers", 28, "group:sre"),
    ("hold: too few may", swap("effect: deny,", "effect: hold, quorum: 2, approvers: [local],"), "config.approvers", 28,
     "Lower the quorum"),
    ("hold: one named twice", swap("effect: deny,", "effect: hold, approvers: [local, local],"),
     "config.duplicate_name", 28, "once"),
    ("hold: no approver", swap("effect: deny,", "effect: hold, approvers: [sre],"), "config.value", 28, ""),
    ("hold: expires first", swap("effect: deny,", "effect: hold, approvers: [local], expires: 1s,"), "config.value", 28,
     "wait"),
    ("hold: waits for ever", swap("effect: deny,", "effect: hold, approvers: [local], wait: 1h,"), "config.value", 28,
     "sent again"),
    ("allow: does nothing", swap("effect: deny,", "effect: allow,"), "config.value", 28, "rate"),
    ("allow: masks nothing", swap("effect: deny,", "effect: allow, mask: {},"), "config.value", 28, "headers"),
    ("allow: no JSON path", swap("effect: deny,", "effect: allow, mask: {json: [x]},"), "config.json_path", 28,
     "$.name"),
    ("allow: rate without time", swap("effect: deny,", "effect: allow, rate: {limit: 1, per: 0s},"), "config.value", 28,
     "1m"),
    ("match: no operation", swap("{connection: datadog}", "{operation: []}"), "config.value", 28, "Leave it out"),
    ("window of nothing", swap("masking:", "sessions: {window: 0s}\nmasking:"), "config.value", 29, "10m"),
    ("policy twice", swap("masking:", "  - {name: no-iframes, effect: deny}\nmasking:"),
     "config.duplicate_name", 29, ""),
    ("mask everything", swap('"$.user.email"', '"$"'), "config.whole_body", 29, "$.user.email"),
    ("mask everything below", swap('"$.user.email"', '"$..*"'), "config.whole_body", 29, ""),
    ("mask every element", swap('"$.user.email"', '"$[*]"'), "config.whole_body", 29, ""),
    ("seal without key", swap("    listen: 127.0.0.1:15002\n", "    listen: 127.0.0.1:15002\n    undecodable: seal\n"),
     "config.seal_key", 18, "seal_key"),
    ("masked for clients and streamed", lambda: swap("masking: {", "masking: {response: client, ")().replace(
        "    listen: 127.0.0.1:15002\n", "    listen: 127.0.0.1:15002\n    body: stream\n"),
     "config.response_stream", 30, "body: inspect"),
    ("a rule over what is streamed", lambda: swap("masking: {", "  - {name: look, effect: flag}\nmasking: {")().replace(
        "    listen: 127.0.0.1:15002\n", "    listen: 127.0.0.1:15002\n    body: stream\n"),
     "config.response_stream", 30, "match.connection"),
    ("workload without token", swap("[dd-api-key, authorization]}", "[dd-api-key], require: both}"),
     "config.workload_token", 10, "workload_token_file"),
    ("store: not a URL", swap("embedded:./var/store", "sqlite:x"), "config.store_url", 2, "embedded:"),
    ("store: password", swap("embedded:./var/store", "clickhouse+https://w:p@c:8443/douane"),
     "config.store_url", 2, ""),
    ("store: no user", swap("embedded:./var/store", "clickhouse+https://c:8443/douane"), "config.store_url", 2, "user"),
    ("store: plain http", swap("embedded:./var/store", "clickhouse+http://w@c:8123/douane"),
     "config.plain_http", 2, ""),
    ("store beyond loopback", swap('/store"}', '/store", listen: "0.0.0.0:1"}'),
     "config.not_loopback", 2, "plain HTTP"),
    ("hub on TCP without TLS", add("hub: {listen: '127.0.0.1:9443'}\n"), "config.hub_tls", 31, "hub.tls"),
    ("hub nowhere", add("hub: {listen: somewhere}\n"), "config.value", 31, "unix:PATH"),
    ("gate's name", swap("gate: {", "gate: {name: 'a b', "), "config.value", 21, "letters"),
    ("no workers", swap("gate: {", "gate: {workers: 0, "), "config.value", 21, "greater than or equal to 1"),
    ("text for a number", swap("gate: {", "gate: {workers: many, "), "config.value", 21, "whole number"),
    ("two issuers with one URL",
     swap("connections:\n",
          '  other: {issuer: "https://token.actions.githubusercontent.com", audience: x}\nconnections:\n'),
     "config.duplicate_issuer", 5, "issuers.github"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason", "line", "part"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_is_wrong_is_named_with_its_line(change: Callable[[], str], reason: str, line: int, part: str) -> None:
    error = refuse(change())
    assert error.reason == reason, str(error)
    assert re.fullmatch(rf"douane\.yaml:{line}:\d+", error.where), str(error)
    assert part in error.message + error.remedy
    assert not isinstance(error, ConfigErrors), f"one fault, one error: {error}"


def test_every_fault_is_reported_at_once_in_the_files_order() -> None:
    error = refuse(GOOD.replace("127.0.0.1:15002", "0.0.0.0:15001").replace("issuer: github\n", "issuer: gitlab\n"))
    assert isinstance(error, ConfigErrors)
    assert [e.where.split(":")[1] for e in error.errors] == ["17", "17", "24"]
    assert {e.reason for e in error.errors} == {
        "config.not_loopback",
        "config.duplicate_listen",
        "config.unknown_issuer",
    }


def test_aliases_that_expand_without_bound_are_refused() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(8)
    )
    assert refuse(bomb).reason == "config.syntax"
    assert refuse("a: &a [*a]\n").reason == "config.syntax"
    assert refuse("[" * 5000).reason == "config.syntax"


def test_yaml_1_2_words_stay_text() -> None:
    loaded = parse(GOOD.replace("name: infra-main", "name: on"), "douane.yaml", Path("/srv"))
    assert loaded.config.grants[0].name == "on"


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.missing.*douane init"):
        load(tmp_path / "douane.yaml")
    with pytest.raises(ConfigError, match=r"config\.unreadable: cannot be read: is a directory"):
        load(tmp_path)
    (tmp_path / "latin").write_bytes(b"version: 1\n# \xe9\n")
    with pytest.raises(ConfigError, match=r"latin:2:1: config\.syntax: is not UTF-8"):
        load(tmp_path / "latin")
    (tmp_path / "large").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match=r"larger than 1024 KiB"):
        load(tmp_path / "large")


def test_load_resolves_against_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "douane.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert load(Path("douane.yaml")).config.gate.run_dir == f"{tmp_path}/var/run"


def test_an_issuer_whose_keys_are_elsewhere_may_be_named_with_http() -> None:
    url = '{issuer: "https://token.actions.githubusercontent.com"'
    named = '{issuer: "http://gitlab.internal", jwks_uri: "%s://gitlab.internal/oauth/discovery/keys"'
    assert GOOD.count(url) == 1
    loaded = parse(GOOD.replace(url, named % "https"), "douane.yaml", Path("/srv/douane"))
    assert loaded.config.issuers["github"].issuer == "http://gitlab.internal"
    error = refuse(GOOD.replace(url, named % "http"))
    assert (error.reason, error.message.split(":")[0]) == ("config.plain_http", "issuers.github.jwks_uri")


def test_json_paths_are_those_that_rules_understand() -> None:
    for path in ("$..['a b']", '$[\\"a b\\"]', "$..a", "$..[0].b", "$.größe"):
        parse(GOOD.replace("$.user.email", path), "douane.yaml", Path("/srv/douane"))
    for path in ("$[007]", "$.a" * 40, "$[?(@.a)]"):
        assert refuse(GOOD.replace("$.user.email", path)).reason == "config.json_path"
