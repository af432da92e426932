import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from ext_proc.config import Config
from ext_proc.decision import Deny
from ext_proc.errors import ConfigError
from ext_proc.exchange import Caller, SignedClaims
from ext_proc.rules import Granted, Grants, Operations, Policies

PATHS = {
    "/api/v1/dashboard": {"post": {"operationId": "CreateDashboard"}},
    "/api/v1/dashboard/{id}": {"get": {"operationId": "GetDashboard"}, "delete": {"operationId": "DeleteDashboard"}},
    "/api/v1/dashboard/lists": {"get": {"operationId": "ListLists"}},
}
PATTERNS = {"monitor.mute": ["POST /api/v1/monitor/{id}/mute"], "dashboards": ["* /api/v1/dashboard/**"]}
CALLER = Caller("github", "sub", SignedClaims({}), UUID(int=1), "run 1")


def config(folder: Path, *policies: dict[str, Any], **scopes: list[str]) -> Config:
    document = folder / "api.json"
    document.write_text(json.dumps({"openapi": "3.0.0", "paths": PATHS}))
    connection = {
        "listen": "127.0.0.1:1",
        "upstream": "https://api.example",
        "operations": {"openapi": str(document), "patterns": {"monitor.mute": PATTERNS["monitor.mute"]}},
        "scopes": scopes or {"all": ["* /**"]},
    }
    return Config.model_validate(
        {
            "version": 1,
            "issuers": {"github": {"issuer": "https://gh.example", "audience": "douane"}},
            "connections": {"dd": connection},
            "grants": [{"name": "g", "issuer": "github", "if": "true", "allow": {"dd": list(scopes or ["all"])}}],
            "policies": policies,
        }
    )


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/api/v1/dashboard", "CreateDashboard"),
        ("GET", "/api/v1/dashboard/abc", "GetDashboard"),
        ("GET", "/api/v1/dashboard/lists", "ListLists"),
        ("DELETE", "/api/v1/dashboard/lists", "DeleteDashboard"),
        ("POST", "/api/v1/monitor/7/mute", "monitor.mute"),
        ("POST", "/api/v1/dashboard/", ""),
        ("POST", "/API/v1/dashboard", ""),
        ("POST", "/other", ""),
        ("GET", "/api/v1/dashboard/..%2fx", ""),
    ],
)
def test_a_request_has_the_name_of_its_most_literal_path(tmp_path: Path, method: str, path: str, name: str) -> None:
    policies = Policies(config(tmp_path))
    assert policies.operation("dd", method, path) == name


def test_own_patterns_name_a_request_and_do_not_hide_it_from_rules(tmp_path: Path) -> None:
    connection = config(tmp_path).connections["dd"]
    assert connection.operations is not None
    own = connection.model_copy(update={"operations": connection.operations.model_copy(update={"patterns": PATTERNS})})
    operations = Operations(own, "dd")
    assert operations.of("GET", "/api/v1/dashboard/lists") == "dashboards"
    assert operations.possible("GET", "/api/v1/dashboard/lists") == {"dashboards", "ListLists"}


@pytest.mark.parametrize(
    ("method", "path", "denied"),
    [
        ("DELETE", "/api/v1/dashboard/abc", True),
        ("DELETE", "/API/v1/Dashboard/abc/", True),
        ("delete", "/api/v1/dashboard/abc", True),
        ("DELETE", "/api/v1/x/..;/dashboard/abc", True),
        ("GET", "/api/v1/dashboard/abc", False),
    ],
)
def test_rules_match_operations_leniently(tmp_path: Path, method: str, path: str, denied: bool) -> None:
    policies = Policies(
        config(tmp_path, {"name": "p", "effect": "deny", "match": {"operation": ["DeleteDashboard", "monitor.mute"]}})
    )
    assert bool(policies.fitting("dd", method, path)) is denied


def test_a_template_does_not_speak_for_a_literal_path(tmp_path: Path) -> None:
    policies = Policies(config(tmp_path, {"name": "p", "effect": "deny", "match": {"operation": "GetDashboard"}}))
    assert not policies.fitting("dd", "GET", "/api/v1/dashboard/lists")
    assert policies.fitting("dd", "GET", "/api/v1/dashboard/Lists")


def test_scopes_of_operations_allow_exactly(tmp_path: Path) -> None:
    grants = Grants(config(tmp_path, read=["operation GetDashboard", "GET /health"], lists=["operation ListLists"]))
    assert grants.allow("dd", "GET", "/api/v1/dashboard/abc", CALLER) == Granted("g", "read")
    assert grants.allow("dd", "GET", "/api/v1/dashboard/lists", CALLER) == Granted("g", "lists")
    assert grants.allow("dd", "GET", "/health", CALLER) == Granted("g", "read")
    for method, path in (("DELETE", "/api/v1/dashboard/abc"), ("GET", "/API/v1/dashboard/abc"), ("GET", "/other")):
        assert isinstance(grants.allow("dd", method, path, CALLER), Deny)


def test_unknown_names_are_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean `GetDashboard`") as caught:
        Grants(config(tmp_path, read=["operation GetDashbord"]))
    assert caught.value.reason == "config.unknown_operation"
    with pytest.raises(ConfigError, match=r"Did you mean `monitor\.mute`"):
        Policies(config(tmp_path, {"name": "p", "effect": "deny", "match": {"operation": "monitor.mut"}}))
