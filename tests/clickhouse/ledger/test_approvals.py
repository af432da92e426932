"""The history of approvals in a real ClickHouse: each event once, and of no power over the hub."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from ext_proc.config.models import Config, Hub, Store
from ext_proc.hub.approvals import Approvals, Registry, history
from ext_proc.hub.approvals import registry as registries
from ext_proc.hub.approvals.registry import Asked
from ext_proc.hub.approvals.rows import Summary
from ext_proc.hub.approvals.states import Approver, Requirement, State
from ext_proc.hub.clickhouse import ClickHouse
from ext_proc.hub.ledger import Ledger
from ext_proc.hub.replica import Replicas

ANN = Approver("ann@acme.example", "https://id.example", "sub-ann", frozenset({"sre"}))
DIGEST = bytes(range(32))
PAGE = Path(__file__).parents[3] / "docs" / "approvals.md"


def asked(exchange: int = 1, digest: bytes = DIGEST) -> Asked:
    about = Summary(
        connection="datadog",
        operation="DeleteDashboard",
        issuer="github",
        subject="repo:acme/infra",
        session_id=UUID(int=7).bytes,
        session_label="run 7",
        method="DELETE",
        path="/api/v1/dashboard/é",
        message="needs a person",
        writer="local:0",
        gate="g1",
        digest=digest,
    )
    return Asked(
        about=about,
        exchange_id=UUID(int=exchange).bytes,
        requirements=(Requirement("deletes", ("group:sre",), 1),),
        person="mona@acme.example",
        validity_us=10**9,
        expires_us=10**9,
        wait_s=5,
        shown=bytes(32),
        request=b"",
    )


@asynccontextmanager
async def hub(folder: Path, store: Store) -> AsyncIterator[Approvals]:
    """A hub that enters its history, over one folder again and again."""
    config = Config(version=1, store=store, hub=Hub(path=str(folder)))
    replicas = Replicas(folder)
    approvals = Approvals(Registry(folder / "approvals.sqlite"))
    ledger = Ledger(replicas, config, approvals=approvals)
    running = asyncio.create_task(ledger.run())
    try:
        yield approvals
        await ledger.drain(20)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        replicas.close()
        approvals.close()


async def attach(approvals: Approvals, request: Asked) -> str:
    """Held, and left at once."""
    async with aclosing(approvals.hold(request)) as states:
        return (await anext(states)).approval.id


def rows(clickhouse: ClickHouse, approval_id: str, what: str) -> list[dict[str, Any]]:
    sql = f"SELECT {what} FROM {clickhouse.database}.approvals WHERE approval_id = {{id:String}} ORDER BY number"
    return list(clickhouse.query(sql, {"id": approval_id}))


async def test_each_event_has_one_row_behind_restarts(tmp_path, store_config, clickhouse: ClickHouse):
    async with hub(tmp_path, store_config) as approvals:
        approval_id = await attach(approvals, asked())
        denied = await attach(approvals, asked(digest=bytes(32)))
    async with hub(tmp_path, store_config) as approvals:
        await approvals.decide(approval_id, ANN, approve=True, comment="fine: é\n")
        await approvals.decide(denied, ANN, approve=False, comment="no")
    async with hub(tmp_path, store_config) as approvals:
        assert await attach(approvals, asked(exchange=2)) == approval_id
        identity = await approvals.registry.identity()
    found = rows(clickhouse, approval_id, "* EXCEPT (ts, digest), hex(digest) AS digest, ts > now() - 60 AS recent")
    assert [(row["event"], row["state"]) for row in found] == [
        ("requested", "requested"),
        ("approved", "approved"),
        ("used", "used"),
    ]
    assert [row["exchange_id"] for row in found] == [str(UUID(int=n)) for n in (1, 0, 2)]
    assert {row["registry"] for row in found} == {identity}
    yes = found[1]
    assert (yes["approver"], yes["approver_issuer"]) == ("oidc:ann@acme.example", "https://id.example")
    assert (yes["approver_subject"], yes["comment"]) == ("sub-ann", "fine: é\n")
    assert (yes["connection"], yes["operation"], yes["method"]) == ("datadog", "DeleteDashboard", "DELETE")
    assert (yes["path"], yes["issuer"], yes["subject"]) == ("/api/v1/dashboard/é", "github", "repo:acme/infra")
    assert (yes["acts_for"], yes["session_id"]) == ("mona@acme.example", str(UUID(int=7)))
    assert (yes["policies"], yes["requirements"]) == (["deletes"], '[["deletes",["group:sre"],1]]')
    assert (yes["gate"], yes["writer"], yes["digest"]) == ("g1", "local:0", DIGEST.hex().upper())
    assert yes["recent"]
    assert [row["event"] for row in rows(clickhouse, denied, "event")] == ["requested", "denied"]
    [documented] = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for table in ("approvals", "exchanges"):
        documented = re.sub(rf"(FROM|JOIN) {table} ", rf"\1 {clickhouse.database}.{table} ", documented)
    found = [row for row in clickhouse.query(documented) if row["path"] == "/api/v1/dashboard/é"]
    assert {(row["approver"], row["comment"]) for row in found} >= {("oidc:ann@acme.example", "no")}


async def test_a_row_in_clickhouse_approves_nothing(tmp_path, store_config, clickhouse: ClickHouse):
    async with hub(tmp_path, store_config) as approvals:
        approval_id = await attach(approvals, asked())
    clickhouse.command(
        f"INSERT INTO {clickhouse.database}.approvals (ts, approval_id, number, event, state, approver, digest)"
        f" SELECT now64(6), approval_id, 1000, 'approved', 'approved', 'oidc:ann@acme.example', digest"
        f" FROM {clickhouse.database}.approvals WHERE approval_id = '{approval_id}'"
    )
    assert rows(clickhouse, approval_id, "state")[-1]["state"] == "approved"
    async with hub(tmp_path, store_config) as approvals:
        async with aclosing(approvals.hold(asked(exchange=2))) as states:
            heard = await anext(states)
        assert (heard.approval.id, heard.approval.state, heard.granted) == (approval_id, State.REQUESTED, False)
        found = await approvals.registry.find(approval_id)
        assert [event.event for event in found.events] == ["requested"]


async def test_the_registry_forgets_only_what_is_in_the_history(tmp_path, store_config, monkeypatch):
    monkeypatch.setattr(registries, "KEEP_CLOSED", 1)
    async with hub(tmp_path, store_config) as approvals:
        ids = [await attach(approvals, asked(digest=bytes([n]) * 32)) for n in range(3)]
        for approval_id in ids:
            await approvals.decide(approval_id, ANN, approve=False, comment="")
        await approvals.registry.forget(0)
        assert len(await approvals.registry.listed(list(State), 10)) == 3
    async with hub(tmp_path, store_config) as approvals:
        async with asyncio.timeout(10):
            while not approvals.entered:  # noqa: ASYNC110 (the ledger tells nobody else)
                await asyncio.sleep(0.01)
        await approvals.registry.forget(approvals.entered)
        assert [one.id for one, _ in await approvals.registry.listed(list(State), 10)] == [ids[2]]
        assert await approvals.registry.events(0, 10) != []


def test_the_columns_are_those_of_the_table(clickhouse: ClickHouse):
    sql = "SELECT name FROM system.columns WHERE database = {db:String} AND table = {table:String} ORDER BY position"
    found = clickhouse.query(sql, {"db": clickhouse.database, "table": history.TABLE})
    assert tuple(row["name"] for row in found) == history.COLUMNS
