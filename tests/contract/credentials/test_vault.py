"""Secrets in a real OpenBao: both key/value engines, leases of a dynamic engine, and each way to log in.

The dynamic engine is `rabbitmq`: it makes users at a broker's management API, which a small server stands in for, and
everything that Douane speaks to (leases, renewals, revocations, tokens) is OpenBao's own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from ext_proc.config import Credential
from ext_proc.credentials import Credentials, Injection, Signature, Sources, Surroundings
from ext_proc.errors import CredentialError
from tests.contract.credentials.openbao import ROOT, OpenBao
from tests.contract.credentials.peer import Asked, Peer, Reply
from tests.issuer import LoopbackIssuer

POLICY = """
path "secret/data/*" { capabilities = ["read"] }
path "kv/*" { capabilities = ["read"] }
path "rabbit/creds/*" { capabilities = ["read"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
"""

NOWHERE = Surroundings()


class Broker:
    """RabbitMQ's management API, as far as OpenBao uses it."""

    def __init__(self) -> None:
        self.users: set[str] = set()

    def __call__(self, asked: Asked) -> Reply:
        what, _, name = asked.path.removeprefix("/api/").partition("/")
        if what == "users" and asked.method == "PUT":
            self.users.add(name)
            return 201, None
        if what == "users" and asked.method == "DELETE":
            self.users.discard(name)
            return 204, None
        return 200, {}


@pytest.fixture(scope="module")
def issuer() -> Iterator[LoopbackIssuer]:
    with LoopbackIssuer() as running:
        yield running


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    broker = Broker()
    with Peer(broker) as peer:
        broker.url = peer.url  # type: ignore[attr-defined]
        yield broker


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory, issuer: LoopbackIssuer, broker: Broker) -> Iterator[OpenBao]:
    with OpenBao(tmp_path_factory.mktemp("bao")) as running:
        running.call("PUT", "sys/policies/acl/douane", {"policy": POLICY})
        running.call("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "1"}})
        running.call("POST", "sys/auth/approle", {"type": "approle"})
        running.call("POST", "auth/approle/role/gate", {"token_policies": ["douane"], "token_ttl": "1h"})
        running.call("POST", "auth/approle/role/brief", {"token_policies": ["douane"], "token_ttl": "3s"})
        running.call("POST", "sys/auth/jwt", {"type": "jwt"})
        key = issuer._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        running.call("POST", "auth/jwt/config", {"jwt_validation_pubkeys": [key.decode()]})
        role = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["douane"], "token_policies": ["douane"]}
        running.call("POST", "auth/jwt/role/gate", role)
        running.call("POST", "sys/mounts/rabbit", {"type": "rabbitmq"})
        connection = {"connection_uri": broker.url, "username": "a", "password": "b", "verify_connection": False}  # type: ignore[attr-defined]
        running.call("POST", "rabbit/config/connection", connection)
        running.call("POST", "rabbit/roles/ci", {"vhosts": json.dumps({"/": {"read": ".*"}})})
        yield running


@pytest.fixture
def approle(bao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return login(bao, "gate", tmp_path, monkeypatch)


def login(bao: OpenBao, role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("DOUANE_TEST_ROLE", bao.call("GET", f"auth/approle/role/{role}/role-id")["data"]["role_id"])
    secret_id = bao.call("POST", f"auth/approle/role/{role}/secret-id", {})["data"]["secret_id"]
    (tmp_path / "secret-id").write_text(secret_id)
    return {"approle": {"role_id": {"env": "DOUANE_TEST_ROLE"}, "secret_id": {"file": str(tmp_path / "secret-id")}}}


def made(bao: OpenBao, auth: dict[str, Any], around: Surroundings = NOWHERE, **settings: Any) -> Credentials:
    source = {"url": bao.url, "field": "key", "auth": auth, **settings}
    return Credentials([Credential.model_validate({"bearer": True, "from": {"vault": source}})], Sources(), around)


async def value(credentials: Credentials) -> str:
    (found,) = await credentials.resolve()
    assert isinstance(found, Injection)
    return found.secret.decode()


def token_of(credentials: Credentials) -> str:
    return next(s.decode() for _, s in credentials.known() if s.startswith((b"s.", b"hvs.", b"b.")))


@pytest.mark.parametrize(("engine", "mount", "path"), [("kv2", "secret", "team/dd"), ("kv1", "kv", "team/dd")])
async def test_key_value_secrets(bao: OpenBao, approle: dict[str, Any], engine: str, mount: str, path: str) -> None:
    prefix = f"{mount}/data/{path}" if engine == "kv2" else f"{mount}/{path}"

    def put(key: str) -> None:
        secret = {"key": key, "other": "an0ther-secret"}
        bao.call("POST", prefix, {"data": secret} if engine == "kv2" else secret)

    put("one-s3cret")
    credentials = made(bao, approle, engine=engine, mount=mount, path=path, lifetime="300ms")
    assert await value(credentials) == "one-s3cret"
    known = {secret for _, secret in credentials.known()}
    assert {b"one-s3cret", b"an0ther-secret"} <= known
    assert token_of(credentials).encode() in known
    put("two-s3cret")
    assert await value(credentials) == "one-s3cret"
    await asyncio.sleep(0.3)
    assert await value(credentials) == "two-s3cret"
    assert b"one-s3cret" in {secret for _, secret in credentials.known()}, "it may still be on its way"


async def test_the_login_ends_with_the_gate(bao: OpenBao, approle: dict[str, Any]) -> None:
    bao.call("POST", "kv/end", {"key": "value"})
    sources = Sources()
    source = {"url": bao.url, "field": "key", "auth": approle, "engine": "kv1", "mount": "kv", "path": "end"}
    credentials = Credentials([Credential.model_validate({"bearer": True, "from": {"vault": source}})], sources)
    await value(credentials)
    token = token_of(credentials)
    assert bao.lives(token)
    await sources.close()
    assert not bao.lives(token)


async def test_two_secrets_share_a_login(bao: OpenBao, approle: dict[str, Any]) -> None:
    bao.call("POST", "kv/a", {"key": "a"})
    bao.call("POST", "kv/b", {"key": "b"})
    common = {"url": bao.url, "field": "key", "auth": approle, "engine": "kv1", "mount": "kv"}
    sources = Sources()
    credentials = Credentials(
        [
            Credential.model_validate({"header": name, "from": {"vault": {**common, "path": name}}})
            for name in ("a", "b")
        ],
        sources,
    )
    found = await credentials.resolve()
    assert [one.secret for one in found if isinstance(one, Injection)] == [b"a", b"b"]
    assert len({secret for _, secret in credentials.known() if secret.startswith((b"s.", b"hvs.", b"b."))}) == 1
    await sources.close()


async def test_a_lease_is_renewed_then_replaced_and_revoked_at_the_end(
    bao: OpenBao, broker: Broker, approle: dict[str, Any]
) -> None:
    bao.call("POST", "rabbit/config/lease", {"ttl": 2, "max_ttl": 5})
    sources = Sources()
    source = {
        "url": bao.url,
        "field": "password",
        "auth": approle,
        "engine": "dynamic",
        "mount": "rabbit",
        "path": "creds/ci",
    }
    credentials = Credentials([Credential.model_validate({"bearer": True, "from": {"vault": source}})], sources)
    first = await value(credentials)
    (lease,) = bao.leases("rabbit/creds/ci")
    assert any(lease.encode() in secret for _, secret in credentials.known())
    seen = [first]
    for _ in range(35):
        await asyncio.sleep(0.2)
        seen.append(await value(credentials))
        if seen[-1] != first:
            break
    assert seen.count(first) > 10, "it was renewed beyond its two seconds"
    assert seen[-1] != first, "and replaced when it could not be any more"
    assert len(broker.users) >= 1
    await sources.close()
    for _ in range(100):
        if not broker.users and not bao.leases("rabbit/creds/ci"):
            break
        await asyncio.sleep(0.05)
    assert broker.users == set()
    assert bao.leases("rabbit/creds/ci") == []


async def test_it_logs_in_anew_when_its_token_was_revoked(bao: OpenBao, approle: dict[str, Any]) -> None:
    bao.call("POST", "kv/again", {"key": "value"})
    credentials = made(bao, approle, engine="kv1", mount="kv", path="again", lifetime="100ms")
    await value(credentials)
    first = token_of(credentials)
    bao.call("POST", "auth/token/revoke", {"token": first})
    await asyncio.sleep(0.15)
    assert await value(credentials) == "value"
    assert token_of(credentials) != first


async def test_a_login_that_lives_seconds(bao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bao.call("POST", "kv/brief", {"key": "value"})
    auth = login(bao, "brief", tmp_path, monkeypatch)
    credentials = made(bao, auth, engine="kv1", mount="kv", path="brief", lifetime="200ms")
    for _ in range(20):
        assert await value(credentials) == "value"
        await asyncio.sleep(0.2)


async def test_by_jwt_with_the_workloads_own_token(bao: OpenBao, issuer: LoopbackIssuer, tmp_path: Path) -> None:
    bao.call("POST", "kv/jwt", {"key": "value"})
    (tmp_path / "token").write_text(issuer.token(sub="system:serviceaccount:ci:gate") + "\n")
    around = Surroundings("gate", str(tmp_path / "token"))
    credentials = made(bao, {"jwt": {"role": "gate"}}, around, engine="kv1", mount="kv", path="jwt")
    assert await value(credentials) == "value"
    (tmp_path / "token").write_text(issuer.token(aud="another"))
    with pytest.raises(CredentialError) as caught:
        await value(made(bao, {"jwt": {"role": "gate"}}, around, engine="kv1", mount="kv", path="jwt"))
    assert (caught.value.reason, caught.value.http_status) == ("credential.refused", 502)


async def test_by_a_token_that_is_not_ours(bao: OpenBao, monkeypatch: pytest.MonkeyPatch) -> None:
    bao.call("POST", "kv/token", {"key": "value"})
    token = bao.call("POST", "auth/token/create", {"policies": ["douane"], "ttl": "10s", "period": "10s"})
    monkeypatch.setenv("DOUANE_TEST_TOKEN", token["auth"]["client_token"])
    credentials = made(bao, {"token": {"env": "DOUANE_TEST_TOKEN"}}, engine="kv1", mount="kv", path="token")
    assert await value(credentials) == "value"
    for source in credentials.sources:
        await source.close()
    assert bao.lives(token["auth"]["client_token"]), "it is renewed, and not revoked"


async def test_keys_for_signing_come_as_a_whole(bao: OpenBao, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"access_key": "AKIAEXAMPLE123456", "secret_key": "s3cret/key", "security_token": "t0ken"}
    bao.call("POST", "kv/aws", keys)
    monkeypatch.setenv("DOUANE_TEST_TOKEN", ROOT)
    source = {"url": bao.url, "auth": {"token": {"env": "DOUANE_TEST_TOKEN"}}, "engine": "kv1", "mount": "kv"}
    one = {"sigv4": {"service": "s3", "region": "eu-central-1"}, "from": {"vault": {**source, "path": "aws"}}}
    credentials = Credentials([Credential.model_validate(one)])
    (found,) = await credentials.resolve()
    assert isinstance(found, Signature)
    assert {b"s3cret/key", b"t0ken"} <= {secret for _, secret in credentials.known()}


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no such secret": ({"path": "none"}, "credential.refused", "refuses (404)"),
    "no such field": ({"path": "there", "field": "none"}, "credential.invalid", "no text in the field none"),
    "not text": ({"path": "there", "field": "number"}, "credential.invalid", "no text in the field number"),
    "not allowed": ({"mount": "sys", "path": "mounts"}, "credential.refused", "refuses (403)"),
}


@pytest.mark.parametrize(("settings", "reason", "said"), FAULTS.values(), ids=FAULTS.keys())
async def test_what_it_refuses(
    bao: OpenBao, approle: dict[str, Any], settings: dict[str, Any], reason: str, said: str
) -> None:
    bao.call("POST", "kv/there", {"key": "s3cret", "number": 7})
    with pytest.raises(CredentialError) as caught:
        await value(made(bao, approle, **{"engine": "kv1", "mount": "kv", **settings}))
    assert (caught.value.reason, caught.value.http_status) == (reason, 502)
    assert said in caught.value.message


async def test_a_wrong_secret_id_and_a_sealed_vault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with OpenBao(tmp_path) as bao:
        bao.call("POST", "sys/auth/approle", {"type": "approle"})
        bao.call("POST", "auth/approle/role/gate", {"token_policies": ["default"]})
        auth = login(bao, "gate", tmp_path, monkeypatch)
        (tmp_path / "secret-id").write_text("wr0ng-s3cret-id")
        with pytest.raises(CredentialError) as caught:
            await value(made(bao, auth, path="x"))
        assert (caught.value.reason, caught.value.http_status) == ("credential.refused", 502)
        bao.call("PUT", "sys/seal", {})
        with pytest.raises(CredentialError) as caught:
            await value(made(bao, auth, path="x"))
        assert (caught.value.reason, caught.value.http_status) == ("credential.unavailable", 503)
        assert "wr0ng" not in caplog.text + str(caught.value)
    with pytest.raises(urllib.error.URLError):
        bao.call("GET", "sys/health")
