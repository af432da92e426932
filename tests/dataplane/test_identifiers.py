"""Who names an exchange: Envoy, never the client."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from uuid import UUID

import aiohttp
import pytest

from tests.dataplane.background import Background
from tests.dataplane.failure import Witness, answer_to, question_of, witness
from tests.dataplane.ledger import Ledger
from tests.dataplane.stack import Stack, douane_up
from tests.issuer import LoopbackIssuer

pytestmark = [pytest.mark.dataplane, pytest.mark.clickhouse]

CHOSEN = "11111111-1111-4111-8111-111111111111"
COUNT = 100


@pytest.fixture(scope="module")
def upstream(servers: Background) -> Witness:
    return servers.enter(witness())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, issuer: LoopbackIssuer, upstream: Witness) -> Iterator[Stack]:
    with douane_up(tmp_path_factory.mktemp("ids"), issuer.url, upstream.url) as running:
        yield running


async def test_one_chosen_id_gives_a_row_for_each_request(stack: Stack, issuer: LoopbackIssuer) -> None:
    token = issuer.token()
    claims = [("x-request-id", CHOSEN), ("X-Request-Id", CHOSEN), ("x-exchange-id", CHOSEN)]
    ledger = Ledger(stack)

    async def ask(session: aiohttp.ClientSession, path: str, identity: str) -> tuple[int, bytes]:
        headers = [*claims, ("dd-api-key", identity)]
        async with session.post(stack.url + path, data=question_of(path), headers=headers) as got:
            return got.status, await got.read()

    async with aiohttp.ClientSession() as session:
        allowed = [f"/chosen/{n}" for n in range(COUNT)]
        answers = await asyncio.gather(*(ask(session, path, token) for path in allowed))
        assert answers == [(200, answer_to(path)) for path in allowed]
        refused = await asyncio.gather(*(ask(session, f"/refused/{n}", "no token") for n in range(COUNT)))
        assert Counter(status for status, _ in refused) == {401: COUNT}
    rows = await asyncio.to_thread(ledger.rows, "1", expect=2 * COUNT)
    ids = {UUID(row["exchange_id"]) for row in rows}
    assert len(ids) == 2 * COUNT
    assert UUID(CHOSEN) not in ids
    assert Counter(row["outcome"] for row in rows) == {"complete": COUNT, "denied": COUNT}
    assert Counter(row["path"] for row in rows).most_common(1)[0][1] == 1
    assert not any(CHOSEN in value for row in rows for name, value in row["req_headers"] if name == "x-request-id")
