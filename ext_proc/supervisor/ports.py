"""Are the ports free? Asked before anything starts: another program that answers there would pass for one of ours."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ext_proc.config.addresses import split_listen
from ext_proc.errors import ConfigError

if TYPE_CHECKING:
    from ext_proc.config import Loaded
    from ext_proc.supervisor.plan import Role

_PATIENCE_S = 3.0
_POLL_S = 0.1


def check_ports(loaded: Loaded, role: Role, patience_s: float = _PATIENCE_S) -> None:
    """ConfigError config.port_busy with the key's place for the first address that somebody else listens on.

    Waits a little, since the children of a supervisor that was just killed may not be gone yet.
    """
    deadline = time.monotonic() + patience_s
    for path, address in _listens(loaded, role):
        while not _free(address):
            if time.monotonic() >= deadline:
                raise ConfigError(
                    "config.port_busy",
                    f"{'.'.join(path)}: {address} is in use by another program",
                    where=loaded.where(*path),
                    remedy="Stop what listens there, or choose another port.",
                )
            time.sleep(_POLL_S)


def _listens(loaded: Loaded, role: Role) -> Iterator[tuple[tuple[str, ...], str]]:
    config = loaded.config
    if role in ("up", "hub"):
        if config.store.url.startswith("embedded:"):
            yield ("store", "listen"), config.store.listen
        yield ("console", "listen"), config.console.listen
        if not config.hub.listen.startswith("unix:"):
            yield ("hub", "listen"), config.hub.listen
    if role in ("up", "gate"):
        if role == "gate" and config.gate.health_listen is not None:
            yield ("gate", "health_listen"), config.gate.health_listen
        if config.gate.tls_listen is not None:
            yield ("gate", "tls_listen"), config.gate.tls_listen
        for name, connection in config.connections.items():
            if connection.listen is not None:
                yield ("connections", name, "listen"), connection.listen


def _free(address: str) -> bool:
    """Anything but "in use" (a name that is none of ours, say) is for the one who will listen to explain."""
    host, port = split_listen(address)
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen(1)
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True
