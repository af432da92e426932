"""Journals in, rows of a real ClickHouse out."""

from __future__ import annotations

import asyncio
import gzip
import random
import time
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

from ext_proc.hub import chain, rows, schema
from ext_proc.hub.clickhouse import ClickHouse
from ext_proc.pb import journal_pb2 as pb
from tests.journals import START_US, Attempt


def _rows(clickhouse: ClickHouse, gate: str, what: str = "*") -> list[dict[str, Any]]:
    sql = f"SELECT {what} FROM {clickhouse.database}.exchanges WHERE gate = {{gate:String}} ORDER BY seq"
    return list(clickhouse.query(sql, {"gate": gate}))


async def test_every_column_says_what_the_journal_said(open_hub, clickhouse):
    attempt = Attempt()
    mask = pb.Mask(place="req_body", index=2, start=3, length=4, original_length=40, detector="jwt", fingerprint="abc")
    hit = pb.RuleHit(
        policy="writes", digest="d", effect="hold", mode="enforce", values_json='{"request.method":"POST"}'
    )
    async with open_hub() as hub:
        await hub.ship(
            await hub.journal(),
            [
                attempt.opened(headers=[("accept", b"*/*"), ("x-bytes", b"\xff\x00"), ("accept", b"text/html")]),
                attempt.part(pb.REQUEST, b'{"title": "a', masks=[mask]),
                attempt.part(pb.REQUEST, b' dashboard"}'),
                attempt.trailers(pb.REQUEST, [("checksum", b"1")]),
                attempt.verdict(operation="CreateDashboard", approval_id="a-1", approved_by=["oidc:alice"], hits=[hit]),
                attempt.event(response_verdict=pb.ResponseVerdict(decision="pass")),
                attempt.head(
                    201, [("content-encoding", b"gzip")], code_details="via_upstream", upstream_address="1.2.3.4:443"
                ),
                attempt.part(pb.RESPONSE, gzip.compress(b"Najdorf variation", mtime=0)),
                attempt.trailers(pb.RESPONSE, [("grpc-status", b"0")]),
                attempt.closed(),
            ],
        )
    [row] = _rows(clickhouse, hub.gate, "* EXCEPT (record_hash, req_body_sha256, resp_body_sha256, resp_body)")
    assert row["record_version"] == 2
    assert (row["approval_id"], row["approved_by"], row["response_decision"]) == ("a-1", ["oidc:alice"], "pass")
    assert [(rule["policy"], rule["values"]) for rule in row["rules"]] == [("writes", '{"request.method":"POST"}')]
    assert row["exchange_id"] == str(attempt.exchange_id)
    assert row["ts"] == "2026-09-21 14:13:20.000000"
    assert row["chain_id"].endswith(f"/local:0/{hub.gate}")
    assert (row["seq"], row["tenant"], row["writer"], row["connection"]) == (1, "", "local:0", "datadog")
    assert (row["operation"], row["issuer"], row["subject"]) == ("CreateDashboard", "github", "repo:acme/infra")
    assert row["session_id"] == "73737373-7373-7373-7373-737373737373"
    assert (row["session_label"], row["claims"]) == ("acme/infra run 1", '{"run_id":"1"}')
    assert (row["method"], row["scheme"], row["host"]) == ("POST", "http", "api.example.com")
    assert (row["path"], row["query"]) == ("/api/v1/dashboard", "a=1")
    assert (row["decision"], row["reason"], row["policy"]) == ("allow", "", "infra-main")
    assert (row["credential"], row["status"], row["outcome"]) == ("dd-api-key", 201, "complete")
    assert (row["duration_us"], row["code_details"]) == (1234, "via_upstream")
    assert (row["upstream_address"], row["config_digest"]) == ("1.2.3.4:443", "d" * 64)
    assert [h["name"] for h in row["req_headers"]] == ["accept", "x-bytes", "accept"]
    assert row["req_trailers"] == [{"name": "checksum", "value": "1"}]
    assert row["resp_trailers"] == [{"name": "grpc-status", "value": "0"}]
    assert (row["req_body"], row["req_body_size"], row["req_form"]) == ('{"title": "a dashboard"}', 24, "as_sent")
    assert (row["req_text"], row["resp_text"], row["resp_form"]) == ("", "Najdorf variation", "as_sent")
    assert row["masked"] == [
        {
            "place": "req_body",
            "index": 2,
            "start": 3,
            "length": 4,
            "original_length": 40,
            "detector": "jwt",
            "fingerprint": "abc",
        }
    ]
    [exact] = _rows(
        clickhouse,
        hub.gate,
        "hex(req_headers[2].value) AS header, hex(resp_body_sha256) AS hash, base64Encode(resp_body) AS body",
    )
    assert exact["header"] == "FF00"
    assert exact["hash"] == sha256(gzip.compress(b"Najdorf variation", mtime=0)).hexdigest().upper()


async def test_seen_in_sql_within_two_seconds(open_hub, clickhouse):
    async with open_hub() as hub:
        journal = await hub.journal()
        await hub.ship(journal, Attempt().complete())
        await hub.ledger.drain(20)  # the first start makes the tables
        began = time.monotonic()
        await hub.ship(journal, Attempt().complete(b"{}", b"{}"))
        while len(await asyncio.to_thread(_rows, clickhouse, hub.gate)) < 2:
            assert time.monotonic() - began < 2
            await asyncio.sleep(0.05)
        assert hub.ledger.healthy() == (True, "ClickHouse has everything")


async def test_a_chain_is_recomputed_in_sql_and_every_alteration_found(open_hub, clickhouse):
    async with open_hub() as hub:
        journal = await hub.journal()
        for size in range(5):
            attempt = Attempt()
            await hub.ship(journal, attempt.complete(b"x" * size, headers=[("a", b"\xff" * size)]))
            if size == 2:
                await hub.ledger.drain(20)
    async with open_hub() as hub:  # the chain goes on behind a restart
        await hub.ship(await hub.journal(), Attempt().complete())
    verify = chain.verify_sql(clickhouse.database, rows.HASHED)
    seqs = _rows(clickhouse, hub.gate, "seq, chain_id")
    assert [row["seq"] for row in seqs] == [1, 2, 3, 4, 5, 6]
    assert list(clickhouse.query(verify, {"chain": seqs[0]["chain_id"]})) == []
    # The ledger cannot be altered here, so the query looks at an altered copy of it.
    altered = f"(SELECT * REPLACE (if(seq = 3, 'POTS', method) AS method) FROM {clickhouse.database}.exchanges)"
    found = list(
        clickhouse.query(verify.replace(f"{clickhouse.database}.exchanges", altered), {"chain": seqs[0]["chain_id"]})
    )
    assert [(row["seq"], row["altered"]) for row in found] == [(3, 1)]
    missing = f"(SELECT * FROM {clickhouse.database}.exchanges WHERE seq != 4)"
    found = list(
        clickhouse.query(verify.replace(f"{clickhouse.database}.exchanges", missing), {"chain": seqs[0]["chain_id"]})
    )
    assert [(row["seq"], row["gap"]) for row in found] == [(5, 1)]


async def test_a_large_body_lies_in_parts_and_its_hash_covers_them(open_hub, clickhouse):
    attempt = Attempt()
    body = bytes(range(256)) * (20 << 12)  # 20 MiB
    pieces = [body[at : at + 700_000] for at in range(0, len(body), 700_000)]
    async with open_hub() as hub:
        journal = await hub.journal()
        await hub.ship(journal, [attempt.opened(), attempt.verdict(), attempt.head()])
        for piece in pieces:
            await hub.ship(journal, [attempt.part(pb.RESPONSE, piece)])
        await hub.ship(journal, [attempt.closed()])
    [row] = _rows(
        clickhouse, hub.gate, "exchange_id, resp_body, resp_body_size, hex(resp_body_sha256) AS hash, chain_id"
    )
    assert (row["resp_body"], row["resp_body_size"]) == ("", len(body))
    assert row["hash"] == sha256(body).hexdigest().upper()
    joined = (
        "SELECT count() AS parts, max(length(data)) AS longest, hex(SHA256(arrayStringConcat("
        "arrayMap(x -> x.2, arraySort(groupArray((n, data))))))) AS hash "
        f"FROM {clickhouse.database}.body_parts WHERE exchange_id = {{id:UUID}} AND direction = 'response'"
    )
    [parts] = clickhouse.query(joined, {"id": row["exchange_id"]})
    assert parts == {"parts": 20, "longest": 1 << 20, "hash": row["hash"]}


async def test_a_configuration_is_one_row_for_a_gate(open_hub, clickhouse):
    loaded = pb.Event(at_us=START_US, config=pb.Config(digest="abc", text="version: 1", origin="douane.yaml"))
    async with open_hub() as hub:
        await hub.ship(await hub.journal(0, 2), [loaded])
        await hub.ship(await hub.journal(1, 2), [loaded])
        await hub.ledger.drain(20)
    async with open_hub() as hub:
        await hub.ship(await hub.journal(), [loaded])
    sql = f"SELECT digest, origin, text, writer FROM {clickhouse.database}.configs WHERE gate = {{gate:String}}"
    assert list(clickhouse.query(sql, {"gate": hub.gate})) == [
        {"digest": "abc", "origin": "douane.yaml", "text": "version: 1", "writer": "local:0"}
    ]


async def test_sessions_are_pipeline_runs(open_hub, clickhouse):
    session = b"run of " + time.time_ns().to_bytes(9, "big")
    async with open_hub() as hub:
        journal = await hub.journal()
        for method, decision in (("GET", "allow"), ("POST", "allow"), ("DELETE", "deny")):
            attempt = Attempt()
            await hub.ship(
                journal, [attempt.opened(method=method), attempt.verdict(decision, session=session), attempt.closed()]
            )
    sql = f"SELECT * FROM {clickhouse.database}.sessions WHERE session_id = reinterpretAsUUID(unhex({{id:String}}))"
    uuid_bytes = session[7::-1] + session[:7:-1]
    [row] = clickhouse.query(sql, {"id": uuid_bytes.hex()})
    assert (row["label"], row["issuer"], row["subject"]) == ("acme/infra run 1", "github", "repo:acme/infra")
    assert (row["exchanges"], row["denied"], row["writes"], row["connections"]) == (3, 1, 1, ["datadog"])


async def test_what_is_finished_frees_the_copy_of_its_journal(open_hub, clickhouse):
    async with open_hub() as hub:
        journal = await hub.journal()
        await hub.ship(journal, Attempt().complete())
        await journal.seal()
        hub.replicas.on_data()
        await hub.ledger.drain(20)
        assert hub.replicas.journals() == []
    assert len(_rows(clickhouse, hub.gate)) == 1


async def test_words_are_found_in_any_case_also_in_compressed_and_large_bodies(open_hub, clickhouse):
    word = f"Najdorf{time.time_ns()}"
    coded, large = Attempt(), Attempt()
    async with open_hub() as hub:
        journal = await hub.journal()
        await hub.ship(journal, Attempt().complete(f'{{"title":"{word}"}}'.encode()))
        await hub.ship(journal, Attempt().complete(path=f"/v1/{word}/x"))
        await hub.ship(journal, Attempt().complete(b"\0\0\0\0\x09" + word.encode()))  # a gRPC message
        await hub.ship(
            journal,
            [
                coded.opened(headers=[("content-encoding", b"gzip")]),
                coded.part(pb.REQUEST, gzip.compress(f"a {word} b".encode())),
                coded.closed(),
            ],
        )
        await hub.ship(journal, [large.opened(), large.part(pb.REQUEST, b"x " * 700_000 + word.encode())])
        await hub.ship(journal, [large.closed()])
    needle = {"word": word.lower()}
    where = "exchanges WHERE gate = '" + hub.gate + "' AND hasToken({column}, {{word:String}})"
    for column, count in (("req_body", 2), ("path", 1), ("req_text", 1)):
        sql = f"SELECT count() AS n FROM {clickhouse.database}.{where.format(column=column)}"
        assert list(clickhouse.query(sql, needle)) == [{"n": count}], column
    sql = f"SELECT exchange_id AS id FROM {clickhouse.database}.body_parts WHERE hasToken(data, {{word:String}})"
    assert list(clickhouse.query(sql, needle)) == [{"id": str(large.exchange_id)}]


async def test_binary_bodies_do_not_bloat_the_index(open_hub, clickhouse):
    """Measured: noise in the text index costs ten times the work of the insert and as much space as the body."""
    noise = random.Random(3).randbytes(1 << 20)
    async with open_hub() as hub:
        await hub.ship(await hub.journal(), Attempt().complete(noise))
    sql = (
        "SELECT secondary_indices_compressed_bytes AS n FROM system.parts "
        f"WHERE database = '{clickhouse.database}' AND table = 'exchanges' AND active AND data_compressed_bytes > 1e6"
    )
    sizes = [row["n"] for row in clickhouse.query(sql)]
    assert sizes
    assert max(sizes) < 200_000


async def test_a_retention_that_changed_is_applied_at_the_next_start(open_hub, clickhouse, store_config):
    layout = schema.Layout(clickhouse.database, timedelta(days=30), store_config.cluster)
    for days in (30, 400):
        async with open_hub() as hub:
            await hub.ship(await hub.journal(), Attempt().complete())
        await asyncio.to_thread(schema.migrate, clickhouse, replace(layout, retention=timedelta(days=days)))
        sql = "SELECT name FROM system.tables WHERE database = {db:String} AND position(engine_full, {ttl:String}) > 0"
        found = clickhouse.query(sql, {"db": clickhouse.database, "ttl": f"toIntervalDay({days})"})
        assert sorted(row["name"] for row in found) == ["approvals", "body_parts", "exchanges"]
