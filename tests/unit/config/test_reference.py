"""The reference pages say what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from ext_proc.config import base, json_schema

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["configuration", "cli", "reasons", "policies", "packs", "detectors"])
def test_the_page_is_what_the_code_would_write(generate: ModuleType, page: str) -> None:
    written = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert written == getattr(generate, page)(), "run `python docs/generate.py` and commit what it writes"


def test_every_key_is_explained(generate: ModuleType) -> None:
    assert "|  |" not in generate.configuration()


def test_every_model_has_a_section(generate: ModuleType) -> None:
    shown = {name for _, name in generate._SECTIONS}
    assert shown == {model.__name__ for model in base.every_model()}


def test_the_schema_says_what_it_is_a_schema_of() -> None:
    schema = json_schema()
    assert schema["title"] == "douane.yaml"
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["version"]


def test_the_reasons_that_clients_meet_are_listed(generate: ModuleType) -> None:
    page = generate.reasons()
    for reason in ("identity.expired", "grant.none", "policy.denied", "upstream.timeout", "recording.unavailable"):
        assert f"| `{reason}` |" in page
