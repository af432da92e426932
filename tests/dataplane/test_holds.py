"""Held requests on real Envoy, a real hub and the real store: what passes, when, how often, and what never does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.dataplane.background import Background
from tests.dataplane.desk import Desk, Job
from tests.dataplane.ledger import Ledger
from tests.dataplane.stack import Stack, douane_up, free_ports, merge
from tests.dataplane.upstreams import Upstream, web
from tests.issuer import LoopbackIssuer

pytestmark = [pytest.mark.dataplane, pytest.mark.clickhouse]

POLICIES = [
    {
        "name": "deletes",
        "effect": "hold",
        "when": "request.method == 'DELETE'",
        "message": "deletes need a person",
        "approvers": ["local"],
        "wait": "20s",
    },
    {
        "name": "short",
        "effect": "hold",
        "when": "request.path.startsWith('/echo/short') && request.method == 'POST'",
        "approvers": ["local"],
        "wait": "1s",
        "expires": "1h",
    },
    {
        "name": "hasty",
        "effect": "hold",
        "when": "request.path.startsWith('/echo/hasty')",
        "approvers": ["local"],
        "wait": "1500ms",
        "expires": "2s",
    },
    {
        "name": "fleeting",
        "effect": "hold",
        "when": "request.path.startsWith('/echo/fleeting')",
        "approvers": ["local"],
        "wait": "1s",
        "validity": "1s",
    },
    {
        "name": "people",
        "effect": "hold",
        "when": "request.path.startsWith('/echo/people')",
        "approvers": ["group:sre"],
        "quorum": 2,
        "wait": "20s",
    },
]


@dataclass
class Border:
    """A running stack with everything that a test of it talks to."""

    stack: Stack
    job: Job
    desk: Desk
    ledger: Ledger
    upstream: Upstream
    people: LoopbackIssuer

    def reached(self, path: str) -> int:
        return sum(seen.target.partition("?")[0] == path for seen in self.upstream.seen)

    def person(self, name: str, *groups: str, **claims: Any) -> str:
        """A token of the approvers' provider."""
        given = {"aud": "douane-cli", "sub": name, "email": name, "email_verified": True, "groups": list(groups)}
        return self.people.id_token(**(given | claims))

    async def row(self, path: str, *, expect: int = 1) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self.ledger.rows, "path = {path:String}", expect=expect, path=path)


@pytest.fixture(scope="module")
def people() -> Iterator[LoopbackIssuer]:
    with LoopbackIssuer() as running:
        yield running


@pytest.fixture(scope="module")
def border(
    tmp_path_factory: pytest.TempPathFactory, issuer: LoopbackIssuer, people: LoopbackIssuer, servers: Background
) -> Iterator[Border]:
    upstream = servers.enter(web())
    with douane_up(
        tmp_path_factory.mktemp("holds"),
        issuer.url,
        upstream.url,
        policies=POLICIES,
        approvals={
            "sign_in": {"issuer": people.url, "client_id": "douane-cli"},
            "actors": {"github": {"claim": "actor", "people": {"mona": "mona@acme.example", "bot": None}}},
        },
    ) as stack:
        yield Border(stack, Job(stack.url, issuer.token()), Desk(stack), Ledger(stack), upstream, people)


async def test_approved_it_passes_once_and_the_ledger_says_who(border: Border) -> None:
    path = "/echo/approved"
    sending = asyncio.create_task(border.job.send("DELETE", path, body=b'{"why": "old"}'))
    (waiting,) = await border.desk.waiting(path)
    assert border.reached(path) == 0
    assert (waiting["method"], waiting["session_label"]) == ("DELETE", "acme/infra run 1001 #1")
    assert (await border.desk.approve(waiting["id"]))[0] == 200
    answer = await sending
    assert answer.status == 200
    assert border.reached(path) == 1
    (row,) = await border.row(path)
    assert (row["decision"], row["approval_id"], row["approved_by"]) == (
        "allow",
        waiting["id"],
        [f"local:{os.getuid()}"],
    )
    (rule,) = row["rules"]
    assert (rule["policy"], rule["effect"], rule["mode"]) == ("deletes", "hold", "enforce")
    assert json.loads(rule["values"]) == {"request.method": "DELETE"}
    assert rule["digest"]


async def test_denied_it_never_passes(border: Border) -> None:
    path = "/echo/denied"
    sending = asyncio.create_task(border.job.send("DELETE", path))
    (waiting,) = await border.desk.waiting(path)
    assert (await border.desk.deny(waiting["id"]))[0] == 200
    answer = await sending
    assert (answer.status, answer.reason) == (403, "approval.denied")
    assert "no" in answer.told["message"]
    assert border.reached(path) == 0
    (row,) = await border.row(path)
    assert (row["decision"], row["reason"], row["approval_id"]) == ("deny", "approval.denied", waiting["id"])


async def test_nobody_decides_in_time(border: Border) -> None:
    pending = await border.job.send("POST", "/echo/hasty")
    assert pending.reason == "approval.pending"
    answer = await border.job.send("POST", "/echo/hasty")
    assert answer.told["approval_id"] == pending.told["approval_id"]
    assert (answer.status, answer.reason) == (403, "approval.expired")
    assert border.reached("/echo/hasty") == 0


async def test_what_outlasts_the_wait_is_told_so_and_passes_once_when_sent_again(border: Border) -> None:
    path = "/echo/short"
    first = await border.job.send("POST", path, body=b"{}")
    assert (first.status, first.reason) == (409, "approval.pending")
    assert int(first.headers["Retry-After"]) > 0
    approval = first.told["approval_id"]
    assert first.told["approval_url"].endswith(f"/approvals/{approval}")
    again = await border.job.send("POST", path, body=b"{}")
    assert (again.reason, again.told["approval_id"]) == ("approval.pending", approval), "it attaches to what is open"
    assert (await border.desk.approve(approval))[0] == 200
    passed = await border.job.send("POST", path, body=b"{}", headers={"traceparent": "00-1-1-01"})
    assert (passed.status, border.reached(path)) == (200, 1)
    replayed = await border.job.send("POST", path, body=b"{}")
    assert replayed.reason == "approval.pending"
    assert replayed.told["approval_id"] != approval
    assert border.reached(path) == 1
    rows = await border.row(path, expect=4)
    assert [(row["decision"], row["reason"]) for row in rows] == [
        ("hold", "approval.pending"),
        ("hold", "approval.pending"),
        ("allow", ""),
        ("hold", "approval.pending"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"body": b'{"id": 2}'},
        {"headers": {"x-scope": "all"}},
        {"path": "/echo/short/changed?force=true"},
        {"headers": {"dd-api-key": "ANOTHER RUN"}},
    ],
    ids=["body", "header", "query", "session"],
)
async def test_an_approval_is_for_that_request_alone(border: Border, issuer: LoopbackIssuer, change: Any) -> None:
    path = "/echo/short/changed"
    approved = await border.job.send("POST", path, body=b'{"id": 1}')
    await border.desk.approve(approved.told["approval_id"])
    if change.get("headers", {}).get("dd-api-key"):
        change = {"headers": {"dd-api-key": issuer.token(run_id="2002")}}
    same = {"path": path, "body": b'{"id": 1}'}
    other = await border.job.send("POST", **(same | change))
    assert other.reason == "approval.pending"
    assert other.told["approval_id"] != approved.told["approval_id"]
    before = border.reached(path)
    assert (await border.job.send("POST", path, body=b'{"id": 1}')).status == 200
    assert border.reached(path) == before + 1


async def test_an_approval_lasts_as_long_as_it_is_valid(border: Border) -> None:
    path = "/echo/fleeting"
    first = await border.job.send("POST", path)
    await border.desk.approve(first.told["approval_id"])
    await asyncio.sleep(1.2)
    late = await border.job.send("POST", path)
    assert late.reason == "approval.pending"
    assert late.told["approval_id"] != first.told["approval_id"]
    assert border.reached(path) == 0


async def test_a_client_that_leaves_finds_its_approval_again(border: Border) -> None:
    path = "/echo/left"
    sending = asyncio.create_task(border.job.send("DELETE", path))
    (waiting,) = await border.desk.waiting(path)
    sending.cancel()
    (row,) = await border.row(path)
    assert (row["decision"], row["outcome"], row["approval_id"]) == ("hold", "client_gone", waiting["id"])
    await border.desk.approve(waiting["id"])
    assert (await border.job.send("DELETE", path)).status == 200
    assert border.reached(path) == 1


async def test_each_of_several_like_requests_needs_an_approval_of_its_own(border: Border) -> None:
    path = "/echo/alike"
    sending = [asyncio.create_task(border.job.send("DELETE", path)) for _ in range(3)]
    waiting = await border.desk.waiting(path, count=3)
    assert len({one["id"] for one in waiting}) == 3
    await border.desk.approve(waiting[0]["id"])
    done, pending = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().status for task in done] == [200]
    assert border.reached(path) == 1
    for one in waiting[1:]:
        await border.desk.deny(one["id"])
    assert {(await task).reason for task in pending} == {"approval.denied"}
    assert border.reached(path) == 1


async def test_killed_workers_lose_no_hold(border: Border) -> None:
    path = "/echo/worker-killed"
    sending = asyncio.create_task(border.job.send("DELETE", path, body=b'{"a": 1}'))
    (waiting,) = await border.desk.waiting(path)
    for pid in border.stack.pids()["worker"][:1]:
        os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.5)
    await border.desk.approve(waiting["id"])
    assert (await sending).status == 200
    assert border.reached(path) == 1
    await asyncio.to_thread(border.stack.ready)


async def test_a_killed_hub_loses_no_hold(border: Border) -> None:
    path = "/echo/hub-killed"
    sending = asyncio.create_task(border.job.send("DELETE", path))
    (waiting,) = await border.desk.waiting(path)
    (pid,) = border.stack.pids()["hub"]
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.2)
    await asyncio.to_thread(border.stack.ready)
    (still,) = await border.desk.waiting(path)
    assert still["id"] == waiting["id"]
    await border.desk.approve(waiting["id"])
    assert (await sending).status == 200
    assert border.reached(path) == 1


async def test_a_row_forged_in_the_ledger_approves_nothing(border: Border) -> None:
    first = await border.job.send("POST", "/echo/short/forged")
    approval = first.told["approval_id"]
    writer = (border.stack.folder / "var/store/writer.password").read_text().strip()
    row = {"approval_id": approval, "event": "approved", "number": 999, "approver": "oidc:eve"}
    done = await asyncio.to_thread(
        subprocess.run,
        [
            *("curl", "-sS", "--fail-with-body", "-u", f"writer:{writer}", "--data-binary", json.dumps(row)),
            f"{store_of(border.stack)}?query=INSERT+INTO+douane.approvals+FORMAT+JSONEachRow",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (await border.job.send("POST", "/echo/short/forged")).reason == "approval.pending"
    assert border.reached("/echo/short/forged") == 0


async def test_only_people_who_may_and_who_are_not_the_caller(border: Border, issuer: LoopbackIssuer) -> None:
    path = "/echo/people"
    sending = asyncio.create_task(border.job.send("POST", path))
    (waiting,) = await border.desk.waiting(path)
    one = waiting["id"]
    refused = {
        "the agent's own token": border.job.token,
        "its issuer, for the approvers' client": issuer.token(aud="douane-cli", email="x@acme.example", groups=["sre"]),
        "another client's token": border.person("ann@acme.example", "sre", aud="grafana"),
        "of no group": border.person("ann@acme.example", "dev"),
        "who caused it": border.person("Mona@acme.example", "sre"),
        "an address that is not verified": border.person("ann@acme.example", "sre", email_verified=False),
        "a job of the approvers' provider": border.people.token(
            aud="douane-cli", email="ann@acme.example", email_verified=True, groups=["sre"]
        ),
        "expired": border.person("ann@acme.example", "sre", exp=1),
    }
    for who, token in refused.items():
        status, told = await border.desk.approve(one, token=token)
        assert status in (401, 403), (who, told)
    assert (await border.desk.approve(one))[0] in (403, 409), "the operator is not among its approvers"
    for method in ("GET", "HEAD"):
        await border.desk.call(method, f"/api/approvals/{one}/approve", token=border.person("ann@acme.example", "sre"))
    assert (await border.desk.approve(one, token=border.person("ann@acme.example", "sre")))[0] == 200
    assert (await border.desk.approve(one, token=border.person("ANN@acme.example", "sre")))[0] in (403, 409)
    assert not sending.done(), "one of two"
    assert (await border.desk.approve(one, token=border.person("bob@acme.example", "sre")))[0] == 200
    assert (await sending).status == 200
    (row,) = await border.row(path)
    assert row["approved_by"] == ["oidc:ann@acme.example", "oidc:bob@acme.example"]


async def test_a_caller_that_is_mapped_to_nobody_is_refused(border: Border, issuer: LoopbackIssuer) -> None:
    job = Job(border.stack.url, issuer.token(actor="stranger"))
    answer = await job.send("POST", "/echo/people")
    assert (answer.status, answer.reason) == (403, "approval.actor_unmapped")


@pytest.fixture
def second(border: Border, tmp_path: Path) -> Iterator[Job]:
    """A second gate with the same hub."""
    port, health = free_ports(2)
    config = merge(
        border.stack.config,
        {
            "gate": {
                "name": "second",
                "workers": 1,
                "run_dir": str(tmp_path / "run"),
                "health_listen": f"127.0.0.1:{health}",
            },
            "hub": {"url": f"unix:{border.stack.folder}/var/run/hub.sock"},
            "recording": {"spool": {"path": str(tmp_path / "spool")}},
            "connections": {"datadog": {"listen": f"127.0.0.1:{port}", "hosts": []}},
        },
    )
    config["gate"].pop("tls_listen")
    (tmp_path / "douane.yaml").write_text(json.dumps(config))
    (tmp_path / "app-key").write_bytes((border.stack.folder / "app-key").read_bytes())
    with (tmp_path / "gate.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ext_proc.cli", "gate", "-c", str(tmp_path / "douane.yaml")],
            env=border.stack.environment,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
    try:
        probe = Stack(tmp_path, port, health, 0, process, config)
        probe.ready()
        yield Job(f"http://127.0.0.1:{port}", border.job.token)
    finally:
        process.terminate()
        process.wait(40)


async def test_two_gates_share_the_approvals_and_one_passes_once(border: Border, second: Job) -> None:
    for n in range(3):
        path = f"/echo/short/gates/{n}"
        first = await border.job.send("POST", path)
        attached = await second.send("POST", path)
        assert attached.told["approval_id"] == first.told["approval_id"], "the same request, wherever it is sent"
        assert (await border.desk.approve(first.told["approval_id"]))[0] == 200
        raced = await asyncio.gather(*(job.send("POST", path) for job in (border.job, second) * 4))
        assert sorted(answer.status for answer in raced) == [200] + [409] * 7
        assert border.reached(path) == 1


async def test_what_was_forbidden_meanwhile_does_not_pass_though_it_was_approved(border: Border) -> None:
    path = "/echo/forbidden"
    sending = asyncio.create_task(border.job.send("DELETE", path))
    (waiting,) = await border.desk.waiting(path)
    before = border.stack.config
    freeze = {"name": "freeze", "effect": "deny", "when": f"request.path == '{path}'", "message": "a freeze"}
    border.stack.reload({**before, "policies": [freeze, *POLICIES]})
    try:
        async with asyncio.timeout(20):
            while (await border.job.send("GET", path)).status != 403:
                pass
        assert (await border.desk.approve(waiting["id"]))[0] == 200
        answer = await sending
    finally:
        border.stack.reload(before)
    assert (answer.status, answer.reason) == (403, "policy.denied")
    assert [seen.method for seen in border.upstream.seen if seen.target == path and seen.method == "DELETE"] == []
    (row,) = [row for row in await border.row(path, expect=border.reached(path) + 2) if row["method"] == "DELETE"]
    assert (row["decision"], row["policy"], row["approval_id"]) == ("deny", "freeze", waiting["id"])


def store_of(stack: Stack) -> str:
    return f"http://{stack.config['store']['listen']}/"
