"""A worker's insides without gRPC and without Envoy: real configuration, issuer, masking and spool."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ext_proc import codec, config
from ext_proc.exchange import Exchange, Headers
from ext_proc.hubclient import Authority, HubClient
from ext_proc.pb import journal_pb2
from ext_proc.runtime import Runtime
from ext_proc.spool import Spool, frames
from ext_proc.stream import Stream
from ext_proc.xds.naming import route_name
from tests.dataplane.stack import API_KEY, APP_KEY, PLACEHOLDER, configuration, merge
from tests.issuer import LoopbackIssuer


@pytest.fixture(scope="session")
def issuer() -> Iterator[LoopbackIssuer]:
    with LoopbackIssuer() as running:
        yield running


@dataclass
class Playbook:
    """Plays phases to a stream and shows what it answered and wrote."""

    runtime: Runtime
    spool: Spool
    folder: Path
    text: dict[str, Any]
    token: str

    def stream(self) -> Stream:
        return Stream(self.runtime, self.spool, 1)

    def apply(self, **overrides: Any) -> None:
        self.runtime.apply(config.parse(json.dumps(merge(self.text, overrides)), "douane.yaml", self.folder))

    def head(
        self,
        method: str = "GET",
        path: str = "/api/v1/dashboard",
        *,
        query: str = "",
        last: bool = True,
        headers: list[tuple[str, bytes]] | None = None,
        token: str | None = None,
        exchange_id: UUID | None = None,
    ) -> codec.RequestHead:
        current = config.parse(self.runtime.current.text, "douane.yaml", self.folder).config
        whole = config.inspected(current)
        sent = [("dd-api-key", (self.token if token is None else token).encode())] if token != "" else []
        sent += [("dd-application-key", PLACEHOLDER.encode()), ("accept", b"*/*"), *(headers or [])]
        return codec.RequestHead(
            Exchange(
                exchange_id=exchange_id or uuid4(),
                connection="datadog",
                method=method,
                scheme="http",
                authority="127.0.0.1:15001",
                path=path,
                query=query,
                headers=Headers(sent),
                received_us=1_800_000_000_000_000,
            ),
            route_name("datadog", current.connections["datadog"], whole),
            last,
            duplex="datadog" in whole,
        )

    def events(self) -> list[journal_pb2.Event]:
        data = self.spool.read(0, 1 << 30)
        return [journal_pb2.Event.FromString(payload) for _, payload in frames.scan(data)]

    def kinds(self) -> list[str | None]:
        return [event.WhichOneof("event") for event in self.events()]


@pytest.fixture
async def playbook(tmp_path: Path, issuer: LoopbackIssuer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Playbook]:
    monkeypatch.setenv("DOUANE_TEST_API_KEY", API_KEY)
    (tmp_path / "app-key").write_text(APP_KEY)
    text = configuration(issuer.url, "http://127.0.0.1:9", [15001, 15000, 15123, 15443])
    spool = Spool.open(
        tmp_path / "spool", 0, slots=1, max_size=1 << 30, max_lag=timedelta(minutes=10), durability="process"
    )
    client = HubClient(config.Hub(listen=f"unix:{tmp_path}/no-hub.sock"))
    runtime = Runtime(Authority(client), b"k" * 32, b"s" * 32)
    play = Playbook(runtime, spool, tmp_path, text, issuer.token())
    play.apply()
    yield play
    await client.close()
    await runtime.close()
    spool.close()
