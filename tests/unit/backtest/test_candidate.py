"""A file that is tried: a whole configuration, or policies over the present one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_proc.backtest.candidate import candidate
from ext_proc.config import ConfigErrors
from ext_proc.errors import ConfigError

PRESENT = """\
version: 1
issuers: {github: {issuer: "https://issuer.example", audience: douane}}
connections:
  datadog: {listen: "127.0.0.1:15001", upstream: "https://api.datadoghq.com", scopes: {all: ["* /**"]}}
grants:
  - {name: infra, issuer: github, if: "claims.repository_id == '74'", allow: {datadog: [all]}}
policies:
  - {name: old, effect: deny, when: "request.method == 'PUT'"}
sessions: {window: 1m}
"""


@pytest.fixture
def present(tmp_path: Path) -> Path:
    path = tmp_path / "douane.yaml"
    path.write_text(PRESENT)
    return path


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "new.yaml"
    path.write_text(text)
    return path


def test_policies_alone_are_laid_over_the_present_configuration(present: Path, tmp_path: Path) -> None:
    file = write(tmp_path, "policies:\n  - {name: new, effect: deny, match: {connection: datadog}}\n")
    found = candidate(file, present)
    assert [policy.name for policy in found.loaded.config.policies] == ["new"]
    assert list(found.loaded.config.connections) == ["datadog"]
    assert found.loaded.config.sessions.window.total_seconds() == 60
    assert found.said == f"{file}: policies alone; they are tried in the place of those in {present}"


def test_a_whole_configuration_needs_no_present_one(tmp_path: Path) -> None:
    file = write(tmp_path, PRESENT.replace("name: old", "name: new"))
    found = candidate(file, tmp_path / "none.yaml")
    assert found.over is None
    assert "a whole configuration" in found.said
    with pytest.raises(ConfigError, match="there is no such file"):
        candidate(write(tmp_path, "policies: []"), tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("policies:\n  - {name: new, effekt: deny}\n", "new.yaml:2:17", "config.unknown_key"),
        ("policies:\n  - {name: new, effect: deny, match: {connection: dd}}\n",
         "new.yaml:2:39", "config.unknown_connection"),
        ("policies: {}\n", "new.yaml:1:11", "config.value"),
        ("policies: [\n", "new.yaml:2:1", "config.syntax"),
    ],
)  # fmt: skip
def test_faults_name_the_place_in_the_file_that_has_them(
    present: Path, tmp_path: Path, text: str, where: str, reason: str
) -> None:
    with pytest.raises((ConfigError, ConfigErrors)) as refused:
        candidate(write(tmp_path, text), present)
    faults = getattr(refused.value, "errors", (refused.value,))
    assert any(fault.where.endswith(where) and fault.reason == reason for fault in faults), faults


def test_a_fault_that_only_compiling_shows_is_located(present: Path, tmp_path: Path) -> None:
    from ext_proc.backtest.judge import Judge

    found = candidate(write(tmp_path, "policies:\n  - name: new\n    effect: deny\n    when: requst.method\n"), present)
    with pytest.raises(ConfigError) as refused:
        Judge(found.loaded.config)
    assert found.loaded.locate(refused.value).where.endswith("new.yaml:4:5")
