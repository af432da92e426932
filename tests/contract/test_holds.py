"""Holds as a gate meets them: over a real socket, with a hub that is restarted and killed."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import grpc
import grpc.aio
import pytest

from ext_proc.errors import ApprovalError
from ext_proc.hub import server
from ext_proc.hub.approvals import registry, room
from ext_proc.hub.approvals.states import State
from ext_proc.hub.server import Authorities
from ext_proc.pb import hub_pb2
from tests.contract.holds import Gate, again, asked, serving, sre

ANN, BOB = sre("ann"), sre("bob")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="douane-") as path:  # short: a socket's path has at most 107 bytes
        yield Path(path)


@pytest.fixture
async def hub(folder: Path) -> AsyncIterator[Authorities]:
    async with serving(folder) as running:
        yield running


@pytest.fixture
async def gate(folder: Path) -> AsyncIterator[Gate]:
    async with Gate(folder) as made:
        yield made


async def approve(hub: Authorities, approval_id: str, who: object = ANN) -> None:
    await hub.approvals.decide(approval_id, who, approve=True, comment="fine")


async def unattended(hub: Authorities, but: int = 0) -> None:
    """The hub has seen that the calls ended."""
    async with asyncio.timeout(5):
        while hub.approvals.waiting > but:  # noqa: ASYNC110 (what ends is on the other side of a socket)
            await asyncio.sleep(0.005)


def code(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    return error.code(), (error.details() or "").partition(":")[0]


async def test_a_request_waits_until_it_is_approved(hub: Authorities, gate: Gate) -> None:
    held = gate.hold(asked())
    first = await held.state()
    assert (first.state, list(first.approved_by)) == ("requested", [])
    assert first.url == f"http://127.0.0.1:15000/approvals/{first.approval_id}"
    await approve(hub, first.approval_id)
    granted = await held.state()
    assert (granted.state, list(granted.approved_by), granted.message) == ("granted", ["oidc:ann@acme.example"], "fine")
    with pytest.raises(EOFError):
        await held.state()
    found = await hub.approvals.registry.find(first.approval_id)
    assert found.approval.state is State.USED
    assert [event.event for event in found.events] == ["requested", "approved", "used"]


async def test_no_ends_the_wait_at_once_and_says_why(hub: Authorities, gate: Gate) -> None:
    held = gate.hold(asked())
    first = await held.state()
    await hub.approvals.decide(first.approval_id, ANN, approve=False, comment="not on a Friday")
    denied = await held.state()
    assert (denied.state, denied.reason, denied.message) == ("denied", "approval.denied", "not on a Friday")
    with pytest.raises(ApprovalError, match="is denied already"):
        await approve(hub, first.approval_id)


async def test_a_retry_attaches_and_passes_once(hub: Authorities, gate: Gate) -> None:
    request = asked()
    held = gate.hold(request)
    first = await held.state()
    held.leave()
    await unattended(hub)
    await approve(hub, first.approval_id)
    retry = await gate.hold(again(request)).state()
    assert (retry.state, retry.approval_id) == ("granted", first.approval_id)
    third = await gate.hold(again(request)).state()
    assert third.state == "requested"
    assert third.approval_id != first.approval_id


async def test_a_no_that_nobody_heard_waits_for_the_retry(hub: Authorities, gate: Gate) -> None:
    request = asked()
    held = gate.hold(request)
    first = await held.state()
    held.leave()
    await unattended(hub)
    await hub.approvals.decide(first.approval_id, ANN, approve=False, comment="")
    retry = await gate.hold(again(request)).state()
    assert (retry.state, retry.approval_id) == ("denied", first.approval_id)
    assert (await gate.hold(again(request)).state()).approval_id != first.approval_id


async def test_what_was_approved_can_be_taken_back_until_it_is_used(hub: Authorities, gate: Gate) -> None:
    request = asked()
    held = gate.hold(request)
    first = await held.state()
    held.leave()
    await unattended(hub)
    await approve(hub, first.approval_id)
    await hub.approvals.decide(first.approval_id, BOB, approve=False, comment="wait")
    retry = await gate.hold(again(request)).state()
    assert (retry.state, retry.reason, retry.message) == ("withdrawn", "approval.withdrawn", "wait")


async def test_identical_requests_need_an_approval_each(hub: Authorities, gate: Gate) -> None:
    request = asked()
    held = [gate.hold(again(request)) for _ in range(100)]
    ids = [(await one.state()).approval_id for one in held]
    assert len(set(ids)) == 100
    for approval_id in ids[:30]:
        await approve(hub, approval_id)
    granted = [await one.state() for one in held[:30]]
    assert [state.state for state in granted] == ["granted"] * 30
    assert [state.approval_id for state in granted] == ids[:30]
    assert all(await asyncio.gather(*(one.silent() for one in held[30:])))


async def test_two_gates_race_for_one_approval(folder: Path, hub: Authorities) -> None:
    async with Gate(folder) as one, Gate(folder) as two:
        for _ in range(20):
            request = asked()
            held = one.hold(request)
            first = await held.state()
            held.leave()
            await unattended(hub)
            await approve(hub, first.approval_id)
            calls = [gate.hold(again(request)) for gate in (one, two) for _ in range(5)]
            states = await asyncio.gather(*(call.state() for call in calls))
            assert Counter(state.state for state in states) == {"granted": 1, "requested": 9}
            assert len({state.approval_id for state in states}) == 10
            for call in calls:
                call.leave()
            await unattended(hub)


async def test_the_same_exchange_takes_its_place_over(folder: Path, hub: Authorities, gate: Gate) -> None:
    request = asked()
    before = gate.hold(request)
    first = await before.state()
    async with Gate(folder) as other:
        after = other.hold(request)
        assert (await after.state()).approval_id == first.approval_id
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await before.state()
        assert caught.value.code() is grpc.StatusCode.ABORTED
        await approve(hub, first.approval_id)
        assert (await after.state()).state == "granted"
        # The worker died before it could send the request on: the next one asks for the same exchange.
        replayed = await other.hold(request).state()
        assert (replayed.state, replayed.approval_id) == ("granted", first.approval_id)


async def test_a_grant_is_repeated_for_a_short_time_only(
    hub: Authorities, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked()
    held = gate.hold(request)
    first = await held.state()
    await approve(hub, first.approval_id)
    await held.until("granted")
    monkeypatch.setattr(registry, "REPLAY_US", -1)
    later = await gate.hold(request).state()
    assert later.state == "requested"
    assert later.approval_id != first.approval_id


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": b"d" * 32},
        {"session_id": b"t" * 16},
        {"requirements": [hub_pb2.Requirement(policy="deletes", approvers=["group:sre"], quorum=2)]},
        {"requirements": [hub_pb2.Requirement(policy="deletes", approvers=["group:sre", "group:dev"], quorum=1)]},
    ],
)
async def test_an_approval_is_for_one_digest_one_run_and_its_approvers(
    hub: Authorities, gate: Gate, changes: dict[str, object]
) -> None:
    request = asked()
    held = gate.hold(request)
    first = await held.state()
    held.leave()
    await unattended(hub)
    await approve(hub, first.approval_id)
    other = again(request)
    for name, value in changes.items():
        other.ClearField(name)
        other.MergeFrom(hub_pb2.HoldRequest(**{name: value}))
    assert (await gate.hold(other).state()).state == "requested"


@pytest.mark.parametrize(
    ("changes", "attaches"),
    [
        ({}, True),
        ({"headers_json": '[["accept","*/*"],["traceparent","00-1"],["x-key","[MASKED:jwt:bbbb]"]]'}, True),
        ({"path": "/api/v1/dashboard/something-harmless"}, False),
        ({"body": b'{"harmless": true}'}, False),
        ({"headers_json": '[["accept","*/*"],["x-key","k"]]'}, False),
        ({"claims_json": '{"actor_id":"2"}'}, False),
        ({"validity_s": 86_400}, False),
    ],
)
async def test_what_another_writer_showed_to_people_must_be_what_this_gate_would_have_shown(
    folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], attaches: bool
) -> None:
    """A gate that was taken over knows digests of requests elsewhere. It must not get something harmless approved in
    their place, nor by the one who asks."""
    monkeypatch.setattr(server, "_local_writer", lambda context: writer)
    request = asked(headers_json='[["accept","*/*"],["x-key","[MASKED:jwt:aaaa]"]]')
    theirs = again(request)
    for name, value in changes.items():
        setattr(theirs, name, value)
    async with serving(folder) as hub:
        writer = "other"
        held = gate.hold(theirs)
        first = await held.state()
        held.leave()
        await unattended(hub)
        await approve(hub, first.approval_id)
        writer = "ours"
        state = await gate.hold(request).state()
        assert (state.state == "granted") is attaches
        assert (state.approval_id == first.approval_id) is attaches


async def test_time_is_up_for_requests_and_for_approvals(hub: Authorities, gate: Gate) -> None:
    waiting = gate.hold(asked(expires_s=1))
    approved = asked(validity_s=1)
    left = gate.hold(approved)
    await waiting.state()
    first = await left.state()
    left.leave()
    await unattended(hub, but=1)
    await approve(hub, first.approval_id)
    over = await waiting.state()
    assert (over.state, over.reason) == ("expired", "approval.expired")
    await asyncio.sleep(0.3)
    later = await gate.hold(again(approved)).state()
    assert later.state == "requested"
    assert later.approval_id != first.approval_id
    assert (await hub.approvals.registry.find(first.approval_id)).approval.state is State.EXPIRED


async def test_more_than_one_person_where_the_policy_wants_it(hub: Authorities, gate: Gate) -> None:
    both = [
        hub_pb2.Requirement(policy="deletes", approvers=["group:sre"], quorum=2),
        hub_pb2.Requirement(policy="money", approvers=["user:cat@acme.example", "group:finance"], quorum=1),
    ]
    held = gate.hold(asked(requirements=both))
    first = await held.state()
    await approve(hub, first.approval_id)
    assert list((await held.state()).approved_by) == ["oidc:ann@acme.example"]
    await approve(hub, first.approval_id, sre("bob", "sre", "finance"))
    assert (await held.state()).state == "granted"


async def test_nobody_may_approve_for_a_caller_of_whom_nothing_is_known(hub: Authorities, gate: Gate) -> None:
    for changes in ({"issuer": "gitlab"}, {"claims_json": '{"actor_id":"3"}'}, {"claims_json": "{}"}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gate.hold(asked(**changes)).state()
        assert code(caught.value) == (grpc.StatusCode.FAILED_PRECONDITION, "approval.actor_unmapped")
    local = [hub_pb2.Requirement(policy="p", approvers=["local"], quorum=1)]
    assert (await gate.hold(asked(issuer="gitlab", requirements=local)).state()).state == "requested"
    assert await hub.approvals.registry.listed(list(State), 10) != []


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": b"short"},
        {"exchange_id": b""},
        {"session_id": b""},
        {"requirements": []},
        {"requirements": [hub_pb2.Requirement(policy="p", approvers=["group:sre"], quorum=0)]},
        {"requirements": [hub_pb2.Requirement(policy="p", approvers=[], quorum=1)]},
        {"requirements": [hub_pb2.Requirement(policy="p", approvers=["everybody"], quorum=1)]},
        {"claims_json": "[]"},
        {"claims_json": "{"},
        {"validity_s": 0},
        {"expires_s": -1},
        {"expires_s": 1 << 40},
        {"body": bytes((64 << 10) + 1)},
        {"headers_json": "x" * (300 << 10)},
        {"connection": ""},
    ],
)
async def test_what_cannot_be_approved_is_refused(hub: Authorities, gate: Gate, changes: dict[str, object]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gate.hold(asked(**changes)).state()
    assert code(caught.value) == (grpc.StatusCode.INVALID_ARGUMENT, "approval.invalid")
    assert await hub.approvals.registry.listed(list(State), 10) == []


async def test_one_run_cannot_fill_the_hub(hub: Authorities, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_OPEN_OF_SESSION", 3)
    monkeypatch.setattr(room, "MAX_OPEN", 5)
    calls = [gate.hold(asked()) for _ in range(3)]
    ids = [(await call.state()).approval_id for call in calls]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gate.hold(asked()).state()
    assert code(caught.value) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "approval.too_many")
    others = [gate.hold(asked(session_id=bytes([n]) * 16)) for n in range(3)]
    assert [(await other.state()).state for other in others[:2]] == ["requested"] * 2
    with pytest.raises(grpc.aio.AioRpcError):
        await others[2].state()
    await hub.approvals.decide(ids[0], ANN, approve=False, comment="")
    assert (await gate.hold(asked()).state()).state == "requested"
    monkeypatch.setattr(room, "MAX_BYTES_OF_SESSION", 1000)
    with pytest.raises(grpc.aio.AioRpcError):
        await gate.hold(asked(session_id=b"u" * 16, body=bytes(2000))).state()


async def test_one_caller_cannot_fill_the_hub_with_many_sessions(
    hub: Authorities, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_OPEN_OF_SUBJECT", 3)
    sessions = [bytes([n]) * 16 for n in range(4)]
    calls = [gate.hold(asked(session_id=session)) for session in sessions[:3]]
    ids = [(await call.state()).approval_id for call in calls]
    with pytest.raises(grpc.aio.AioRpcError, match="the runs of this caller have 3"):
        await gate.hold(asked(session_id=sessions[3])).state()
    assert (await gate.hold(asked(session_id=sessions[3], subject="repo:acme/other")).state()).state == "requested"
    await hub.approvals.decide(ids[0], ANN, approve=False, comment="")
    assert (await gate.hold(asked(session_id=sessions[3])).state()).state == "requested"


async def test_room_that_a_refused_request_made_is_not_there(
    folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What expired in its favour is undone with it, and expires once more."""
    async with serving(folder) as hub:
        monkeypatch.setattr(hub.approvals.registry, "expire", asyncio.Event().wait)  # its clock is late
        request = asked(expires_s=1, wait_ms=1)
        assert (await gate.hold(request).state()).state == "requested"
        await asyncio.sleep(1.05)
        monkeypatch.setattr(room, "MAX_BYTES_OF_SESSION", request.ByteSize())
        larger = again(request)
        larger.headers_json = '[["traceparent","' + "0" * 100 + '"]]'
        with pytest.raises(grpc.aio.AioRpcError, match=r"approval\.too_many"):
            await gate.hold(larger).state()
        monkeypatch.undo()
        monkeypatch.setattr(room, "MAX_OPEN_OF_SESSION", 1)
        with pytest.raises(grpc.aio.AioRpcError, match=r"approval\.too_many"):
            await gate.hold(asked()).state()
        over, _ = await hub.approvals.registry.expire()
        assert [approval.state for approval, _ in over] == [State.EXPIRED]
        assert (await gate.hold(asked()).state()).state == "requested"


async def test_waiting_requests_come_back_to_their_own_approval_after_a_restart(folder: Path) -> None:
    request = asked()
    requests = [again(request) for _ in range(5)]
    async with Gate(folder) as gate:
        async with serving(folder) as hub:
            ids = [(await gate.hold(one).state()).approval_id for one in requests]
            await approve(hub, ids[3])  # heard by nobody: its call ends with the hub
        async with serving(folder):
            back = [await gate.hold(one).state() for one in reversed(requests)]
    assert [state.approval_id for state in reversed(back)] == ids
    assert back[1].state == "granted"


HUB = """
import asyncio, sys
from pathlib import Path
from tests.contract.holds import serving, sre

async def main(folder, approve):
    async with serving(Path(folder)) as hub:
        print("ready", flush=True)
        if approve:
            await hub.approvals.decide(approve, sre("ann"), approve=True, comment="")
            print("approved", flush=True)
        await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""

StartHub = Callable[..., "asyncio.Future[asyncio.subprocess.Process]"]


@pytest.fixture
async def start_hub(folder: Path) -> AsyncIterator[StartHub]:
    started: list[asyncio.subprocess.Process] = []

    async def start(approve: str = "", says: bytes = b"ready\n") -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HUB, str(folder), approve), stdout=asyncio.subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        while await asyncio.wait_for(process.stdout.readline(), 30) != says:
            pass
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_killed_hub_forgets_neither_the_request_nor_the_yes(folder: Path, start_hub: StartHub) -> None:
    request = asked()
    async with Gate(folder) as gate:
        process = await start_hub()
        held = gate.hold(request)
        first = await held.state()
        process.kill()
        await process.wait()
        with pytest.raises(grpc.aio.AioRpcError):
            await held.state()
        process = await start_hub(first.approval_id, b"approved\n")
        process.kill()
        await process.wait()
        await start_hub()
        granted = await gate.hold(request).state()
        assert (granted.state, granted.approval_id) == ("granted", first.approval_id)
        assert (await gate.hold(again(request)).state()).state == "requested"


async def test_counters_and_rates_survive_a_kill_and_count_once(folder: Path, start_hub: StartHub) -> None:
    session = b"s" * 16

    def counting(exchange_id: bytes, **changes: object) -> hub_pb2.CountRequest:
        fields = {"session_id": session, "exchange_id": exchange_id, "window_s": 60, "bytes": 10} | changes
        return hub_pb2.CountRequest(**fields)

    async def count(request: hub_pb2.CountRequest) -> tuple[int, ...]:
        c = await gate.ask("Count", request, hub_pb2.Counters)
        totals = (c.calls, c.writes, c.targets, c.bytes, c.denied)
        recent = (c.window_calls, c.window_writes, c.window_targets, c.window_bytes, c.window_denied)
        assert totals == recent
        return totals

    async with Gate(folder) as gate:
        process = await start_hub()
        exchange = uuid4().bytes
        for target in ("a POST /x", "a POST /y", "a POST /x"):
            await count(counting(uuid4().bytes, write=True, target=target))
        assert await count(counting(exchange)) == (4, 3, 2, 40, 0)
        assert await count(counting(exchange)) == (4, 3, 2, 40, 0)
        assert await count(counting(exchange, denied=True)) == (4, 3, 2, 40, 1)
        rates = [hub_pb2.Rate(policy="p", limit=2, per_s=60), hub_pb2.Rate(policy="q", limit=5, per_s=60)]

        async def take(exchange_id: bytes) -> str:
            request = hub_pb2.TakeRatesRequest(session_id=session, exchange_id=exchange_id, rates=rates)
            reply = await gate.ask("TakeRates", request, hub_pb2.TakeRatesReply)
            assert bool(reply.exceeded) == (0 < reply.retry_after_s <= 60)
            return str(reply.exceeded)

        assert [await take(one) for one in (exchange, exchange, uuid4().bytes)] == ["", "", ""]
        process.kill()
        await process.wait()
        process = await start_hub()
        assert await count(counting(exchange)) == (4, 3, 2, 40, 1)
        assert await count(counting(uuid4().bytes)) == (5, 3, 2, 50, 1)
        assert [await take(exchange), await take(uuid4().bytes)] == ["", "p"]


async def test_what_cannot_be_counted_is_refused(hub: Authorities, gate: Gate) -> None:
    fields = {"session_id": bytes(16), "exchange_id": bytes(16)}
    for request in (
        hub_pb2.CountRequest(**fields),
        hub_pb2.CountRequest(**fields, window_s=10**6),
        hub_pb2.CountRequest(session_id=b"", exchange_id=bytes(16), window_s=1),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gate.ask("Count", request, hub_pb2.Counters)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for rate in (
        hub_pb2.Rate(policy="", limit=1, per_s=1),
        hub_pb2.Rate(policy="p", limit=0, per_s=1),
        hub_pb2.Rate(policy="p", limit=1, per_s=0),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gate.ask("TakeRates", hub_pb2.TakeRatesRequest(**fields, rates=[rate]), hub_pb2.TakeRatesReply)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
