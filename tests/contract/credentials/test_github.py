"""Installation tokens, against a server with the rules that GitHub documents: the App's JWT is verified with its public
key, may live ten minutes at most and must not come from the future; what is asked for must be in the App's reach."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ext_proc.config import Credential
from ext_proc.credentials import Credentials, Injection
from ext_proc.errors import CredentialError
from tests.contract.credentials.peer import Asked, Peer, Reply

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
).decode()
PERMISSIONS = {"contents": "write", "metadata": "read"}
RANKS = ["read", "write", "admin"]


class GitHub:
    """An App 12345, installed as 99 in the organisation acme (on infra and docs) and as 100 by the user mona."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        self.lifetime = 3600.0

    def __call__(self, asked: Asked) -> Reply:
        assert asked.headers["accept"] == "application/vnd.github+json"
        assert asked.headers["x-github-api-version"] == "2022-11-28"
        token = asked.headers["authorization"].removeprefix("Bearer ")
        path = asked.path.removeprefix("/api/v3")
        if (asked.method, path) == ("DELETE", "/installation/token"):
            return (204, None) if self.tokens.pop(token, None) else (401, {"message": "Bad credentials"})
        if not self.believes(token):
            return 401, {"message": "A JSON web token could not be decoded"}
        installations = {
            "/orgs/acme/installation": 99,
            "/repos/acme/infra/installation": 99,
            "/users/mona/installation": 100,
        }
        if asked.method == "GET":
            return (200, {"id": installations[path]}) if path in installations else (404, {"message": "Not Found"})
        for installation in (99, 100):
            if path == f"/app/installations/{installation}/access_tokens":
                return self.issue(asked.json)
        return 404, {"message": "Not Found"}

    def believes(self, token: str) -> bool:
        try:
            claims = jwt.decode(
                token, KEY.public_key(), algorithms=["RS256"], options={"require": ["iat", "exp", "iss"]}, leeway=0
            )
        except jwt.PyJWTError:
            return False
        return str(claims["iss"]) == "12345" and claims["exp"] - claims["iat"] <= 600 and claims["iat"] <= time.time()

    def issue(self, asked: dict[str, Any]) -> Reply:
        if not set(asked) <= {"repositories", "permissions"} or not set(asked.get("repositories", [])) <= {
            "infra",
            "docs",
        }:
            return 422, {"message": "There is at least one repository that does not exist or is not accessible"}
        for name, right in asked.get("permissions", {}).items():
            if name not in PERMISSIONS or RANKS.index(right) > RANKS.index(PERMISSIONS[name]):
                return 422, {"message": "The permissions requested are not granted to this installation."}
        token = f"ghs_{len(self.tokens):036d}"
        until = datetime.fromtimestamp(time.time() + self.lifetime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.tokens[token] = asked
        return 201, {"token": token, "expires_at": until, "permissions": asked.get("permissions", PERMISSIONS)}


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> GitHub:
    monkeypatch.setenv("DOUANE_TEST_APP_KEY", PEM)
    return GitHub()


def made(url: str, **settings: Any) -> Credentials:
    app = {"app_id": 12345, "private_key": {"env": "DOUANE_TEST_APP_KEY"}, "api_url": url, **settings}
    return Credentials([Credential.model_validate({"bearer": True, "from": {"github_app": app}})])


async def value(credentials: Credentials) -> str:
    (found,) = await credentials.resolve()
    assert isinstance(found, Injection)
    return found.secret.decode()


@pytest.mark.parametrize(
    "installation", [{"installation_id": 99}, {"owner": "acme"}, {"owner": "mona"}, {"repository": "acme/infra"}]
)
async def test_a_token_of_the_installation_and_its_end(github: GitHub, installation: dict[str, Any]) -> None:
    with Peer(github) as peer:
        credentials = made(f"{peer.url}/api/v3", **installation)
        token = await value(credentials)
        assert token in github.tokens
        assert await value(credentials) == token
        assert ("authorization", token.encode()) in credentials.known()
        assert any(b"PRIVATE KEY" in secret for _, secret in credentials.known())
        await credentials.sources[0].close()
        assert github.tokens == {}


async def test_it_is_narrowed(github: GitHub) -> None:
    with Peer(github) as peer:
        token = await value(
            made(peer.url, installation_id=99, repositories=["infra"], permissions={"contents": "read"})
        )
        assert github.tokens[token] == {"repositories": ["infra"], "permissions": {"contents": "read"}}


async def test_the_installation_is_looked_up_once(github: GitHub) -> None:
    github.lifetime = 1.0
    with Peer(github) as peer:
        credentials = made(peer.url, owner="acme")
        await value(credentials)
        await credentials.sources[0].close()
        assert [asked.path for asked in peer.asked].count("/orgs/acme/installation") == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"installation_id": 7},
        {"owner": "nobody"},
        {"repository": "acme/none"},
        {"installation_id": 99, "repositories": ["secret-repo"]},
        {"installation_id": 99, "permissions": {"contents": "admin"}},
        {"installation_id": 99, "app_id": 1},
    ],
)
async def test_what_github_refuses(github: GitHub, settings: dict[str, Any]) -> None:
    with Peer(github) as peer, pytest.raises(CredentialError) as caught:
        await value(made(peer.url, **settings))
    assert (caught.value.reason, caught.value.http_status) == ("credential.refused", 502)
    assert "github_app" in caught.value.message


async def test_a_key_of_another_app_and_one_that_is_none(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with Peer(github) as peer:
        monkeypatch.setenv("DOUANE_TEST_APP_KEY", text.decode())
        with pytest.raises(CredentialError, match=r"refuses \(401"):
            await value(made(peer.url, installation_id=99))
        monkeypatch.setenv("DOUANE_TEST_APP_KEY", "s3cret nonsense")
        with pytest.raises(CredentialError) as caught:
            await value(made(peer.url, installation_id=99))
    assert caught.value.reason == "credential.invalid"
    assert "env DOUANE_TEST_APP_KEY is no RSA private key" in caught.value.message
    assert "s3cret" not in str(caught.value)


async def test_one_that_has_expired_at_once(github: GitHub) -> None:
    github.lifetime = -5.0
    with Peer(github) as peer, pytest.raises(CredentialError, match="expired already"):
        await value(made(peer.url, installation_id=99))
