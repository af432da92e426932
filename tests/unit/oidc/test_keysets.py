import asyncio
import threading
import time

import pytest

from ext_proc.config import Issuer
from ext_proc.errors import IdentityError
from ext_proc.oidc import KeySets
from ext_proc.oidc.fetch import FetchError, Source, discovery_url
from ext_proc.oidc.keys import Key
from ext_proc.web import is_allowed_url
from tests.unit.oidc import tokens as t

ISSUER = Issuer(issuer=t.ISSUER, audience="douane")


@pytest.fixture
def clock() -> t.Clock:
    return t.Clock(1000)


@pytest.fixture
def issuer() -> t.FakeIssuer:
    return t.FakeIssuer()


@pytest.fixture
def keysets(issuer: t.FakeIssuer, clock: t.Clock) -> KeySets:
    return KeySets(fetch=issuer.fetch, clock=clock, cooldown=10, refresh_after=300, retry=1)


async def count(keysets: KeySets, kid: str = "rsa") -> int:
    return len(await keysets.keys(ISSUER, kid, "RS256"))


async def refused(keysets: KeySets, kid: str = "rsa") -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        await keysets.keys(ISSUER, kid, "RS256")
    assert caught.value.reason == "identity.issuer_unavailable"
    assert caught.value.http_status == 503
    assert caught.value.retryable
    return caught.value


async def test_an_unknown_key_id_asks_again_once_per_cooldown(
    keysets: KeySets, issuer: t.FakeIssuer, clock: t.Clock
) -> None:
    assert await count(keysets) == 1
    for n in range(20):
        assert await count(keysets, f"made-up-{n}") == 0
    assert issuer.asked == 1  # the keys came less than the cooldown ago
    clock.now += 10
    assert await count(keysets, "made-up") == 0
    assert await count(keysets, "made-up") == 0
    assert issuer.asked == 2
    clock.now += 10
    issuer.jwks = {"keys": [t.jwk(t.OTHER, "next")]}
    assert await count(keysets, "next") == 1
    assert issuer.asked == 3
    assert await count(keysets, "rsa") == 0


async def test_many_waiters_one_request() -> None:
    asked = 0
    go = threading.Event()

    def slow(_: Source) -> tuple[Key, ...]:
        nonlocal asked
        asked += 1
        go.wait(5)
        return t.FakeIssuer().fetch(_)

    keysets = KeySets(fetch=slow)
    waiters = [asyncio.create_task(count(keysets)) for _ in range(50)]
    await asyncio.sleep(0.02)
    waiters[0].cancel()  # who asked first may leave
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*waiters[1:]) == [1] * 49
    assert asked == 1
    assert waiters[0].cancelled()


async def test_an_issuer_that_was_never_there(keysets: KeySets, issuer: t.FakeIssuer, clock: t.Clock) -> None:
    issuer.fault = FetchError("https://token.example/keys answered 502")
    error = await refused(keysets)
    assert "502" in error.detail
    assert "502" not in str(error)
    for _ in range(20):
        await refused(keysets)
    assert issuer.asked == 1  # it is left alone for a moment
    clock.now += 1
    issuer.fault = None
    assert await count(keysets) == 1


async def test_stale_keys_serve_while_the_issuer_is_away(
    keysets: KeySets, issuer: t.FakeIssuer, clock: t.Clock
) -> None:
    assert await count(keysets) == 1
    issuer.fault = FetchError("away")
    for _ in range(23):
        clock.now += 3600
        assert await count(keysets) == 1
        await asyncio.sleep(0.01)  # the refresh runs beside
    await refused(keysets, "made-up")  # a new key cannot be told from a made-up one
    clock.now += 3600 + 1
    await refused(keysets)
    clock.now += 10
    issuer.fault = None
    assert await count(keysets) == 1


async def test_keys_are_refreshed_in_the_background(keysets: KeySets, issuer: t.FakeIssuer, clock: t.Clock) -> None:
    assert await count(keysets) == 1
    first = keysets.generation(ISSUER)
    clock.now += 301
    assert keysets.generation(ISSUER) is None
    issuer.jwks = {"keys": [t.jwk(t.OTHER, "next")]}
    assert await count(keysets) == 1  # the keys at hand, at once
    for _ in range(200):
        await asyncio.sleep(0.005)
        if keysets.generation(ISSUER) is not None:
            break
    assert keysets.generation(ISSUER) != first
    assert await count(keysets) == 0
    assert issuer.asked == 2


async def test_equal_keys_are_the_same_generation(keysets: KeySets, clock: t.Clock) -> None:
    await count(keysets)
    first = keysets.generation(ISSUER)
    clock.now += 10
    await count(keysets, "made-up")
    assert keysets.generation(ISSUER) == first


async def test_an_issuer_that_withdraws_its_keys_is_heard(
    keysets: KeySets, issuer: t.FakeIssuer, clock: t.Clock
) -> None:
    await count(keysets)
    issuer.jwks = {"keys": []}
    clock.now += 10
    assert await count(keysets, "made-up") == 0
    assert await count(keysets) == 0


async def test_sources_are_kept_apart_and_shared(issuer: t.FakeIssuer) -> None:
    keysets = KeySets(fetch=issuer.fetch)
    for changes in ({}, {"leeway": "1s"}, {"audience": "x"}, {"ca_file": "/ca"}, {"jwks_uri": "https://x.example/"}):
        settings = Issuer.model_validate({"issuer": t.ISSUER, "audience": "douane", **changes})
        await keysets.keys(settings, "rsa", "RS256")
    assert issuer.asked == 3


async def test_an_unforeseen_fault_is_the_same_as_being_away(
    issuer: t.FakeIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.fault = RuntimeError("surprise")
    await refused(KeySets(fetch=issuer.fetch))
    assert "surprise" in caplog.text


async def test_close_ends_what_is_under_way() -> None:
    def slow(_: Source) -> tuple[Key, ...]:
        time.sleep(0.2)
        return ()

    keysets = KeySets(fetch=slow)
    waiter = asyncio.create_task(count(keysets))
    await asyncio.sleep(0.02)
    await keysets.close()
    with pytest.raises(asyncio.CancelledError):
        await waiter


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://a.example/keys", True),
        ("http://127.0.0.1:8080/keys", True),
        ("http://127.8.9.10", True),
        ("http://[::1]/keys", True),
        ("http://localhost/keys", True),
        ("HTTPS://a.example", True),
        ("http://a.example", False),
        ("http://localhost.a.example", False),
        ("http://127.0.0.1.a.example", False),
        ("http://2130706433/", False),
        ("http://0.0.0.0/", False),
        ("http://127.0.0.1@a.example/", False),
        ("https://u:p@a.example", False),
        ("https://a.example:99999", False),
        ("https://", False),
        ("file:///etc/passwd", False),
        ("//a.example", False),
        ("https://[::1", False),
    ],
)
def test_allowed_urls(url: str, allowed: bool) -> None:
    assert is_allowed_url(url) is allowed


def test_discovery_url() -> None:
    assert discovery_url("https://a.example/") == "https://a.example/.well-known/openid-configuration"
    assert discovery_url("https://a.example/org/1") == "https://a.example/org/1/.well-known/openid-configuration"
