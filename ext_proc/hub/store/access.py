"""The two users of the embedded store and their passwords, for the store, the hub and the CLI. Imports no chdb.

`writer` inserts and migrates, `auditor` reads. Passwords are made once, at the store's first start, and lie beside
the data with mode 0600: whoever reads them could read the data as well.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from ext_proc.errors import StoreError

User = Literal["writer", "auditor"]
USERS: tuple[User, ...] = ("writer", "auditor")


def ensure_passwords(folder: Path) -> None:
    """Make `folder` (0700) and whichever password file is missing in it. Two processes may do so at once."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for user in USERS:
        file = _file(folder, user)
        if file.exists():
            continue
        # Written beside and linked into place, so that nobody ever reads half a password.
        draft = folder / f".{user}.{os.getpid()}.{secrets.token_hex(4)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(secrets.token_urlsafe(32) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            with suppress(FileExistsError):
                os.link(draft, file)
        finally:
            draft.unlink()


def password(folder: Path, user: User) -> str:
    """The password of `user` for the store in `folder`. StoreError `store.password` if it cannot be read."""
    file = _file(folder, user)
    try:
        value = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise StoreError(
            "store.password",
            f"the password of {user} cannot be read from {file}: {getattr(error, 'strerror', None) or error}",
            remedy="The store makes it at its first start: run `douane up` or `douane store`, as the same user.",
        ) from error
    if not value:
        raise StoreError("store.password", f"{file} is empty", remedy="Remove it and restart the store.")
    return value


class Passwords:
    """Tells who presents a password, in constant time. Holds digests only."""

    def __init__(self, passwords: Mapping[User, str]) -> None:
        self._digests = {user: _digest(value) for user, value in passwords.items()}

    @classmethod
    def read(cls, folder: Path) -> Passwords:
        return cls({user: password(folder, user) for user in USERS})

    def check(self, name: str, presented: str) -> User | None:
        """The user called `name` if `presented` is the password; otherwise None. Every user is compared each time."""
        digest = _digest(presented)
        found: User | None = None
        for user, expected in self._digests.items():
            if hmac.compare_digest(digest, expected) and user == name:
                found = user
        return found


def _file(folder: Path, user: User) -> Path:
    return folder / f"{user}.password"


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest()
