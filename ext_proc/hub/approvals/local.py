"""The operator of this machine: the API on a unix socket that only this user can open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from pathlib import Path

from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from ext_proc.config.approvals import OPERATOR_SOCKET
from ext_proc.errors import HubError
from ext_proc.hub.approvals.sign_in import operator
from ext_proc.hub.approvals.states import Approver

_CREDENTIALS = struct.Struct("3i")


class PeerProtocol(H11Protocol):
    """Names the peer by its user id, as the kernel has it: `scope["client"]` is ("unix", UID)."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        self.client = ("unix", uid)


async def local_operator(request: Request) -> tuple[Approver, float]:
    """Whoever opened the socket; `local:UID` in everything that is written of it."""
    client = request.scope["client"]
    assert client is not None
    kind, uid = client
    assert kind == "unix"
    return operator(uid), float("inf")


def bind(run_dir: Path) -> socket.socket:
    """The socket, mode 0600. HubError `hub.listen`."""
    path = run_dir / OPERATOR_SOCKET
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        listener.bind(os.fspath(path))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise HubError(
            "hub.listen", f"the hub cannot listen on {path}: {error.strerror}", remedy="Check gate.run_dir."
        ) from error
    finally:
        os.umask(before)
    return listener
