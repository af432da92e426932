"""Datadog's official client completes a held delete by its own retry: 429 with `X-Ratelimit-Reset`, as its pack says.

The pack itself holds the request; the client is told nothing but the gate's address and the job's token.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from datadog_api_client import ApiClient, Configuration
from datadog_api_client.v1.api.dashboards_api import DashboardsApi

from tests.dataplane import wire
from tests.dataplane.background import Background
from tests.dataplane.desk import Desk
from tests.dataplane.ledger import Ledger
from tests.dataplane.stack import PLACEHOLDER, douane_up
from tests.issuer import LoopbackIssuer

pytestmark = [pytest.mark.dataplane, pytest.mark.clickhouse]

PATH = "/api/v1/dashboard/abc-def-ghi"
DELETED = b'{"deleted_dashboard_id": "abc-def-ghi"}'


async def test_a_held_delete_is_completed_by_the_clients_own_retry(
    tmp_path: Path, issuer: LoopbackIssuer, servers: Background
) -> None:
    async def script(request: wire.Wire) -> bool:
        await request.body()
        await request.send(wire.answer(body=DELETED, headers=[("content-type", "application/json")]))
        return True

    upstream = servers.enter(wire.raw(script))
    pack = {"pack": "datadog", "connection": "datadog", "settings": {"approvers": ["local"], "wait": "1s"}}
    with douane_up(
        tmp_path / "retry",
        issuer.url,
        upstream.url,
        packs=[pack],
        connections={"datadog": {"hold": {"status": 429, "reset_header": "x-ratelimit-reset", "retry_after": "1s"}}},
    ) as stack:

        def delete() -> str:
            settings = Configuration(host=stack.url, enable_retry=True, max_retries=8)  # type: ignore[no-untyped-call]
            settings.api_key["apiKeyAuth"] = issuer.token()
            settings.api_key["appKeyAuth"] = PLACEHOLDER
            with ApiClient(settings) as client:
                api = DashboardsApi(client)  # type: ignore[no-untyped-call]
                return str(api.delete_dashboard("abc-def-ghi").deleted_dashboard_id)

        deleting = asyncio.create_task(asyncio.to_thread(delete))
        desk = Desk(stack)
        (waiting,) = await desk.waiting(PATH)
        await asyncio.sleep(1.5)  # the first try has been told to come again
        assert upstream.seen == []
        assert (await desk.approve(waiting["id"]))[0] == 200
        assert await deleting == "abc-def-ghi"
        assert [(seen.method, seen.target) for seen in upstream.seen] == [("DELETE", PATH)]
        rows = await asyncio.to_thread(Ledger(stack).found, "path = {path:String}", wait_for=2, path=PATH)
        assert [(row["decision"], row["status"]) for row in rows[:-1]] == [("hold", 429)] * (len(rows) - 1)
        assert len(rows) > 1
        assert (rows[-1]["decision"], rows[-1]["approval_id"]) == ("allow", waiting["id"])
        assert {row["approval_id"] for row in rows} == {waiting["id"]}
