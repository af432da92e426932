"""`douane policy test` and `suggest`, as far as they go without a store."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ext_proc.cli import app

CONFIG = "version: 1\nstore: {listen: '127.0.0.1:9'}\n"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("douane.yaml").write_text(CONFIG)
    Path("new.yaml").write_text("policies: []\n")


@pytest.mark.parametrize("command", ["test", "suggest", "explain"])
def test_each_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, ["policy", command, "--help"])
    assert result.exit_code == 0
    assert len(result.stdout.split()) > 100


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["test"], 2, "file"),
        (["test", "none.yaml"], 1, "none.yaml: config.missing: there is no such file"),
        (["test", "new.yaml"], 1, "error: store."),
        (["test", "new.yaml", "-c", "none.yaml"], 1, "none.yaml: config.missing"),
        (["test", "new.yaml", "--since", "yesterday"], 2, "--since"),
        (["test", "new.yaml", "--until", "yesterday"], 2, "--until"),
        (["test", "new.yaml", "--since", "1d", "--until", "7d"], 2, "it is not before --until"),
        (["test", "new.yaml", "--fail-on", "weather"], 2, "--fail-on"),
        (["test", "new.yaml", "--claims", "c.json"], 2, "--claims"),
        (["test", "new.yaml", "--har", "x.har"], 2, "--connection"),
        (["suggest"], 1, "error: store."),
        (["suggest", "--since", "1d", "--until", "7d"], 2, "it is not before --until"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], code: int, said: str) -> None:
    result = CliRunner().invoke(app, ["policy", *arguments])
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
