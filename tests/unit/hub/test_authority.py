"""Session keys in the hub's table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ext_proc.hub import authority
from ext_proc.hub.authority import SessionError, Sessions
from ext_proc.hubclient.authority import _digest


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path / "authority.sqlite")


def create(sessions: Sessions, writer: str = "w", lifetime_s: int = 60) -> str:
    return sessions.create(writer, "datadog", "github", '{"sub":"x"}', lifetime_s)[0]


def test_a_key_resolves_to_what_it_was_made_for(sessions: Sessions) -> None:
    key, expires = sessions.create("w", "datadog", "github", '{"sub":"x"}', 60)
    assert re.fullmatch(r"dse_[A-Za-z0-9_-]{43}", key)
    assert sessions.resolve("w", _digest(key)) == ("datadog", "github", '{"sub":"x"}', expires)


def test_the_key_itself_is_nowhere_on_disk(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "authority.sqlite")
    key = create(sessions)
    sessions.close()
    assert _digest(key) in b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert not any(key[4:].encode() in p.read_bytes() for p in tmp_path.iterdir())
    assert (tmp_path / "authority.sqlite").stat().st_mode & 0o777 == 0o600


def test_refusals_have_their_reason(sessions: Sessions) -> None:
    live, revoked, expired = create(sessions), create(sessions), create(sessions, lifetime_s=-1)
    assert sessions.revoke("w", _digest(revoked))
    assert not sessions.revoke("w", _digest(revoked))
    assert not sessions.revoke("w", _digest(expired))
    for writer, key, reason in [
        ("w", "dse_unknown", "unknown"),
        ("w", revoked, "revoked"),
        ("w", expired, "expired"),
        ("another gate", live, "unknown"),
    ]:
        with pytest.raises(SessionError) as caught:
            sessions.resolve(writer, _digest(key))
        assert caught.value.reason == reason


def test_another_writer_cannot_revoke(sessions: Sessions) -> None:
    key = create(sessions)
    assert not sessions.revoke("another gate", _digest(key))
    sessions.resolve("w", _digest(key))


def test_keys_outlive_a_restart_and_ended_ones_are_purged(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "authority.sqlite")
    key, old = create(sessions), create(sessions, lifetime_s=-authority.KEEP_ENDED_S - 1)
    sessions.close()
    again = Sessions(tmp_path / "authority.sqlite")
    again.resolve("w", _digest(key))
    with pytest.raises(SessionError, match="expired"):
        again.resolve("w", _digest(old))
    create(again)
    with pytest.raises(SessionError, match="unknown"):
        again.resolve("w", _digest(old))
    again.close()
