"""SIGKILL in the middle of 2,000 exchanges, to each process of `douane up` in turn.

Whoever dies: what reached the upstream has its one row, what a client got whole is recorded whole, and every client
got an answer or an error.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from tests.dataplane.background import Background
from tests.dataplane.failure import (
    CONNECTIONS,
    Drive,
    Witness,
    alive,
    check_ledger,
    everybody,
    kill,
    settle,
    until,
    witness,
)
from tests.dataplane.ledger import Ledger
from tests.dataplane.stack import Stack, douane_up
from tests.issuer import LoopbackIssuer

pytestmark = [pytest.mark.dataplane, pytest.mark.clickhouse, pytest.mark.slow]

COUNT = 2000


@pytest.fixture(scope="module")
def upstream(servers: Background) -> Witness:
    return servers.enter(witness())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, issuer: LoopbackIssuer, upstream: Witness) -> Iterator[Stack]:
    with douane_up(tmp_path_factory.mktemp("kill"), issuer.url, upstream.url) as running:
        yield running


@pytest.fixture(scope="module")
def ledger(stack: Stack) -> Ledger:
    return Ledger(stack)


@pytest.fixture
def drive(stack: Stack, issuer: LoopbackIssuer) -> Drive:
    return Drive(stack, issuer.token())


@pytest.mark.parametrize("role", ["hub", "store"])
async def test_behind_the_spool_nobody_notices(
    stack: Stack, ledger: Ledger, drive: Drive, upstream: Witness, role: str
) -> None:
    async def killed() -> None:
        kill(stack, role)

    await drive.run(role, COUNT, midway=killed)
    assert drive.check_answers() == {"200": COUNT}
    await asyncio.to_thread(stack.ready)
    await settle(stack, ledger, role)
    assert check_ledger(ledger, role, drive, upstream) == {"complete": COUNT}


WITHOUT_ENVOY = 3 * CONNECTIONS
"""Each connection loses what it was at, may be accepted by what is dying, and finds nobody once."""


@pytest.mark.parametrize(("role", "lost"), [("worker", CONNECTIONS), ("envoy", WITHOUT_ENVOY)])
async def test_only_what_it_held_fails(
    stack: Stack, ledger: Ledger, drive: Drive, upstream: Witness, role: str, lost: int
) -> None:
    async def killed() -> None:
        kill(stack, role)

    await drive.run(role, COUNT, midway=killed)
    answers = drive.check_answers()
    assert COUNT - lost <= answers["200"] < COUNT, answers
    await asyncio.to_thread(stack.ready)
    await settle(stack, ledger, role)
    outcomes = check_ledger(ledger, role, drive, upstream)
    print(role, dict(answers), dict(outcomes))


async def test_the_supervisor_takes_all_with_it_and_starts_again(
    stack: Stack, ledger: Ledger, drive: Drive, upstream: Witness
) -> None:
    def killed() -> None:
        them = everybody(stack)
        assert len(them) >= 6
        os.kill(stack.process.pid, signal.SIGKILL)
        stack.process.wait(10)
        until(lambda: not any(map(alive, them)), 10, "a child outlived the supervisor")
        stack.start_again()

    await drive.run("supervisor", COUNT, midway=lambda: asyncio.to_thread(killed))
    answers = drive.check_answers()
    assert COUNT - WITHOUT_ENVOY <= answers["200"] < COUNT, answers
    await asyncio.to_thread(stack.ready)
    await settle(stack, ledger, "supervisor")
    outcomes = check_ledger(ledger, "supervisor", drive, upstream)
    print("supervisor", dict(answers), dict(outcomes))


async def test_a_stop_in_the_middle_cuts_nobody_and_leaves_nothing(
    stack: Stack, ledger: Ledger, drive: Drive, upstream: Witness
) -> None:
    def stopped() -> None:
        them = everybody(stack)
        assert stack.stop(30) == 0, "something had to be killed"
        assert not any(map(alive, them))
        assert list((stack.folder / "var/spool").rglob("*.journal")) == [], "not everything was shipped"
        stack.start_again()

    await drive.run("stop", COUNT, midway=lambda: asyncio.to_thread(stopped))
    answers = drive.check_answers()
    assert answers["200"] >= COUNT - WITHOUT_ENVOY, answers
    assert {path for path in upstream.seen if path.startswith("/stop/")} == drive.whole, "an open exchange was cut"
    await asyncio.to_thread(stack.ready)
    await settle(stack, ledger, "stop")
    assert check_ledger(ledger, "stop", drive, upstream) == {"complete": answers["200"]}
