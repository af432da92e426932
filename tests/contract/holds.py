"""A hub with its approvals, and a gate's side of `Hold`, over a real socket."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc.aio

from ext_proc.config import Config, Hub
from ext_proc.config.approvals import Actors, Approvals
from ext_proc.hub.approvals.states import Approver
from ext_proc.hub.replica import Replicas
from ext_proc.hub.server import Authorities, listening
from ext_proc.hubclient import AUTHORITY, HubClient
from ext_proc.pb import hub_pb2

SESSION = b"s" * 16
ACTORS = {"github": Actors(claim="actor_id", people={"1": "mona@acme.example", "2": None})}

_digests = itertools.count(1)


def sre(name: str, *groups: str) -> Approver:
    return Approver(f"{name}@acme.example", "https://id.acme.example", f"sub-{name}", frozenset(groups or ("sre",)))


def settings(folder: Path) -> Hub:
    return Hub(path=str(folder / "hub"), listen=f"unix:{folder}/hub.sock")


def config(folder: Path, **sections: Any) -> Config:
    return Config(version=1, hub=settings(folder), **{"approvals": Approvals(actors=ACTORS), **sections})


@asynccontextmanager
async def serving(folder: Path, **sections: Any) -> AsyncIterator[Authorities]:
    """A hub's gRPC side, with its clock."""
    replicas = await asyncio.to_thread(Replicas, folder / "hub")
    authorities = await asyncio.to_thread(Authorities.open, folder / "hub")
    clock = asyncio.create_task(authorities.approvals.run())
    try:
        async with listening(config(folder, **sections), replicas, authorities):
            yield authorities
    finally:
        clock.cancel()
        await asyncio.gather(clock, return_exceptions=True)
        replicas.close()
        authorities.close()


def asked(**changes: Any) -> hub_pb2.HoldRequest:
    """A request of its own, but for what is given."""
    fields: dict[str, Any] = {
        "digest": next(_digests).to_bytes(32, "big"),
        "exchange_id": uuid4().bytes,
        "gate": "g1",
        "connection": "datadog",
        "upstream": "https://api.datadoghq.com",
        "operation": "DeleteDashboard",
        "issuer": "github",
        "subject": "repo:acme/infra",
        "claims_json": '{"actor_id":"1"}',
        "session_id": SESSION,
        "session_label": "acme/infra run 7",
        "requirements": [hub_pb2.Requirement(policy="deletes", approvers=["group:sre"], quorum=1)],
        "validity_s": 900,
        "expires_s": 3600,
        "wait_ms": 60_000,
        "method": "DELETE",
        "path": "/api/v1/dashboard/abc",
        "headers_json": '[["accept","*/*"]]',
        "hits_json": "[]",
    }
    return hub_pb2.HoldRequest(**(fields | changes))


def again(request: hub_pb2.HoldRequest) -> hub_pb2.HoldRequest:
    """What a client's retry looks like to a gate."""
    other = hub_pb2.HoldRequest()
    other.CopyFrom(request)
    other.exchange_id = uuid4().bytes
    return other


class Gate:
    """`async with Gate(folder) as gate`: one channel, as a worker has."""

    def __init__(self, folder: Path) -> None:
        self._client = HubClient(settings(folder))

    async def __aenter__(self) -> Gate:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    def hold(self, request: hub_pb2.HoldRequest) -> Held:
        call = self._client.channel.unary_stream(
            f"/{AUTHORITY}/Hold",
            request_serializer=hub_pb2.HoldRequest.SerializeToString,
            response_deserializer=hub_pb2.HoldState.FromString,
        )
        return Held(call(request, wait_for_ready=True))

    async def ask(self, method: str, request: Any, reply: type[Any]) -> Any:
        call = self._client.channel.unary_unary(
            f"/{AUTHORITY}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        return await call(request, wait_for_ready=True)


class Held:
    """One call of `Hold`."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def state(self, seconds: float = 10) -> hub_pb2.HoldState:
        """The next thing it hears. AioRpcError where it hears of no more."""
        async with asyncio.timeout(seconds):
            heard = await self._call.read()
        if heard is grpc.aio.EOF:
            raise EOFError
        return heard

    async def until(self, state: str) -> hub_pb2.HoldState:
        while (heard := await self.state()).state != state:
            pass
        return heard

    async def silent(self, seconds: float = 0.1) -> bool:
        """Whether nothing comes for that long. The call is of no use afterwards where something did."""
        done, _ = await asyncio.wait({asyncio.ensure_future(self._call.read())}, timeout=seconds)
        return not done

    def leave(self) -> None:
        """The client left, or waited for long enough."""
        self._call.cancel()
