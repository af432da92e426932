"""Labelled secrets through the real Envoy, as texts, JSON strings, JSON in JSON and forms, gzipped and cut into pieces
anywhere, there and back: what the masker finds in the whole text reaches neither the ledger nor a file."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from bench import labelled
from examples.demo.leaks import find
from ext_proc.config.models import Masking
from ext_proc.hub.store import access
from ext_proc.masking import ExchangeMasker, Masker
from ext_proc.pb import journal_pb2
from tests.dataplane import leaks, wire
from tests.dataplane.background import Background
from tests.dataplane.stack import Stack, douane_up
from tests.issuer import LoopbackIssuer

pytestmark = [
    pytest.mark.dataplane,
    pytest.mark.clickhouse,
    pytest.mark.corpus,
    pytest.mark.slow,
    pytest.mark.skipif("DOUANE_CORPUS" not in os.environ, reason="DOUANE_CORPUS is not set"),
]
ROWS = 240
SEARCHED = 40
SHORTEST = 12
"""Shorter secrets may stand somewhere by chance."""
MARK = re.compile(rb"\[MASKED:([a-z0-9-]+):[0-9a-f]{12}\]")

SHAPES: dict[str, Callable[[str], bytes]] = {
    "text/plain": lambda text: text.encode(),
    "application/json": lambda text: json.dumps({"n": 1, "note": text, "end": True}).encode(),
    "application/vnd.twice+json": lambda text: json.dumps({"log": json.dumps({"note": text})}).encode(),
    "application/x-www-form-urlencoded": lambda text: urlencode({"a": "1", "note": text, "z": "2"}).encode(),
}


class Case:
    """One exchange: a row's text in a shape, whether it travels compressed, and what of it must not be recorded."""

    def __init__(self, number: int, row: dict[str, Any], masker: ExchangeMasker) -> None:
        self.path = f"/row-{number}"
        self.kind = [*SHAPES][number % len(SHAPES)]
        self.coding = "gzip" if number % 3 else ""
        self.body = SHAPES[self.kind](row["text"])
        step = masker.body(journal_pb2.REQUEST, self.kind.encode(), b"").feed(self.body, last=True)
        self.masked = step.record
        self.labelled = [row["text"][start:end] for start, end in row["spans"]]
        self.found = [s for s in self.labelled if not find([("", self.masked)], {"": s})]

    def pieces(self) -> list[bytes]:
        """The body as it travels, in pieces that are the same in each run."""
        sent = gzip.compress(self.body, mtime=0) if self.coding else self.body
        chance = random.Random(self.path)
        cuts = sorted({chance.randrange(1, len(sent)) for _ in range(min(8, len(sent) - 1))}) if len(sent) > 1 else []
        return [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    masker = Masker(Masking(), b"k" * 32, 1 << 28).exchange()
    rows = [r for r in labelled.rows(Path(os.environ["DOUANE_CORPUS"])) if r["label"] == "pos"]
    rows.sort(key=lambda r: (bool(r.get("template")), hashlib.sha256(r["id"].encode()).digest()))
    return [Case(number, row, masker) for number, row in enumerate(rows[:ROWS])]


async def mirror(connection: wire.Wire) -> bool:
    """Sends the request's body back as it came, in the same coding, in pieces of 1 to 7 bytes."""
    body = await connection.body()
    fields = f"content-type: {connection.header('content-type')}\r\ntransfer-encoding: chunked\r\n"
    if coding := connection.header("content-encoding"):
        fields += f"content-encoding: {coding}\r\n"
    await connection.send(f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode())
    at = 0
    while at < len(body):
        size = at % 7 + 1 if len(body) < 400 else 97
        piece = body[at : at + size]
        await connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        at += size
    await connection.send(b"0\r\n\r\n")
    return True


@pytest.fixture(scope="module")
def stack(issuer: LoopbackIssuer, servers: Background, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    upstream = servers.enter(wire.raw(mirror))
    with douane_up(tmp_path_factory.mktemp("up"), issuer.url, upstream.url) as running:
        yield running


def send(stack: Stack, token: str, cases: list[Case]) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", stack.port, timeout=20)) as client:
        for case in cases:
            fields = {"dd-api-key": token, "content-type": case.kind}
            if case.coding:
                fields["content-encoding"] = case.coding
            client.request("POST", case.path, iter(case.pieces()), fields, encode_chunked=True)
            answer = client.getresponse()
            received = answer.read()
            assert answer.status == 200, received
            assert (gzip.decompress(received) if case.coding else received) == case.body


def auditor(stack: Stack) -> Client:
    store = stack.config["store"]
    return clickhouse_connect.get_client(
        host="127.0.0.1",
        port=int(store["listen"].rpartition(":")[2]),
        username="auditor",
        password=access.password(stack.folder / "var/store", "auditor"),
        database="douane",
    )


def recorded(client: Client, expect: int) -> dict[str, tuple[bytes, bytes]]:
    """Request and response body by path, decoded."""
    deadline = time.monotonic() + 40
    while True:
        rows = client.query(
            "SELECT path, req_body, resp_body FROM exchanges", query_formats={"String": "bytes"}
        ).result_rows
        if len(rows) >= expect:
            break
        assert time.monotonic() < deadline, f"{len(rows)} of {expect} rows"
        time.sleep(0.2)
    return {bytes(path).decode(): (plain(bytes(sent)), plain(bytes(got))) for path, sent, got in rows}


def plain(body: bytes) -> bytes:
    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


def unmarked(body: bytes) -> bytes:
    """The body without fingerprints, whose key is the stack's."""
    return MARK.sub(rb"[\1]", body)


def test_what_is_found_in_the_whole_text_is_not_recorded(
    stack: Stack, issuer: LoopbackIssuer, cases: list[Case]
) -> None:
    every = [secret for case in cases for secret in case.labelled]
    assert len(every) > ROWS
    assert sum(len(case.found) for case in cases) / len(every) > 0.85  # in whatever shape the text is
    send(stack, issuer.token(expires_in=3600), cases)
    with closing(auditor(stack)) as client:
        rows = recorded(client, len(cases))
        differing = {
            case.path: (unmarked(case.masked), unmarked(body))
            for case in cases
            for body in rows[case.path]
            if unmarked(body) != unmarked(case.masked)
        }
        assert differing == {}
        masked = [("", b"\n".join(case.masked for case in cases))]
        wanted = {
            f"{case.path} {n}": secret
            for case in cases
            for n, secret in enumerate(case.found)
            if len(secret) >= SHORTEST and not secret.startswith("-----BEGIN") and not find(masked, {"": secret})
        }
        assert len(wanted) > ROWS / 2
        # The bodies are the same as what was masked here, so for all other columns and the files some will do.
        wanted = dict([*wanted.items()][:: len(wanted) // SEARCHED])
        assert leaks.rows(client, wanted) == []
    assert find(leaks.contents(stack.folder / "var", ()), wanted) == []
