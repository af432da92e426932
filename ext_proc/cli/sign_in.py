"""A person's sign-in for `douane approvals`: got from the approvers' OpenID provider, kept for one hub, renewed.

What is kept is a file of mode 0600 under $XDG_CONFIG_HOME/douane/login, named after the hub: a token is only ever sent
to the hub that its owner signed in for.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ext_proc.errors import IdentityError

if TYPE_CHECKING:
    from ext_proc.cli.hub import Place

RENEW_BEFORE_S = 60


@dataclass(frozen=True, slots=True)
class Kept:
    """Of one sign-in. `user` is for display only: the hub reads the token itself."""

    hub: str
    issuer: str
    client_id: str
    user: str
    id_token: str = field(repr=False)
    refresh_token: str = field(default="", repr=False)

    @property
    def expires(self) -> float:
        """Of the ID token, seconds since the epoch."""
        return float(claims_of(self.id_token).get("exp", 0))


class Login:
    """The sign-in for one hub, if there is one."""

    def __init__(self, hub: str, ca_file: str | None = None) -> None:
        self._hub = hub
        self._ca_file = ca_file
        self._path = _folder() / f"{hashlib.sha256(hub.encode()).hexdigest()[:24]}.json"

    @classmethod
    def of(cls, where: Place) -> Login:
        return cls(where.url, where.ca_file)

    def kept(self) -> Kept | None:
        """None where nobody signed in."""
        try:
            found = Kept(**json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.hub == self._hub else None

    def keep(self, kept: Kept) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = self._path.with_suffix(f".{os.getpid()}")
        made.unlink(missing_ok=True)
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(kept), file)
        made.replace(self._path)

    def forget(self) -> bool:
        """Whether there was one."""
        there = self._path.exists()
        self._path.unlink(missing_ok=True)
        return there

    def id_token(self) -> str:
        """A token that is valid for a while yet. IdentityError `login.none`, `login.expired`."""
        kept = self.kept()
        if kept is None:
            raise IdentityError(
                "login.none",
                f"you are not signed in to {self._hub}",
                remedy="Sign in: `douane login`; on the hub's own machine, --as local may do.",
            )
        if kept.expires - time.time() > RENEW_BEFORE_S:
            return kept.id_token
        with self._locked():  # another command may have renewed it meanwhile
            kept = self.kept() or kept
            if kept.expires - time.time() > RENEW_BEFORE_S:
                return kept.id_token
            return self._renewed(kept).id_token

    def _renewed(self, kept: Kept) -> Kept:
        from ext_proc.cli.provider import Provider

        if kept.refresh_token:
            renewed = Provider.discover(kept.issuer, kept.client_id, self._ca_file).refresh(kept, self._hub)
            if renewed is not None:
                self.keep(renewed)
                return renewed
        if kept.expires > time.time():
            return kept
        raise IdentityError("login.expired", "your sign-in has expired", remedy="Sign in again: `douane login`.")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def claims_of(token: str) -> dict[str, Any]:
    """What a token says, unverified: it came from the provider's own endpoint, and the hub verifies it."""
    try:
        part = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _folder() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "douane" / "login"
