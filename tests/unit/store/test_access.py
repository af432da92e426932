from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ext_proc.errors import StoreError
from ext_proc.hub.store import access


def test_passwords_are_made_once_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "store"
    access.ensure_passwords(folder)
    first = {user: access.password(folder, user) for user in access.USERS}
    access.ensure_passwords(folder)
    assert {user: access.password(folder, user) for user in access.USERS} == first
    assert len(set(first.values())) == 2
    assert all(len(value) >= 43 for value in first.values())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {f.name: f.stat().st_mode & 0o777 for f in folder.iterdir()} == {
        "writer.password": 0o600,
        "auditor.password": 0o600,
    }


def test_many_at_once_agree(tmp_path: Path) -> None:
    def make(_: int) -> str:
        access.ensure_passwords(tmp_path)
        return access.password(tmp_path, "writer")

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(make, range(32)))) == 1


def test_missing_password_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="douane up") as raised:
        access.password(tmp_path, "auditor")
    assert raised.value.reason == "store.password"
    (tmp_path / "auditor.password").write_text("\n")
    with pytest.raises(StoreError, match="empty"):
        access.password(tmp_path, "auditor")


def test_check() -> None:
    passwords = access.Passwords({"writer": "w", "auditor": "a"})
    assert passwords.check("writer", "w") == "writer"
    assert passwords.check("auditor", "a") == "auditor"
    assert passwords.check("auditor", "w") is None
    assert passwords.check("writer", "") is None
    assert passwords.check("", "w") is None
    assert passwords.check("writer", "\udcff") is None


def test_importing_the_package_is_cheap() -> None:
    """The hub and the CLI import it; only the store's own process may load the engine and the server."""
    code = (
        "import sys, ext_proc.hub.store, ext_proc.hub.store.access;"
        "print([m for m in ('chdb', 'starlette', 'uvicorn', 'zstandard', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert out.stdout.strip() == "[]"
