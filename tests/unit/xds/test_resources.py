"""What is built from douane.yaml, without Envoy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ext_proc.config import Config, inspected, parse
from ext_proc.errors import ConfigError
from ext_proc.xds import build, route_name
from ext_proc.xds.replies import LOCAL_REPLIES
from ext_proc.xds.upstream import system_ca_bundle, upstream

CONNECTION = '{listen: "127.0.0.1:15001", hosts: [a.example.com, b.example.com], upstream: "https://api.example.com"}'


def config(connection: str = CONNECTION, gate: str = '{tls_listen: "127.0.0.1:15443", workers: 3}') -> Config:
    text = f"version: 1\ngate: {gate}\nconnections: {{a: {connection}}}\n"
    return parse(text, "douane.yaml", Path("/somewhere")).config


def named(messages: Any) -> dict[str, Any]:
    return {message.name: message.to_dict() for message in messages}


def test_listeners_routes_and_clusters_go_by_connection_and_host() -> None:
    resources = build(config())
    route = route_name("a", config().connections["a"], frozenset())
    assert [listener.name for listener in resources.listeners] == ["base.a", "tls"]
    assert list(named(resources.routes)) == ["base.a", "tls.a.example.com", "tls.b.example.com"]
    assert list(named(resources.clusters)) == ["workers", route, f"{route}/http1"]
    assert resources.tls_hosts == ("a.example.com", "b.example.com")
    endpoints = named(resources.clusters)["workers"]["loadAssignment"]["endpoints"][0]["lbEndpoints"]
    pipes = [endpoint["endpoint"]["address"]["pipe"]["path"] for endpoint in endpoints]
    assert pipes == ["worker-0.sock", "worker-1.sock", "worker-2.sock"]


def test_no_host_is_served_without_a_port_for_tls() -> None:
    resources = build(config(CONNECTION.replace(", hosts: [a.example.com, b.example.com]", ""), gate="{workers: 1}"))
    assert [listener.name for listener in resources.listeners] == ["base.a"]
    assert resources.tls_hosts == ()


def test_listeners_stay_when_only_upstreams_change() -> None:
    """A changed listener drains, and cuts what is held."""
    before = build(config())
    after = build(config(CONNECTION.replace("api.example.com", "other.example.com")))
    assert named(before.listeners) == named(after.listeners)
    assert named(before.routes) != named(after.routes)


def test_route_name_changes_with_where_requests_go_and_nothing_else() -> None:
    def name(more: str) -> str:
        return route_name("a", config(CONNECTION.replace("}", f", {more}}}")).connections["a"], frozenset())

    plain = route_name("a", config().connections["a"], frozenset())
    assert plain.startswith("a@")
    assert len(plain) == len("a@") + 8
    assert name("timeout: 7s") == name("body: stream") == plain
    assert name("upstream_ca_file: ca.pem") != plain
    assert name("upstream_http2: true") != plain


def test_routes_whose_responses_are_looked_into_are_others_and_run_otherwise() -> None:
    connections = CONNECTION.replace("}", '}, b: {listen: "127.0.0.1:15002", upstream: "https://b.example.com"}')
    plain, whole = (
        config(connections, gate=f"{{tls_listen: '127.0.0.1:15443'}}\nmasking: {{response: {who}}}")
        for who in ("ledger", "client")
    )
    for settings, mode in ((plain, None), (whole, "FULL_DUPLEX_STREAMED")):
        resources = build(settings)
        names = {n: route_name(n, c, inspected(settings)) for n, c in settings.connections.items()}
        assert {*names.values()} <= named(resources.clusters).keys()
        routes = [r for table in resources.routes for host in table.virtual_hosts for r in host.routes if r.route]
        assert {r.name for r in routes} == {*names.values()}
        for route in routes:
            overrides = {n: c.unpack().overrides.processing_mode for n, c in route.typed_per_filter_config.items()}
            assert {n: m.response_body_mode.name for n, m in overrides.items()} == ({"gate": mode} if mode else {})
            for each in overrides.values():
                assert each.request_body_mode.name == "FULL_DUPLEX_STREAMED", "the request's mode stays"
                kept = (each.request_trailer_mode, each.response_header_mode, each.response_trailer_mode)
                assert {m.name for m in kept} == {"SEND"}
    assert named(build(plain).listeners) == named(build(whole).listeners), "a changed listener would cut what is held"
    for name in ("a", "b"):
        names = {route_name(name, each.connections[name], inspected(each)) for each in (plain, whole)}
        assert len(names) == 2, "a worker with the one configuration must not take the other's requests"


def test_workers_import_none_of_envoys_types() -> None:
    code = "import sys; from ext_proc.xds import route_name; print([m for m in sys.modules if 'envoy_data_plane' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "prefix", "authority", "literal"),
    [
        ("https://api.example.com", "api.example.com", 443, True, "", "api.example.com", False),
        ("https://api.example.com:8443/base/", "api.example.com", 8443, True, "/base", "api.example.com:8443", False),
        ("http://127.0.0.1:80/", "127.0.0.1", 80, False, "", "127.0.0.1", True),
        ("http://[::1]:99", "::1", 99, False, "", "[::1]:99", True),
    ],
)
def test_upstream_urls(url: str, host: str, port: int, tls: bool, prefix: str, authority: str, literal: bool) -> None:
    found = upstream("a", config(f'{{listen: "127.0.0.1:15001", upstream: "{url}"}}').connections["a"])
    assert (found.host, found.port, found.tls, found.prefix) == (host, port, tls, prefix)
    assert (found.authority, found.literal) == (authority, literal)


def test_public_roots_are_required_only_where_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match="SSL_CERT_FILE names no file") as caught:
        build(config())
    assert caught.value.reason == "config.no_ca_bundle"
    assert build(config(CONNECTION.replace("}", ", upstream_ca_file: own.pem}"))).clusters
    bundle = tmp_path / "roots.pem"
    bundle.touch()
    assert system_ca_bundle({"SSL_CERT_FILE": str(bundle)}) == bundle


def test_each_local_reply_says_what_why_and_what_next() -> None:
    for reply in LOCAL_REPLIES:
        assert reply.flags or reply.when
        assert reply.message.endswith(".")
        assert reply.remedy.endswith(".")
        assert reply.reason.partition(".")[0] in ("request", "gate", "upstream")
    assert LOCAL_REPLIES[-1].when == "true"
    # Only what comes after the client's x-request-id was replaced may show an id.
    assert {r.reason for r in LOCAL_REPLIES if not r.early} == {
        "request.host_mismatch",
        "request.host",
        "request.path",
        "request.method",
        "request.no_route",
        "gate.no_verdict",
        "gate.unavailable",
        "upstream.timeout",
        "upstream.unreachable",
        "upstream.overloaded",
        "upstream.reset",
    }
