"""`douane policy explain` with a request: what a gate would say of it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ext_proc.cli.root import app

CONFIG = """\
version: 1
issuers: {ci: {issuer: "https://ci.example", audience: douane}}
connections:
  datadog: {listen: "127.0.0.1:15001", upstream: "https://api.datadoghq.com"}
packs:
  - {pack: datadog, connection: datadog}
"""
FINE, IFRAME = b'{"title": "t", "widgets": []}', b'{"widgets": [{"definition": {"type": "iframe"}}]}'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("douane.yaml").write_text(CONFIG)


def explained(body: bytes, *more: str) -> dict[str, Any]:
    Path("body").write_bytes(body)
    arguments = ["policy", "explain", "POST", "/api/v1/dashboard", "--body", "body", "--json", *more]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_it_is_the_first_request_of_a_session_unless_told() -> None:
    assert explained(FINE)["outcome"] == "passes, where a grant allows it"
    told = explained(FINE, "--session", "window.writes=101")
    assert (told["outcome"], told["why"][:14]) == ("deny", "policy.denied:")
    wrong = CliRunner().invoke(app, ["policy", "explain", "POST", "/", "--session", "writing=1"])
    assert wrong.exit_code == 2


def test_a_body_is_decoded_as_on_the_way() -> None:
    coded = ("--header", "content-encoding: gzip")
    assert explained(gzip.compress(FINE), *coded)["outcome"] == "passes, where a grant allows it"
    assert explained(gzip.compress(IFRAME), *coded)["why"] == "policy.denied: this kind of widget is not allowed"
    assert explained(FINE, *coded)["why"].startswith("policy.uninspectable")


def test_what_no_request_may_do_is_told_too() -> None:
    assert explained(FINE, "--header", "x-http-method-override: PUT")["why"].startswith("request.method_override")
    form = ("--header", "content-type: application/x-www-form-urlencoded")
    assert explained(b"_method=DELETE", *form)["why"].startswith("request.method_override")
