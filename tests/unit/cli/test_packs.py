"""`douane policy packs`, and what `init` says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ext_proc import cli
from ext_proc.cli.output import few
from ext_proc.config import parse
from ext_proc.config.packs import names, pack


def test_packs_are_listed() -> None:
    result = CliRunner().invoke(cli.app, ["policy", "packs", "--json"])
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.output.splitlines()]
    assert [row["pack"] for row in rows] == list(names()) == ["datadog", "github"]
    assert [row["rules"] for row in rows] == [len(pack(name).rules) for name in names()]


@pytest.mark.parametrize("name", names())
def test_one_is_shown_with_its_settings_and_rules(name: str) -> None:
    result = CliRunner().invoke(cli.app, ["policy", "packs", name, "--json"])
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.output.splitlines()]
    assert {"approvers", *pack(name).settings} <= {row["setting"] for row in rows if "setting" in row}
    assert [row["rule"] for row in rows if "rule" in row] == [rule.name for rule in pack(name).rules]
    shown = CliRunner().invoke(cli.app, ["policy", "packs", name]).output
    assert "mint-credentials" in shown
    assert "max_writes" in shown


def test_an_unknown_one_is_wrong_usage() -> None:
    result = CliRunner().invoke(cli.app, ["policy", "packs", "datdog"])
    assert result.exit_code == 2


def test_the_packs_in_the_example_that_init_writes_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(cli.__file__).parent / "init.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    start = lines.index("# packs:")
    uncommented = [line.removeprefix("# ") for line in lines[start : start + 3]]
    loaded = parse("\n".join([*lines[:start], *uncommented, *lines[start + 3 :]]), "douane.yaml", Path("/nowhere"))
    assert [use.pack for use in loaded.config.packs] == ["datadog", "github"]


@pytest.mark.parametrize(
    ("items", "shown"),
    [([], ""), (["a"], "a"), (["a", "b", "c", "d"], "a, b, c, d"), (["a", "b", "c", "d", "e"], "a, b, c, and 2 more")],
)
def test_long_lists_are_cut_in_tables(items: list[str], shown: str) -> None:
    assert few(items) == shown
