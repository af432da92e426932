"""Finding Envoy, its command line, and what its refusals are told as. The binary itself is not started."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ext_proc.errors import ConfigError
from ext_proc.xds import Envoy
from ext_proc.xds.envoy import bootstrap_file, refused
from ext_proc.xds.naming import CLUSTERS_FILE, LISTENERS_FILE


def program(folder: Path, says: str, code: int = 0) -> dict[str, str]:
    path = folder / "envoy"
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    path.chmod(0o755)
    return {"DOUANE_ENVOY": str(path)}


def test_the_named_binary_is_used_if_it_is_new_enough(tmp_path: Path) -> None:
    version = "envoy  version: 9e55809/{}/Clean/RELEASE/BoringSSL"
    found = Envoy.find(program(tmp_path, version.format("1.38.1-dev")))
    assert found.version == (1, 38, 1)
    assert found.binary == tmp_path / "envoy"
    with pytest.raises(ConfigError, match=r"1\.37\.9; 1\.38 or later") as caught:
        Envoy.find(program(tmp_path, version.format("1.37.9")))
    assert caught.value.reason == "envoy.version"
    for says, code in (("nonsense", 0), ("x", 3)):
        with pytest.raises(ConfigError, match="envoy"):
            Envoy.find(program(tmp_path, says, code))
    with pytest.raises(ConfigError, match="does not run") as caught:
        Envoy.find({"DOUANE_ENVOY": str(tmp_path / "absent")})
    assert caught.value.reason == "envoy.missing"


def test_command_drains_longer_than_a_hold_and_shares_no_memory(tmp_path: Path) -> None:
    command = Envoy(tmp_path / "envoy", (1, 40, 0)).command(concurrency=3)
    assert command[0] == str(tmp_path / "envoy")
    assert "--disable-hot-restart" in command
    assert int(command[command.index("--drain-time-s") + 1]) > 3600
    assert command[command.index("--concurrency") + 1] == "3"


def test_bootstrap_has_relative_paths_and_a_private_admin() -> None:
    bootstrap = YAML(typ="safe").load(bootstrap_file().read_text())
    assert bootstrap["admin"]["address"]["pipe"] == {"path": "admin.sock", "mode": 0o600}
    sources = bootstrap["dynamic_resources"]
    assert sources["lds_config"]["path_config_source"]["path"] == LISTENERS_FILE
    assert sources["cds_config"]["path_config_source"]["path"] == CLUSTERS_FILE
    assert "static_resources" not in bootstrap


def test_a_refusal_has_a_reason_code_and_a_remedy() -> None:
    error = refused("no such thing")
    assert error.reason == "envoy.refused"
    assert "no such thing" in str(error)
    assert error.remedy
