"""A held request and the hub, scripted: what the client is told, and what a hub that goes away changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import timedelta
from uuid import UUID

import pytest

from ext_proc.approvals import Shown
from ext_proc.config import Connection
from ext_proc.decision import Deny, Hold, Requirement
from ext_proc.errors import HubError
from ext_proc.exchange import Approved, Authorized, Caller, Exchange, Headers, Identified, SignedClaims
from ext_proc.pb import hub_pb2
from ext_proc.stages.approval import ApprovalStage, Waiting

SHOWN = Shown(
    path="/p", query="q", headers=[("accept", b"\xff")], body=b"{}", body_size=2, hits_json=['{"policy":"p"}']
)
AWAY = HubError("hub.unavailable", "the hub cannot be reached", retryable=True)


class Script:
    """Says in each call of Hold what stands in its turn; an exception ends the call so, None waits."""

    def __init__(self, *calls: list[object]) -> None:
        self.calls = list(calls)
        self.asked: list[hub_pb2.HoldRequest] = []
        self.closed = 0

    async def hold(self, request: hub_pb2.HoldRequest) -> AsyncGenerator[hub_pb2.HoldState, None]:
        self.asked.append(request)
        try:
            for said in self.calls.pop(0):
                if isinstance(said, Exception):
                    raise said
                if said is None:
                    await asyncio.sleep(request.wait_ms / 1000)
                else:
                    yield state(str(said))
        finally:
            self.closed += 1


def state(name: str) -> hub_pb2.HoldState:
    return hub_pb2.HoldState(approval_id="a-1", state=name, url="http://hub/approvals/a-1", approved_by=["oidc:alice"])


def authorized(wait: float = 0.2) -> Authorized:
    caller = Caller("github", "repo:acme", SignedClaims({"iss": "x", "actor": "é"}), UUID(int=7), "acme run 1")
    exchange = Exchange(UUID(int=1), "datadog", "DELETE", "http", "h", "/p", "", Headers(), 1)
    hold = Hold(
        (Requirement("deletes", ("group:sre",), 2), Requirement("prod", ("user:bob",), 1)),
        timedelta(seconds=wait),
        timedelta(minutes=15),
        timedelta(hours=1),
        "deletes need a person",
    )
    return Authorized(Identified(exchange, caller), "main", "all", operation="DeleteDashboard", hold=hold)


async def begin(script: Script, wait: float = 0.2, **answer: object) -> Waiting:
    connection = Connection.model_validate(
        {"listen": "127.0.0.1:1", "upstream": "https://api.example", "hold": answer or {}}
    )
    stage = ApprovalStage(script, connection, "ci", ["dd-api-key"], upstream="https://api.example")
    return await stage.open(authorized(wait), b"{}", Headers(), SHOWN)


async def test_the_hub_is_told_what_is_held_and_for_whom() -> None:
    script = Script(["granted"])
    await (await begin(script)).outcome()
    (asked,) = script.asked
    assert len(asked.digest) == 32
    assert (asked.gate, asked.connection, asked.operation, asked.upstream) == (
        "ci", "datadog", "DeleteDashboard", "https://api.example",
    )  # fmt: skip
    assert [(r.policy, list(r.approvers), r.quorum) for r in asked.requirements] == [
        ("deletes", ["group:sre"], 2),
        ("prod", ["user:bob"], 1),
    ]
    assert (asked.validity_s, asked.expires_s, asked.body, asked.body_size) == (900, 3600, b"{}", 2)
    assert json.loads(asked.claims_json)["actor"] == "é"
    assert json.loads(asked.hits_json) == [{"policy": "p"}]
    assert 100 < asked.wait_ms <= 200


async def test_granted_at_once_or_later() -> None:
    for said in (["granted"], ["requested", "approved", "granted"]):
        script = Script(said)
        waiting = await begin(script)
        assert waiting.approval_id == "a-1"
        outcome = await waiting.outcome()
        assert isinstance(outcome, Approved)
        assert (outcome.approval_id, outcome.approved_by) == ("a-1", ("oidc:alice",))
        assert script.closed == 1


async def test_how_an_upload_is_to_be_read_counts_though_it_is_signed_anew() -> None:
    """S3 stores another object of the same bytes where they are said to be chunks."""
    digests = []
    for declared in (b"UNSIGNED-PAYLOAD", b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"):
        connection = Connection.model_validate(
            {
                "listen": "127.0.0.1:1",
                "upstream": "https://api.example",
                "credentials": [{"sigv4": {"service": "s3", "region": "eu-central-1"}, "from": {"env": "KEYS"}}],
            }
        )
        script = Script(["granted"])
        stage = ApprovalStage(script, connection, "ci", ["sigv4"], upstream="https://api.example")
        asked = authorized()
        asked.identified.exchange.headers.items += [("x-amz-content-sha256", declared), ("x-amz-date", declared)]
        await stage.open(asked, b"{}", Headers(), SHOWN)
        digests.append(script.asked[0].digest)
    assert digests[0] != digests[1]


@pytest.mark.parametrize("end", ["denied", "expired", "withdrawn"])
async def test_over(end: str) -> None:
    outcome = await (await begin(Script(["requested", end]))).outcome()
    assert isinstance(outcome, Deny)
    assert (outcome.reason, outcome.http_status, outcome.decision) == (f"approval.{end}", 403, "deny")
    assert (outcome.approval_id, outcome.policy) == ("a-1", "deletes,prod")


async def test_nobody_decided_in_time() -> None:
    script = Script(["requested", None])
    outcome = await (await begin(script, status=429, reset_header="x-ratelimit-reset", retry_after="7s")).outcome()
    assert isinstance(outcome, Deny)
    assert (outcome.reason, outcome.http_status, outcome.decision) == ("approval.pending", 429, "hold")
    assert outcome.headers == (("retry-after", b"7"), ("x-ratelimit-reset", b"7"))
    assert (outcome.approval_id, outcome.approval_url) == ("a-1", "http://hub/approvals/a-1")
    assert script.closed == 1


async def test_a_hub_that_goes_away_is_asked_again_for_what_is_left_of_the_wait() -> None:
    script = Script(["requested", AWAY], [AWAY], ["requested", "granted"])
    outcome = await (await begin(script, wait=5)).outcome()
    assert isinstance(outcome, Approved)
    first, _, last = script.asked
    assert last.wait_ms < first.wait_ms
    assert (first.digest, first.exchange_id) == (last.digest, last.exchange_id)


async def test_a_hub_that_stays_away_leaves_it_pending() -> None:
    outcome = await (await begin(Script(["requested", AWAY], *[[AWAY]] * 9))).outcome()
    assert isinstance(outcome, Deny)
    assert outcome.reason == "approval.pending"


async def test_a_hub_that_is_away_from_the_start_holds_nothing() -> None:
    with pytest.raises(HubError, match=r"hub\.unavailable"):
        await begin(Script([AWAY]))


async def test_a_hub_that_takes_it_no_more_ends_it() -> None:
    refused = HubError("approval.too_many", "too many", http_status=429)
    outcome = await (await begin(Script(["requested", refused]))).outcome()
    assert isinstance(outcome, Deny)
    assert (outcome.reason, outcome.http_status) == ("approval.too_many", 429)


async def test_a_client_that_leaves_ends_the_call() -> None:
    script = Script(["requested", None])
    waiting = await begin(script, wait=30)
    task = asyncio.create_task(waiting.outcome())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert script.closed == 1
