"""The demo's configuration is valid, and its search for leaks finds what is planted."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from examples.demo import leaks
from examples.demo.demo import CLAIMS, CONFIG
from ext_proc.config import load

if TYPE_CHECKING:
    from pathlib import Path

SECRET = 'k/e+y="0123456789abcdef'


def test_the_configuration_loads(tmp_path: Path) -> None:
    path = tmp_path / "douane.yaml"
    path.write_text(CONFIG.format(store=15123, console=15000, issuer=9400, listen=15001, upstream=9401))
    config = load(path).config
    assert (
        config.grants[0].condition
        == f"claims.repository_id == '{CLAIMS['repository_id']}' && claims.ref == '{CLAIMS['ref']}'"
    )
    assert {c.place for c in config.connections["datadog"].credentials} == {
        "header:dd-api-key",
        "header:dd-application-key",
    }


@pytest.mark.parametrize(
    "written",
    [
        SECRET.encode(),
        SECRET.encode().hex().encode(),
        SECRET.encode().hex().upper().encode(),
        quote(SECRET, safe="").encode(),
        json.dumps(SECRET).encode(),
        *(base64.b64encode(b"user:"[:n] + SECRET.encode() + b"more"[:m]) for n in range(4) for m in range(4)),
        base64.urlsafe_b64encode(b"x" + SECRET.encode()),
    ],
)
def test_a_planted_secret_is_found(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"before " + written + b" after")
    assert leaks.find(leaks.files(tmp_path), {"the key": SECRET}) == ["the key in deep/file"]


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(SECRET.encode()[:-1] + base64.b64encode(SECRET.encode()[:-1]))
    assert leaks.find(leaks.files(tmp_path), {"the key": SECRET}) == []
