"""The life of a value that expires: minted once, early, again after a pause, and given back."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ext_proc.credentials.leases import PAUSE_S, REFRESH_PAUSE_S, Lease, Leased
from ext_proc.credentials.source import refused
from ext_proc.errors import CredentialError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Numbers:
    """Mints v1, v2, ... that live 100 s; `fault` is raised in their place."""

    place = "test"
    timeout = 1.0

    def __init__(self) -> None:
        self.minted = 0
        self.held: list[bytes | None] = []
        self.revoked: list[bytes] = []
        self.fault: BaseException | None = None
        self.lifetime = 100.0
        self.delay = 0.0
        self.renews = False

    async def mint(self, held: Lease | None) -> Lease:
        self.minted += 1
        self.held.append(held.value if held is not None else None)
        await asyncio.sleep(self.delay)
        if self.fault is not None:
            raise self.fault
        if self.renews and held is not None:
            return Lease(held.value, self.lifetime, held.secrets, held.handle)
        number = b"v%d" % self.minted
        return Lease(number, self.lifetime, (b"also-" + number,), handle=number)

    async def revoke(self, lease: Lease) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        self.revoked.append(lease.value)

    def known(self) -> tuple[bytes, ...]:
        return (b"client-secret",)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def mint() -> Numbers:
    return Numbers()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_hundred_waiters_make_one_mint(mint: Numbers, clock: Clock) -> None:
    mint.delay = 0.05
    source = Leased(mint, clock)
    assert await asyncio.gather(*(source.read() for _ in range(100))) == [b"v1"] * 100
    assert mint.minted == 1


async def test_a_hundred_waiters_share_one_failure(mint: Numbers, clock: Clock) -> None:
    mint.delay, mint.fault = 0.05, refused("test", "refuses (401)")
    source = Leased(mint, clock)
    found = await asyncio.gather(*(source.read() for _ in range(100)), return_exceptions=True)
    assert {getattr(one, "reason", one) for one in found} == {"credential.refused"}
    assert mint.minted == 1


async def test_it_is_replaced_in_the_background_while_the_old_one_lives(mint: Numbers, clock: Clock) -> None:
    source = Leased(mint, clock, grace=0.01)
    await source.read()
    clock.now += 79
    assert await source.read() == b"v1"
    await settle()
    assert mint.minted == 1
    clock.now += 2
    mint.delay = 0.02
    assert await asyncio.gather(*(source.read() for _ in range(20))) == [b"v1"] * 20, "nobody waits"
    await asyncio.sleep(0.04)
    assert await source.read() == b"v2"
    assert mint.minted == 2
    assert mint.revoked == []
    await asyncio.sleep(0.06)
    assert mint.revoked == [b"v1"], "after a while, for the requests that carry it"


async def test_what_has_expired_is_waited_for(mint: Numbers, clock: Clock) -> None:
    source = Leased(mint, clock)
    await source.read()
    clock.now += 91
    assert await source.read() == b"v2", "not in the last tenth: a request takes time, too"


async def test_while_the_old_one_lives_a_failure_is_only_logged(
    mint: Numbers, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    source = Leased(mint, clock)
    await source.read()
    clock.now += 82
    mint.fault = refused("test", "refuses (401)")
    for _ in range(3):
        assert await source.read() == b"v1"
        await settle()
    assert mint.minted == 2
    assert "the present value serves" in caplog.text
    clock.now += REFRESH_PAUSE_S
    assert await source.read() == b"v1"
    await settle()
    assert mint.minted == 3
    clock.now += 10
    with pytest.raises(CredentialError, match="refuses"):
        await source.read()


async def test_a_dead_source_is_asked_once_a_second(mint: Numbers, clock: Clock) -> None:
    mint.fault = refused("test", "refuses (401)")
    source = Leased(mint, clock)
    for _ in range(50):
        with pytest.raises(CredentialError):
            await source.read()
    assert mint.minted == 1
    clock.now += PAUSE_S
    mint.fault = None
    assert await source.read() == b"v2"


async def test_slow_and_surprising_mints(mint: Numbers, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    mint.delay, mint.timeout = 5.0, 0.05
    with pytest.raises(CredentialError) as caught:
        await Leased(mint, clock).read()
    assert (caught.value.reason, caught.value.http_status) == ("credential.timeout", 503)
    mint.delay, mint.fault = 0.0, ValueError("s3cret in a message")
    with pytest.raises(CredentialError) as caught:
        await Leased(mint, clock).read()
    assert (caught.value.reason, caught.value.http_status) == ("credential.unavailable", 502)
    assert "s3cret" not in str(caught.value) + caught.value.detail + caplog.text
    assert "ValueError" in caught.value.message


@pytest.mark.parametrize("lifetime", [0.0, -1.0, float("nan")])
async def test_expired_at_once(mint: Numbers, clock: Clock, lifetime: float) -> None:
    mint.lifetime = lifetime
    with pytest.raises(CredentialError) as caught:
        await Leased(mint, clock).read()
    assert (caught.value.reason, caught.value.http_status) == ("credential.invalid", 502)


async def test_who_waits_may_leave_and_all_may(mint: Numbers, clock: Clock) -> None:
    mint.delay = 0.03
    source = Leased(mint, clock)
    waiting = asyncio.create_task(source.read())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0.05)
    assert await source.read() == b"v1"
    assert mint.minted == 1


async def test_a_renewed_one_is_not_given_back(mint: Numbers, clock: Clock) -> None:
    mint.renews = True
    source = Leased(mint, clock, grace=0)
    await source.read()
    for _ in range(3):
        clock.now += 85
        assert await source.read() == b"v1"
        await settle()
    assert mint.held == [None, b"v1", b"v1", b"v1"]
    assert mint.revoked == []
    await source.close()
    assert mint.revoked == [b"v1"]


async def test_everything_is_given_back_at_the_end(mint: Numbers, clock: Clock) -> None:
    source = Leased(mint, clock)
    await source.read()
    clock.now += 95
    await source.read()
    await source.close()
    assert sorted(mint.revoked) == [b"v1", b"v2"]
    clock.now += 100
    with pytest.raises(CredentialError, match="not used any more"):
        await source.read()


async def test_what_is_being_minted_at_the_end_is_given_back_too(mint: Numbers, clock: Clock) -> None:
    mint.delay = 0.02
    source = Leased(mint, clock)
    waiting = asyncio.create_task(source.read())
    await asyncio.sleep(0.005)
    await source.close()
    assert await waiting == b"v1"
    assert mint.revoked == [b"v1"]


async def test_one_that_nobody_asks_for_any_more_ends(mint: Numbers) -> None:
    mint.lifetime = 0.05
    source = Leased(mint, grace=0)
    await source.read()
    await asyncio.sleep(0.1)
    assert mint.revoked == [b"v1"]


async def test_a_source_that_takes_nothing_back_holds_nobody_up(
    mint: Numbers, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ext_proc.credentials.leases.REVOKE_S", 0.05)
    source = Leased(mint, clock)
    await source.read()
    mint.delay = 10
    async with asyncio.timeout(1):
        await source.close()
    assert "did not take back" in caplog.text


async def test_a_failing_revocation_is_logged_without_its_message(
    mint: Numbers, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(lease: Lease) -> None:
        raise RuntimeError(f"cannot revoke {lease.value!r}")

    monkeypatch.setattr(mint, "revoke", fails)
    source = Leased(mint, clock)
    await source.read()
    with caplog.at_level(logging.WARNING):
        await source.close()
    assert "RuntimeError" in caplog.text
    assert "v1" not in caplog.text


async def test_all_that_it_holds_is_known_and_what_was_before(mint: Numbers, clock: Clock) -> None:
    source = Leased(mint, clock)
    assert source.known() == (b"client-secret",)
    await source.read()
    assert set(source.known()) == {b"v1", b"also-v1", b"client-secret"}
    assert source.known() is source.known()
    for _ in range(2):
        clock.now += 95
        await source.read()
    assert set(source.known()) == {b"v3", b"also-v3", b"v2", b"also-v2", b"client-secret"}
    assert b"v3" not in repr(Lease(b"v3", 1.0, (b"x",), b"v3")).encode()
