"""What a credential may say, with whom it may go, and the page's examples."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ext_proc import config
from ext_proc.config import sources
from ext_proc.config.surroundings import missing_files, unset_variables
from ext_proc.errors import ConfigError
from ext_proc.supervisor.environment import named_secrets

PAGE = Path(__file__).parents[3] / "docs" / "credentials.md"
KEY = {"env": "KEY"}
OAUTH: dict[str, Any] = {"token_url": "https://login.example/token", "client_id": "me", "client_secret": KEY}
VAULT: dict[str, Any] = {"url": "https://vault.example", "path": "a", "field": "b", "auth": {"token": KEY}}
APP: dict[str, Any] = {"app_id": 1, "private_key": KEY, "owner": "acme"}
DATADOG: dict[str, Any] = {
    "service_account": "c0ea5a28-68e7-11ee-af78-7221d1e45f66",
    "scopes": ["dashboards_read"],
    "api_key": KEY,
    "app_key": KEY,
}
SIGV4: dict[str, Any] = {"service": "s3", "region": "r", "access_key_id": KEY, "secret_access_key": KEY}


def parsed(*credentials: dict[str, Any], gate: dict[str, Any] | None = None, **connection: Any) -> config.Loaded:
    document = {
        "version": 1,
        "gate": gate or {},
        "connections": {
            "api": {
                "listen": "127.0.0.1:15001",
                "upstream": "https://api.example.com",
                "credentials": list(credentials),
                **connection,
            }
        },
    }
    return config.parse(json.dumps(document), "douane.yaml", Path("/etc/douane"))


def bearer(form: str, **settings: Any) -> dict[str, Any]:
    return {"bearer": True, "from": {form: settings}}


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no source": ({"bearer": True}, "config.value", "`from` is missing"),
    "two sources": ({"bearer": True, "from": {"env": "A", "file": "b"}}, "config.value", "name one source"),
    "an unknown form": ({"bearer": True, "from": {"oauth": {}}}, "config.value", "oauth2"),
    "an unknown key": (bearer("oauth2", **OAUTH, scopes="x"), "config.unknown_key", "scopes"),
    "a secret in the file": (bearer("oauth2", **{**OAUTH, "client_secret": "s"}), "config.value", "name one source"),
    "a source of a source": (
        bearer("oauth2", **{**OAUTH, "client_secret": {"oauth2": OAUTH}}),
        "config.value",
        "name one source",
    ),
    "no proof": (bearer("oauth2", **{**OAUTH, "client_secret": None}), "config.value", "needs a client"),
    "the wrong proof": (bearer("oauth2", **OAUTH, auth="private_key_jwt"), "config.value", "needs a client"),
    "a proof of no use": (bearer("oauth2", **OAUTH, private_key=KEY), "config.value", "of no use"),
    "plain http": (
        bearer("oauth2", **{**OAUTH, "token_url": "http://login.example/token"}),
        "config.plain_http",
        "token_url",
    ),
    "plain http to revoke": (bearer("oauth2", **OAUTH, revoke_url="http://a.example"), "config.plain_http", "revoke"),
    "plain http to a vault": (bearer("vault", **{**VAULT, "url": "http://v.example"}), "config.plain_http", "vault"),
    "no field": (bearer("vault", **{**VAULT, "field": None}), "config.missing_key", "field"),
    "two logins": (
        bearer("vault", **{**VAULT, "auth": {"token": KEY, "jwt": {"role": "x"}}}),
        "config.value",
        "exactly one way to log in",
    ),
    "no workload": (bearer("vault", **{**VAULT, "auth": {"jwt": {"role": "x"}}}), "config.workload_token", "workload"),
    "no workload to exchange": (
        bearer("token_exchange", token_url="https://a.example", subject="workload"),
        "config.workload_token",
        "workload",
    ),
    "two installations": (bearer("github_app", **APP, installation_id=3), "config.value", "name one installation"),
    "no scopes": (bearer("datadog", **{**DATADOG, "scopes": []}), "config.value", "scopes"),
    "a key that lives a second": (bearer("datadog", **DATADOG, lifetime="1s"), "config.value", "at least 1m"),
    "two places": ({"header": "x", "sigv4": SIGV4}, "config.value", "exactly one place"),
    "keys named twice": ({"sigv4": SIGV4, "from": KEY}, "config.value", "named twice"),
    "half a key": ({"sigv4": {**SIGV4, "secret_access_key": None}}, "config.value", "two parts"),
    "a session without a key": (
        {"sigv4": {"service": "s3", "region": "r", "session_token": KEY}, "from": KEY},
        "config.value",
        "belongs to a key",
    ),
    "a signature without keys": ({"sigv4": {"service": "s3", "region": "r"}}, "config.value", "`from` is missing"),
    "another host": ({"header": "x", "from": KEY, "hosts": ["other.example"]}, "config.credential_host", "not among"),
    "a host that is none": ({"header": "x", "from": KEY, "hosts": ["https://a"]}, "config.value", "hosts"),
}


@pytest.mark.parametrize(("credential", "reason", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_at_load_with_its_line(credential: dict[str, Any], reason: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(credential)
    assert caught.value.reason == reason
    assert said in caught.value.message + caught.value.remedy
    assert caught.value.where.startswith("douane.yaml:1:")


def test_the_hosts_it_may_go_to() -> None:
    one = {"header": "x", "from": KEY, "hosts": ["API.example.com", "127.0.0.1", "[::1]"]}
    for upstream in (
        "https://api.example.com",
        "https://api.example.com:8443/v1",
        "http://127.0.0.1:9",
        "http://[::1]:9",
    ):
        parsed(one, upstream=upstream)
    for upstream in ("https://api.example.com.evil.example", "https://example.com", "https://xapi.example.com"):
        with pytest.raises(ConfigError, match="not among the hosts"):
            parsed(one, upstream=upstream)


def test_signatures_and_bodies_that_are_not_awaited() -> None:
    parsed({"sigv4": SIGV4}, body="stream")
    with pytest.raises(ConfigError) as caught:
        parsed({"sigv4": {**SIGV4, "service": "sqs"}}, body="stream")
    assert caught.value.reason == "config.sigv4_stream"


def test_a_caller_to_exchange_must_be_required() -> None:
    exchange = bearer("token_exchange", token_url="https://a.example")
    parsed(exchange)
    with pytest.raises(ConfigError, match="no caller's token"):
        parsed(exchange, gate={"workload_token_file": "./t"}, identity={"require": "workload"})


def test_every_file_and_variable_however_deep(tmp_path: Path) -> None:
    vault = {**VAULT, "auth": {"approle": {"role_id": {"env": "ROLE"}, "secret_id": {"file": "./secret-id"}}}}
    loaded = parsed(
        {"sigv4": {**SIGV4, "secret_access_key": {"vault": {**vault, "ca_file": "./ca.pem"}}}},
        {"header": "x", "from": {"kubernetes": {"mount": "./mount", "key": "k"}}},
        {"header": "y", "from": {"github_app": {**APP, "private_key": {"file": "./app.pem"}}}},
    )
    with pytest.raises(config.ConfigErrors) as caught:
        missing_files(loaded)
    named = {re.search(r"/etc/douane/\S+", error.message)[0] for error in caught.value.errors}  # type: ignore[index]
    assert named == {f"/etc/douane/{name}" for name in ("secret-id", "ca.pem", "mount/k", "app.pem")}
    assert {name for _, name in unset_variables(loaded.config, {})} == {"KEY", "ROLE"}
    assert named_secrets(loaded.config) == {"KEY", "ROLE"}, "kept out of other processes' environments"


def test_every_form_is_shown_in_the_error_and_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for form in sources.FORMS:
        assert f"`{form}`" in page or f"{form}:" in page


def _examples() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("text", _examples(), ids=lambda text: text.split(":")[0] + text[-30:-1])
def test_the_examples_of_the_page(text: str) -> None:
    gate = {"workload_token_file": "./token"}
    if text.startswith("from:"):
        forms = [f"from:{part}" for part in text.split("from:")[1:]]
        for form in forms:
            parsed({"header": "x-key", **YAML(typ="safe").load(form)}, gate=gate)
        return
    document = YAML(typ="safe").load(text)
    if "connections" in document:
        (connection,) = document["connections"].values()
        parsed(gate=gate, **connection)
        return
    hosts = {host for one in document["credentials"] for host in one.get("hosts", [])}
    upstream = f"https://{hosts.pop() if hosts else 'api.example.com'}"
    if "sigv4" in document["credentials"][0]:
        for one in document["credentials"]:
            parsed(one, gate=gate)
        return
    parsed(*document["credentials"], gate=gate, upstream=upstream)
