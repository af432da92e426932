"""Open sources across reloads: equal ones are kept, what nobody needs any more is given back, in the right order."""

from __future__ import annotations

from typing import Any

import pytest

from ext_proc.config import Credential
from ext_proc.credentials import Credentials, Sources
from ext_proc.errors import CredentialError
from tests.contract.credentials.peer import Asked, Peer, Reply


class Tokens:
    def __init__(self) -> None:
        self.issued: list[str] = []
        self.revoked: list[str] = []

    def __call__(self, asked: Asked) -> Reply:
        if asked.path == "/revoke":
            self.revoked.append(asked.body.decode().partition("token=")[2].partition("&")[0])
            return 200, None
        self.issued.append(f"token-{len(self.issued)}")
        return 200, {"access_token": self.issued[-1], "token_type": "bearer", "expires_in": 600}


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUANE_TEST_SECRET", "s3cret-of-the-client")


def one(url: str, **settings: Any) -> Credential:
    source = {
        "token_url": f"{url}/token",
        "revoke_url": f"{url}/revoke",
        "client_id": "me",
        "client_secret": {"env": "DOUANE_TEST_SECRET"},
        **settings,
    }
    return Credential.model_validate({"bearer": True, "from": {"oauth2": source}})


async def test_a_reload_keeps_what_is_the_same_and_ends_what_is_not() -> None:
    tokens, sources = Tokens(), Sources()
    with Peer(tokens) as peer:
        before = Credentials([one(peer.url)], sources)
        await before.resolve()
        same = Credentials([one(peer.url)], sources)
        other = Credentials([one(peer.url, scope="other")], sources)
        await same.resolve()
        await other.resolve()
        assert tokens.issued == ["token-0", "token-1"]
        await sources.keep(other.sources)
        assert tokens.revoked == ["token-0"]
        with pytest.raises(CredentialError, match="configuration changed"):
            await before.resolve()
        await sources.close()
        assert tokens.revoked == ["token-0", "token-1"]


async def test_a_source_that_is_gone_does_not_keep_the_others() -> None:
    tokens, sources = Tokens(), Sources()
    with Peer(tokens) as away:
        credentials = Credentials([one(away.url)], sources)
        await credentials.resolve()
    with Peer(tokens) as peer:
        await Credentials([one(peer.url)], sources).resolve()
        await sources.close()
    assert tokens.revoked == ["token-1"]


async def test_warm_fetches_all_that_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens()
    with Peer(tokens) as peer:
        missing = Credential.model_validate({"header": "x", "from": {"env": "DOUANE_TEST_MISSING"}})
        credentials = Credentials([missing, one(peer.url)], Sources())
        with pytest.raises(CredentialError, match="DOUANE_TEST_MISSING is not set"):
            await credentials.warm()
    assert {value for _, value in credentials.known()} == {b"token-0", b"s3cret-of-the-client"}
