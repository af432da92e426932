"""The hub's process: ingest, authority, ledger and console in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

from ext_proc.credentials import read_once
from ext_proc.errors import HubError
from ext_proc.hub.approvals import Approvals, HoldService, Registry
from ext_proc.hub.approvals.notify import Notifier, channel
from ext_proc.hub.authority import AuthorityService, Sessions
from ext_proc.hub.console import Condition, address
from ext_proc.hub.counters import Counters, CounterService
from ext_proc.hub.faces import Faces
from ext_proc.hub.ingest import Ingest
from ext_proc.hub.replica import Replicas
from ext_proc.hubclient import AUTHORITY, INGEST, MAX_MESSAGE
from ext_proc.pb import hub_pb2
from ext_proc.supervisor.health import read_state

if TYPE_CHECKING:
    from ext_proc.config import Config, Hub, Tls

log = logging.getLogger(__name__)

_GRACE_S = 1.0
_CALLS_AT_ONCE = 20_000
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.so_reuseport", 0),  # a second hub on one port must fail, not take every other stream
    ("grpc.keepalive_time_ms", 20_000),  # a gate that vanished must not stay attached to its approvals
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.server.max_pending_requests", _CALLS_AT_ONCE),  # by default a rush of 1,000 calls is cancelled at random
    ("grpc.server.max_pending_requests_hard_limit", 2 * _CALLS_AT_ONCE),
]


@dataclass(frozen=True, slots=True)
class Authorities:
    """What the hub alone decides, each in a file of its own in the hub's folder."""

    sessions: Sessions
    approvals: Approvals
    counters: Counters

    @classmethod
    def open(cls, path: Path) -> Self:
        """Blocking. OSError, sqlite3.Error."""
        return cls(
            Sessions(path / "authority.sqlite"),
            Approvals(Registry(path / "approvals.sqlite")),
            Counters(path / "counters.sqlite"),
        )

    def close(self) -> None:
        self.sessions.close()
        self.approvals.close()
        self.counters.close()


async def serve(config: Config) -> None:
    """Run the hub until SIGTERM or SIGINT, then bring what it received into ClickHouse, within `gate.drain`.

    HubError `hub.locked`, `hub.tls`, `hub.listen`, `console.listen` when it cannot begin.
    """
    from ext_proc.hub.ledger import Ledger

    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    path = Path(config.hub.path)
    with own(path):
        replicas = await asyncio.to_thread(Replicas, path)
        authority = await asyncio.to_thread(Authorities.open, path)
        password = await asyncio.to_thread(read_once, config.store.password) if config.store.password else b""
        ledger = Ledger(replicas, config, password=password.decode(), approvals=authority.approvals)
        conditions = {"ledger": _ledger(ledger), "gate": _gate(Path(config.gate.run_dir))}
        faces = Faces(config, authority.approvals, conditions)
        notifier = await asyncio.to_thread(
            Notifier,
            path / "notices.sqlite",
            authority.approvals,
            [channel(one) for one in config.approvals.notify],
            page_of(config),
        )
        tasks = {
            asyncio.create_task(ledger.run(), name="ledger"),
            asyncio.create_task(replicas.keep_clocks(), name="clocks"),
            asyncio.create_task(authority.approvals.run(), name="approvals"),
            asyncio.create_task(faces.run(), name="console"),
            asyncio.create_task(notifier.run(), name="notices"),
        }
        stop = asyncio.create_task(stopping.wait())
        try:
            async with listening(config, replicas, authority):
                log.info("the hub serves %s, its console %s", config.hub.listen, config.console.listen)
                done, _ = await asyncio.wait({*tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stop}:  # none of them ends by itself: let the supervisor begin anew
                raise HubError("hub.failed", f"the hub's {task.get_name()} ended") from task.exception()
            await ledger.drain(config.gate.drain.total_seconds())
        finally:
            faces.stop()
            for task in (*tasks, stop):
                task.cancel()
            await asyncio.gather(*tasks, stop, return_exceptions=True)
            await faces.close()
            notifier.close()
            replicas.close()
            authority.close()


@contextlib.asynccontextmanager
async def listening(config: Config, replicas: Replicas, authority: Authorities) -> AsyncIterator[grpc.aio.Server]:
    """The gRPC server of Ingest and Authority on `hub.listen`."""
    hub = config.hub
    server = grpc.aio.server(options=_OPTIONS)
    writer_of = _local_writer if hub.listen.startswith("unix:") else _certified_writer
    holds = HoldService(
        authority.approvals,
        writer_of,
        actors=config.approvals.actors,
        page=page_of(config),
        by_email=config.approvals.by_email,
    )
    sessions = AuthorityService(authority.sessions, writer_of)
    server.add_generic_rpc_handlers(
        (_ingest(Ingest(replicas, writer_of)), _authority(sessions, holds, CounterService(authority.counters)))
    )
    _bind(server, hub)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(_GRACE_S)


def page_of(config: Config) -> Callable[[str], str]:
    """Makes the address of an approval's page from its id."""
    console = address(config.console)
    return lambda approval_id: f"{console}/approvals/{approval_id}"


@contextlib.contextmanager
def own(path: Path) -> Iterator[None]:
    """Two hubs must not write one folder."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise HubError(
            "hub.locked", f"another hub owns {path}", remedy="Stop it, or give this hub a hub.path of its own."
        ) from None
    try:
        yield
    finally:
        os.close(fd)


def _bind(server: grpc.aio.Server, hub: Hub) -> None:
    try:
        if hub.listen.startswith("unix:"):
            before = os.umask(0o177)  # only this user may connect: on the socket, that is the proof of who writes
            try:
                server.add_insecure_port(hub.listen)
            finally:
                os.umask(before)
        elif hub.tls is None:
            raise HubError("hub.tls", "a hub on the network needs mutual TLS", remedy="Add hub.tls.")
        else:
            server.add_secure_port(hub.listen, _credentials(hub.tls))
    except RuntimeError as error:
        raise HubError(
            "hub.listen", f"the hub cannot listen on {hub.listen}", remedy="Is it taken?", detail=str(error)
        ) from error


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    try:
        pair = (Path(tls.key_file).read_bytes(), Path(tls.cert_file).read_bytes())
        return grpc.ssl_server_credentials([pair], Path(tls.ca_file).read_bytes(), require_client_auth=True)
    except OSError as error:
        raise HubError("hub.tls", f"{error.filename}: {error.strerror}", remedy="Check hub.tls.") from error


def _local_writer(_context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The socket's mode lets no other user in."""
    return f"local:{os.getuid()}"


def _certified_writer(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The first subject alternative name of the client's certificate, or its common name, or its fingerprint."""
    identity = context.auth_context()
    for kind in ("x509_subject_alternative_name", "x509_common_name"):
        if identity.get(kind) and identity[kind][0]:
            return str(identity[kind][0], "utf-8", "replace")
    return f"sha256:{hashlib.sha256(identity['x509_pem_cert'][0]).hexdigest()}"


def _ingest(service: Ingest) -> grpc.GenericRpcHandler:
    ship = grpc.stream_stream_rpc_method_handler(
        service.ship, hub_pb2.ShipRequest.FromString, hub_pb2.ShipReply.SerializeToString
    )
    return grpc.method_handlers_generic_handler(INGEST, {"Ship": ship})


def _authority(sessions: AuthorityService, holds: HoldService, counters: CounterService) -> grpc.GenericRpcHandler:
    unary: dict[str, tuple[Callable[..., Any], type[Any], type[Any]]] = {
        "CreateSession": (sessions.create_session, hub_pb2.CreateSessionRequest, hub_pb2.Session),
        "ResolveSession": (sessions.resolve_session, hub_pb2.ResolveSessionRequest, hub_pb2.Session),
        "RevokeSession": (sessions.revoke_session, hub_pb2.RevokeSessionRequest, hub_pb2.RevokeSessionReply),
        "Count": (counters.count, hub_pb2.CountRequest, hub_pb2.Counters),
        "TakeRates": (counters.take_rates, hub_pb2.TakeRatesRequest, hub_pb2.TakeRatesReply),
    }
    hold = grpc.unary_stream_rpc_method_handler(
        holds.hold, hub_pb2.HoldRequest.FromString, hub_pb2.HoldState.SerializeToString
    )
    methods = {
        name: grpc.unary_unary_rpc_method_handler(behaviour, request.FromString, reply.SerializeToString)
        for name, (behaviour, request, reply) in unary.items()
    }
    return grpc.method_handlers_generic_handler(AUTHORITY, {"Hold": hold, **methods})


def _ledger(ledger: Any) -> Condition:
    """Ready once the schema is there. A ClickHouse that goes away later holds nobody up: what is recorded waits on
    disk, and the spool's limits stop the traffic where that no longer works."""

    async def ready() -> tuple[bool, str]:
        return ledger.migrated, ledger.healthy()[1]

    return ready


def _gate(run_dir: Path) -> Condition:
    """Whether the gate beside this hub is up, where one supervisor runs both."""

    async def up() -> tuple[bool, str]:
        state = await asyncio.to_thread(read_state, run_dir)
        if state is None or state.get("supervisor") != os.getppid():
            return True, "no gate beside this hub"
        return bool(state.get("ready")), "Envoy and its workers are up" if state.get("ready") else "starting"

    return up
