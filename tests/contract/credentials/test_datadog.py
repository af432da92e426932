"""Application keys of a service account, against a server with the answers of Datadog's documented API."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from ext_proc.config import Credential
from ext_proc.credentials import Credentials, Injection, Sources, Surroundings
from ext_proc.errors import CredentialError
from tests.contract.credentials.peer import Asked, Peer, Reply

ACCOUNT = "c0ea5a28-68e7-11ee-af78-7221d1e45f66"
KEYS = f"/api/v2/service_accounts/{ACCOUNT}/application_keys"


class Datadog:
    """Answers as in the recordings of Datadog's own client tests: 201, 204, 403 and 404 with `errors`."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, Any]] = {}
        self.most = 1000

    def __call__(self, asked: Asked) -> Reply:
        if (asked.headers.get("dd-api-key"), asked.headers.get("dd-application-key")) != ("the-api-key", "the-app-key"):
            return 403, {"errors": ["Forbidden"]}
        if (asked.method, asked.path) == ("POST", KEYS):
            return self.create(asked.json["data"])
        if (asked.method, asked.path) == ("GET", KEYS):
            return self.list(parse_qs(urlsplit(asked.target).query))
        if asked.method == "DELETE" and asked.path.startswith(f"{KEYS}/"):
            found = self.keys.pop(asked.path.rpartition("/")[2], None)
            return (204, None) if found else (404, {"errors": ["Application key not found"]})
        return 404, {"errors": ["Not found"]}

    def create(self, data: dict[str, Any]) -> Reply:
        assert data["type"] == "application_keys"
        assert set(data["attributes"]) == {"name", "scopes"}
        if not set(data["attributes"]["scopes"]) <= {"dashboards_read", "dashboards_write"}:
            return 400, {"errors": ["invalid scopes"]}
        key = self.add(data["attributes"]["name"], data["attributes"]["scopes"])
        return 201, {"data": key}

    def add(self, name: str, scopes: list[str]) -> dict[str, Any]:
        key = {
            "type": "application_keys",
            "id": str(uuid4()),
            "attributes": {"name": name, "key": uuid4().hex + "01234567", "last4": "4567", "scopes": scopes},
            "relationships": {"owned_by": {"data": {"type": "users", "id": ACCOUNT}}},
        }
        self.keys[key["id"]] = key
        return key

    def list(self, query: dict[str, list[str]]) -> Reply:
        size, number = int(query["page[size]"][0]), int(query["page[number]"][0])
        found = [key for key in self.keys.values() if query["filter"][0] in key["attributes"]["name"]]
        shown = [
            {**key, "attributes": {n: v for n, v in key["attributes"].items() if n != "key"}}
            for key in found[size * number : size * (number + 1)]
        ]
        return 200, {"data": shown, "meta": {"page": {"total_filtered_count": len(found)}}}

    def names(self) -> list[str]:
        return [key["attributes"]["name"] for key in self.keys.values()]


@pytest.fixture
def datadog(monkeypatch: pytest.MonkeyPatch) -> Datadog:
    monkeypatch.setenv("DOUANE_TEST_API_KEY", "the-api-key")
    monkeypatch.setenv("DOUANE_TEST_APP_KEY", "the-app-key")
    return Datadog()


def made(url: str, gate: str = "ci-1", **settings: Any) -> Credentials:
    source = {
        "service_account": ACCOUNT,
        "scopes": ["dashboards_read", "dashboards_write"],
        "api_key": {"env": "DOUANE_TEST_API_KEY"},
        "app_key": {"env": "DOUANE_TEST_APP_KEY"},
        "api_url": url,
        **settings,
    }
    one = Credential.model_validate({"header": "dd-application-key", "from": {"datadog": source}})
    return Credentials([one], Sources(), Surroundings(gate))


async def value(credentials: Credentials) -> str:
    (found,) = await credentials.resolve()
    assert isinstance(found, Injection)
    return found.secret.decode()


async def until(condition: Any) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come about")


async def test_a_key_is_made_used_and_deleted(datadog: Datadog) -> None:
    with Peer(datadog) as peer:
        credentials = made(peer.url)
        key = await value(credentials)
        (held,) = datadog.keys.values()
        assert held["attributes"]["key"] == key
        assert held["attributes"]["scopes"] == ["dashboards_read", "dashboards_write"]
        end = int(re.fullmatch(r"douane-ci-1-(\d+)-[0-9a-f]{16}", held["attributes"]["name"])[1])  # type: ignore[index]
        assert 3590 < end - time.time() <= 3600
        assert {secret for _, secret in credentials.known()} == {key.encode(), b"the-api-key", b"the-app-key"}
        await credentials.sources[0].close()
        assert datadog.keys == {}


async def test_leftovers_of_this_gate_are_deleted_and_nothing_else(datadog: Datadog) -> None:
    now = int(time.time())
    gone = [f"douane-ci-1-{now - 600 - n}-{n:016x}" for n in range(110)]
    kept = [
        f"douane-ci-1-{now + 600}-{1:016x}",  # of another worker, in use
        f"douane-ci-1-{now - 5}-{2:016x}",  # being deleted by its own process
        f"douane-ci-2-{now - 600}-{3:016x}",  # of another gate
        f"other-ci-1-{now - 600}-{4:016x}",
        f"my douane-ci-1-{now - 600}-{5:016x}",
        "douane-ci-1-notes",
    ]
    for name in gone + kept:
        datadog.add(name, [])
    with Peer(datadog) as peer:
        credentials = made(peer.url)
        await value(credentials)
        await until(lambda: not set(gone) & set(datadog.names()))
        assert set(kept) <= set(datadog.names())
        assert len(datadog.keys) == len(kept) + 1


async def test_a_worker_that_crashed_leaves_nothing_for_long(datadog: Datadog, monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer(datadog) as peer:
        crashed = made(peer.url, lifetime="1m")
        old = await value(crashed)  # never closed
        later = time.time() + 200
        monkeypatch.setattr("ext_proc.credentials.datadog.time.time", lambda: later)
        following = made(peer.url, lifetime="1m")
        new = await value(following)
        await until(lambda: [k["attributes"]["key"] for k in datadog.keys.values()] == [new])
        assert old != new


async def test_rotation_while_in_use(datadog: Datadog) -> None:
    with Peer(datadog) as peer:
        credentials = made(peer.url, lifetime="1m")
        (leased,) = credentials.sources
        now = [0.0]
        leased._clock = lambda: now[0]  # type: ignore[attr-defined]
        leased._grace = 0.05  # type: ignore[attr-defined]
        old = await value(credentials)
        now[0] = 50.0
        assert await value(credentials) == old, "the old one serves while the new one is made"
        await until(lambda: len(datadog.keys) == 2)
        new = old
        for _ in range(500):  # until the answer has arrived here as well
            new = await value(credentials)
            if new != old:
                break
            await asyncio.sleep(0.01)
        assert new != old
        await until(lambda: [k["attributes"]["key"] for k in datadog.keys.values()] == [new])


async def test_what_datadog_refuses(datadog: Datadog, monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer(datadog) as peer:
        with pytest.raises(CredentialError, match=r"refuses \(400\)"):
            await value(made(peer.url, scopes=["org_management"]))
        monkeypatch.setenv("DOUANE_TEST_APP_KEY", "another")
        with pytest.raises(CredentialError) as caught:
            await value(made(peer.url))
    assert (caught.value.reason, caught.value.http_status) == ("credential.refused", 502)
    assert ACCOUNT in caught.value.message
    assert "another" not in str(caught.value)


async def test_a_key_that_somebody_else_deleted_is_no_fault(datadog: Datadog, caplog: pytest.LogCaptureFixture) -> None:
    with Peer(datadog) as peer:
        credentials = made(peer.url)
        await value(credentials)
        datadog.keys.clear()
        await credentials.sources[0].close()
    assert "could not take back" not in caplog.text
