"""Client credentials and token exchange, against authlib's server side."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc.jwk import ECKey, RSAKey

from ext_proc.config import Credential
from ext_proc.credentials import Credentials, Injection, Sources, Surroundings
from ext_proc.errors import CredentialError
from tests.contract.credentials.oauth_server import Client, OAuthServer
from tests.issuer import LoopbackIssuer

RSA, EC = rsa.generate_private_key(public_exponent=65537, key_size=2048), ec.generate_private_key(ec.SECP256R1())
SECRET = "s3cret:with/odd+chars%&é"


def pem(key: Any) -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return str(key.private_bytes(*form).decode())


def public(key: Any) -> str:
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return str(key.public_key().public_bytes(*form).decode())


@pytest.fixture(scope="module")
def issuer() -> Iterator[LoopbackIssuer]:
    with LoopbackIssuer() as running:
        yield running


@pytest.fixture
def server(issuer: LoopbackIssuer, monkeypatch: pytest.MonkeyPatch) -> Iterator[OAuthServer]:
    monkeypatch.setenv("DOUANE_TEST_SECRET", SECRET)
    monkeypatch.setenv("DOUANE_TEST_RSA", pem(RSA))
    monkeypatch.setenv("DOUANE_TEST_EC", pem(EC))
    clients = [
        Client("basic", "client_secret_basic", SECRET),
        Client("post", "client_secret_post", SECRET),
        Client("rsa", "private_key_jwt", key=RSAKey.import_key(public(RSA))),
        Client("ec", "private_key_jwt", key=ECKey.import_key(public(EC))),
        Client("public", "none"),
    ]

    def verify(token: str) -> dict[str, Any]:
        return jwt.decode(token, issuer._key.public_key(), algorithms=["RS256"], audience="douane")

    with OAuthServer(clients, verify) as running:
        yield running


def made(kind: str, url: str, **settings: Any) -> Credentials:
    one = {"bearer": True, "from": {kind: {"token_url": f"{url}/token", **settings}}}
    return Credentials([Credential.model_validate(one)])


async def value(credentials: Credentials, token: str | None = None) -> str:
    (found,) = await credentials.resolve(token.encode() if token else None)
    assert isinstance(found, Injection)
    return found.secret.decode()


PROOFS: dict[str, dict[str, Any]] = {
    "basic": {"client_secret": {"env": "DOUANE_TEST_SECRET"}},
    "post": {"client_secret": {"env": "DOUANE_TEST_SECRET"}, "auth": "post"},
    "rsa": {"private_key": {"env": "DOUANE_TEST_RSA"}, "auth": "private_key_jwt"},
    "ec": {"private_key": {"env": "DOUANE_TEST_EC"}, "auth": "private_key_jwt", "algorithm": "ES256", "key_id": "k1"},
}


@pytest.mark.parametrize("client", PROOFS)
async def test_each_way_to_prove_the_client(server: OAuthServer, client: str) -> None:
    credentials = made(
        "oauth2", server.url, client_id=client, scope="read write", revoke_url=f"{server.url}/revoke", **PROOFS[client]
    )
    token = await value(credentials)
    assert token in server.tokens
    assert server.tokens[token].values["scope"] == "read write"
    assert await value(credentials) == token
    assert len(server.tokens) == 1
    assert ("authorization", token.encode()) in credentials.known()
    for source in credentials.sources:
        await source.close()
    assert server.tokens[token].revoked, "at the end"


async def test_the_wrong_secret_is_refused_by_its_code(server: OAuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUANE_TEST_SECRET", "wr0ng")
    with pytest.raises(CredentialError) as caught:
        await value(made("oauth2", server.url, client_id="basic", **PROOFS["basic"]))
    assert (caught.value.reason, caught.value.http_status) == ("credential.refused", 502)
    assert "refuses (401 invalid_client)" in caught.value.message
    assert "wr0ng" not in str(caught.value)


async def test_a_key_that_cannot_sign(server: OAuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (pem(EC), "s3cret nonsense", ""):
        monkeypatch.setenv("DOUANE_TEST_RSA", text)
        with pytest.raises(CredentialError) as caught:
            await value(made("oauth2", server.url, client_id="rsa", **PROOFS["rsa"]))
        assert (caught.value.reason, caught.value.http_status) == ("credential.invalid", 502)
        assert "s3cret" not in str(caught.value)


async def test_lifetimes(server: OAuthServer) -> None:
    server.expires_in = 0
    with pytest.raises(CredentialError, match="expired already"):
        await value(made("oauth2", server.url, client_id="basic", **PROOFS["basic"]))
    server.expires_in = None
    credentials = made("oauth2", server.url, client_id="basic", lifetime="200ms", **PROOFS["basic"])
    first = await value(credentials)
    assert await value(credentials) == first
    await asyncio.sleep(0.2)
    assert await value(credentials) != first, "where the answer does not say, the configuration does"


async def test_a_hundred_requests_get_one_token(server: OAuthServer) -> None:
    server.delay = 0.1
    credentials = made("oauth2", server.url, client_id="basic", **PROOFS["basic"])
    assert len({await one for one in [asyncio.ensure_future(value(credentials)) for _ in range(100)]}) == 1
    assert len(server.tokens) == 1


async def test_each_caller_gets_a_token_of_its_own(server: OAuthServer, issuer: LoopbackIssuer) -> None:
    credentials = made(
        "token_exchange",
        server.url,
        client_id="basic",
        auth="basic",
        client_secret={"env": "DOUANE_TEST_SECRET"},
        audience="https://api.example",
        scope="read",
    )
    one, two = issuer.token(sub="job-1"), issuer.token(sub="job-2")
    first, second = await value(credentials, one), await value(credentials, two)
    assert first.startswith("job-1.")
    assert second.startswith("job-2.")
    assert await value(credentials, one) == first
    assert len(server.tokens) == 2
    form = server.forms[0]
    assert form["subject_token"] == one
    assert (form["audience"], form["scope"]) == ("https://api.example", "read")
    resolved = (await credentials.resolve(one.encode()))[0]
    assert isinstance(resolved, Injection)
    assert resolved.own, "it is masked in this exchange"
    assert first.encode() not in [secret for _, secret in credentials.known()], "and in no other"
    assert SECRET.encode() in [secret for _, secret in credentials.known()]


async def test_a_public_client_and_none_at_all(server: OAuthServer, issuer: LoopbackIssuer) -> None:
    assert (await value(made("token_exchange", server.url, client_id="public"), issuer.token(sub="a"))).startswith("a.")
    with pytest.raises(CredentialError, match="invalid_client"):
        await value(made("token_exchange", server.url), issuer.token())


async def test_a_token_that_the_endpoint_does_not_believe(server: OAuthServer, issuer: LoopbackIssuer) -> None:
    credentials = made("token_exchange", server.url, client_id="public")
    with pytest.raises(CredentialError) as caught:
        await value(credentials, issuer.token(expires_in=-600))
    assert (caught.value.reason, caught.value.http_status) == ("credential.refused", 502)
    assert "invalid_grant" in caught.value.message
    assert (await value(credentials, issuer.token(sub="other"))).startswith("other."), "others are not held up by it"


async def test_a_session_key_is_no_token_to_exchange(server: OAuthServer) -> None:
    with pytest.raises(CredentialError) as caught:
        await value(made("token_exchange", server.url, client_id="public"))
    assert (caught.value.reason, caught.value.http_status) == ("credential.no_token", 403)


async def test_the_workloads_own_token(server: OAuthServer, issuer: LoopbackIssuer, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(issuer.token(sub="pod") + "\n")
    settings = {"token_url": f"{server.url}/token", "client_id": "public", "subject": "workload"}
    one = Credential.model_validate({"bearer": True, "from": {"token_exchange": settings}})
    credentials = Credentials([one], Sources(), Surroundings("gate", str(path)))
    assert (await value(credentials)).startswith("pod.")
    assert (await value(credentials, issuer.token(sub="job"))).startswith("pod."), "whoever calls"


async def test_no_more_callers_are_kept_than_that(
    server: OAuthServer, issuer: LoopbackIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ext_proc.credentials.oauth.CALLERS", 2)
    monkeypatch.setattr("ext_proc.credentials.oauth.GRACE_S", 0.5)
    credentials = made(
        "token_exchange",
        server.url,
        client_id="basic",
        auth="basic",
        client_secret={"env": "DOUANE_TEST_SECRET"},
        revoke_url=f"{server.url}/revoke",
    )
    tokens = [await value(credentials, issuer.token(sub=f"job-{n}")) for n in range(3)]
    await asyncio.sleep(0.1)
    assert not server.tokens[tokens[0]].revoked, "a request with it may be on its way"
    for _ in range(100):
        if server.tokens[tokens[0]].revoked:
            break
        await asyncio.sleep(0.02)
    assert [server.tokens[token].revoked for token in tokens] == [True, False, False]
    tokens.append(await value(credentials, issuer.token(sub="job-3")))  # pushes out another, right before the end
    await credentials.sources[0].close()
    assert all(server.tokens[token].revoked for token in tokens)
