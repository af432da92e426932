"""Suggested scopes and grants: what is pasted loads, covers what was seen, and nothing that was not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from ext_proc.backtest.callers import CLAIMS, Callers
from ext_proc.backtest.paste import yaml
from ext_proc.backtest.suggestion import Suggestion, suggest
from ext_proc.backtest.usage import Used
from ext_proc.config import Config, parse
from ext_proc.config.positions import read
from ext_proc.decision import Deny
from ext_proc.exchange import Caller, SignedClaims
from ext_proc.rules import Granted, Grants
from tests.unit.backtest.exchanges import config

GITHUB = {"iss": "x", "sub": "repo:acme/infra:ref:refs/heads/main", "repository": "acme/infra", "repository_id": "74"}
OPENAPI = """\
openapi: 3.0.0
paths:
  /api/v1/dashboard: {post: {operationId: CreateDashboard}}
  /api/v1/dashboard/{dashboard_id}: {get: {operationId: GetDashboard}, delete: {operationId: DeleteDashboard}}
"""


def raw(claims: dict[str, Any]) -> tuple[str, ...]:
    """As the ledger gives them."""
    found = []
    for path in CLAIMS:
        value: Any = claims
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        found.append("" if value is None else json.dumps(value))
    return tuple(found)


def used(request: str, count: int = 1, *, claims: dict[str, Any] | None = None, **more: Any) -> Used:
    method, path = request.split(" ", 1)
    told = {"connection": "datadog", "grant": "infra", "last": "2026-05-09 10:00", "issuer": "github", **more}
    return Used(method=method, path=path, count=count, claims=raw(claims) if claims else (), **told)


def suggested(*rows: Used, settings: Config | None = None) -> Suggestion:
    return suggest(lambda: rows, settings or config())


def pasted(suggestion: Suggestion, settings: Config, tmp_path: Path, *, grants: bool) -> Config:
    """The configuration with the suggestion in it, as a person would paste it."""
    text = yaml(suggestion, since="2026-05-02 10:00", until="2026-05-09 10:00", grants=grants)
    data, _ = read(text, "suggestion")
    whole = json.loads(settings.model_dump_json(by_alias=True, exclude_unset=True))
    for name, connection in (data or {}).get("connections", {}).items():
        whole["connections"][name] |= connection
    if grants:
        whole["grants"] = data["grants"]
    else:
        for grant in whole["grants"]:
            grant["allow"] = {name: list(c["scopes"]) for name, c in whole["connections"].items()}
    return parse(json.dumps(whole), "pasted.yaml", tmp_path).config


def test_reads_and_writes_are_scopes_of_their_own() -> None:
    found = suggested(
        used("GET /api/v1/monitor/7", 3),
        used("GET /api/v2/monitor/policy"),
        used("DELETE /api/v1/monitor/8"),
        used("POST /"),
        used("GET /v1"),
    )
    assert {name: [t.request for t in scope] for name, scope in found.scopes["datadog"].items()} == {
        "monitor:read": ["GET /api/v1/monitor/{monitor_id}", "GET /api/v2/monitor/policy"],
        "monitor:write": ["DELETE /api/v1/monitor/{monitor_id}"],
        "root:read": ["GET /v1"],
        "root:write": ["POST /"],
    }


def test_names_of_operations_go_before_paths(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(OPENAPI)
    settings = config(connection={"operations": {"openapi": str(tmp_path / "api.yaml")}})
    rows = [used("POST /api/v1/dashboard", 2), used("DELETE /api/v1/dashboard/abc"), used("GET /api/v1/monitor/7")]
    found = suggested(*rows, settings=settings)
    assert {name: [t.request for t in scope] for name, scope in found.scopes["datadog"].items()} == {
        "dashboard:write": ["operation CreateDashboard", "operation DeleteDashboard"],
        "monitor:read": ["GET /api/v1/monitor/{monitor_id}"],
    }
    assert found.left_out_count == 0
    grants = Grants(pasted(found, settings, tmp_path, grants=False))
    caller = Caller("github", "s", SignedClaims({"repository_id": "74"}), UUID(int=1), "")
    assert isinstance(grants.allow("datadog", "DELETE", "/api/v1/dashboard/xyz", caller), Granted)
    assert isinstance(grants.allow("datadog", "GET", "/api/v1/dashboard/xyz", caller), Deny)  # was not used


def test_what_nothing_used_is_told() -> None:
    settings = config(
        connection={"scopes": {"monitors": ["* /api/v1/monitor/**"], "slos": ["* /api/v1/slo/**"]}},
        policies=[],
    )
    found = suggested(used("GET /api/v1/monitor/7", grant="another"), settings=settings)
    assert (found.unused, found.idle) == ([("datadog", "slos")], ["infra"])
    text = yaml(found, since="a", until="b", grants=False)
    assert "#   connections.datadog.scopes.slos\n#   grants.infra\n" in text


def test_grants_by_ids_and_by_what_all_runs_share(tmp_path: Path) -> None:
    main = {**GITHUB, "ref": "refs/heads/main", "run_id": "1"}
    other = {**GITHUB, "repository_id": "75", "repository": "acme/web", "ref": "refs/heads/main"}
    rows = [
        used("GET /api/v1/monitor/7", 5, claims=main),
        used("DELETE /api/v1/monitor/7", 1, claims={**main, "ref": "refs/heads/dev", "run_id": "2"}),
        used("GET /api/v1/slo/1", 2, claims=other),
    ]
    settings = config()
    found = suggested(*rows, settings=settings)
    assert [(c.called, c.condition, sorted(c.scopes["datadog"])) for c in found.callers] == [
        ("acme/infra", "claims.repository_id == '74'", ["monitor:read", "monitor:write"]),
        ("acme/web", "claims.repository_id == '75' && claims.ref == 'refs/heads/main'", ["slo:read"]),
    ]
    grants = Grants(pasted(found, settings, tmp_path, grants=True))

    def allowed(claims: dict[str, Any], method: str, path: str) -> bool:
        caller = Caller("github", claims["sub"], SignedClaims(claims), UUID(int=1), "")
        return isinstance(grants.allow("datadog", method, path, caller), Granted)

    assert allowed(main, "DELETE", "/api/v1/monitor/9")
    assert allowed(other, "GET", "/api/v1/slo/2")
    assert not allowed(other, "GET", "/api/v1/monitor/9")
    assert not allowed({**other, "ref": "refs/heads/dev"}, "GET", "/api/v1/slo/2")
    assert not allowed({**main, "repository_id": "76"}, "GET", "/api/v1/monitor/9")


@pytest.mark.parametrize(
    ("claims", "condition"),
    [
        (
            {"project_id": "20", "namespace_id": "72", "ref": "main", "ref_type": "branch", "environment": ""},
            "claims.project_id == '20' && claims.ref == 'main' && claims.ref_type == 'branch'",
        ),
        (
            {"oidc.circleci.com/project-id": "3a2f", "oidc.circleci.com/vcs-ref": "refs/heads/x"},
            "claims['oidc.circleci.com/project-id'] == '3a2f' && claims['oidc.circleci.com/vcs-ref'] == 'refs/heads/x'",
        ),
        (
            {"kubernetes.io": {"namespace": "ns", "serviceaccount": {"uid": "14ee"}, "pod": {"uid": "5"}}},
            "claims['kubernetes.io'].namespace == 'ns' && claims['kubernetes.io'].serviceaccount.uid == '14ee'",
        ),
        ({"repository_id": 74, "sub": "it's\\\n"}, 'claims.sub == "it\'s\\\\\\n"'),
    ],
)  # fmt: skip
def test_conditions_of_other_systems_hold_for_their_own_claims(claims: dict[str, Any], condition: str) -> None:
    callers = Callers()
    callers.add("ci", raw({"sub": "s", **claims}), "datadog", ["a"], 1, "")
    (caller,) = callers.found()
    assert caller.condition == condition
    grant = {"name": "g", "issuer": "ci", "if": condition, "allow": {"datadog": ["everything"]}}
    issuers = {"ci": {"issuer": "https://issuer.example", "audience": "a"}}
    grants = Grants(config(grants=[grant], issuers=issuers))
    who = Caller("ci", "s", SignedClaims({"sub": "s", **claims}), UUID(int=1), "")
    assert isinstance(grants.allow("datadog", "GET", "/", who), Granted)


def test_hostile_names_cannot_leave_their_line(tmp_path: Path) -> None:
    claims = {
        "sub": "x\n- name: evil",
        "repository_id": "7'] || true || claims['x",
        "repository": "a\u2028\r\n# b\x85c",
    }
    rows = [
        used('GET /a"b\\c/{d}: [e]', claims=claims),
        used("GET /%0aevil: 1", claims=claims, issuer="github"),
        used("POST /x\u2028y", claims=claims),
    ]
    settings = config()
    found = suggested(*rows, settings=settings)
    text = yaml(found, since="a", until="b", grants=True)
    assert "evil" not in text.replace("%0aevil", "").replace("\\n- name: evil", "")
    loaded = pasted(found, settings, tmp_path, grants=True)
    assert len(loaded.grants) == 1
    (scope, *_) = loaded.connections["datadog"].scopes
    caller = Caller("github", "s", SignedClaims({"repository_id": "8"}), UUID(int=1), "")
    assert isinstance(Grants(loaded).allow("datadog", "POST", "/x", caller), Deny)
    assert scope


def test_the_pasted_text(tmp_path: Path) -> None:
    claims = {**GITHUB, "ref": "refs/heads/main"}
    settings = config(connection={"scopes": {"slos": ["* /api/v1/slo/**"]}})
    rows = [
        used("POST /api/v1/dashboard", 1200, claims=claims),
        used("GET /api/v1/monitor/7", 3, claims=claims),
        used("GET /api/v1/monitor/search", 1, claims=claims),
    ]
    text = yaml(suggested(*rows, settings=settings), since="2026-05-02 10:00", until="2026-05-09 10:00", grants=True)
    assert text == Path(__file__).with_name("suggestion.yaml").read_text()
