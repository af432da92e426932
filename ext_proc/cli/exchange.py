"""Session keys for a job: asked for on each connection's listener, revoked at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import typer
import urllib3

from ext_proc.config.addresses import split_listen
from ext_proc.errors import DouaneError, IdentityError

if TYPE_CHECKING:
    from ext_proc.config import Config, Connection

PATH = "/.douane/session"
_TIMEOUT_S = 15


class Keys:
    """A session key per connection, for as long as the `with` block lasts.

    Connections whose `identity.require` is `workload` know their callers without a token and get no key; with
    `explicit` (the user named them) that is an error.
    """

    def __init__(self, config: Config, names: Sequence[str], token: str, *, explicit: bool) -> None:
        self._config = config
        self._token = token
        self._names = [n for n in names if explicit or config.connections[n].identity.require != "workload"]
        self._keys: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            for name in self._names:
                self._keys[name] = _session_key(name, self._ask("POST", name, self._token))
        except BaseException:
            self._revoke()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._revoke()

    def key(self, name: str) -> str:
        if name not in self._keys:
            raise DouaneError(
                "session.workload", f"connection {name} needs no session key (identity.require: workload)"
            )
        return self._keys[name]

    def environment(self) -> dict[str, str]:
        """DOUANE_SESSION_<CONNECTION> and DOUANE_URL_<CONNECTION>."""
        out = {f"DOUANE_SESSION_{_capitals(name)}": key for name, key in self._keys.items()}
        return out | {f"DOUANE_URL_{_capitals(n)}": base_url(self._config.connections[n]) for n in self._names}

    def _revoke(self) -> None:
        for name, key in self._keys.items():
            try:
                self._ask("DELETE", name, key)
            except DouaneError as error:
                typer.echo(f"warning: the session key of {name} was not revoked: {error.message}", err=True)
        self._keys = {}

    def _ask(self, method: str, name: str, token: str) -> Mapping[str, Any]:
        connection = self._config.connections[name]
        header = connection.identity.headers[0]
        headers = {header: f"Bearer {token}" if header == "authorization" else token, "content-length": "0"}
        if connection.listen is None:
            headers["host"] = connection.hosts[0]
        try:
            with self._pool(connection) as pool:
                answer = pool.request(method, PATH, headers=headers, timeout=_TIMEOUT_S, retries=False, redirect=False)
                body = json.loads(answer.data)
        except (urllib3.exceptions.HTTPError, ValueError, OSError) as error:
            raise DouaneError(
                "session.unreachable",
                f"connection {name} did not answer: {type(error).__name__}",
                remedy="Is `douane up` (or the gate beside this job) running with this configuration?",
            ) from None
        if answer.status != 200:
            raise IdentityError(
                str(body.get("reason", "session.refused")),
                f"connection {name} gave no session key: {body.get('message', answer.status)}",
            )
        found: Mapping[str, Any] = body
        return found

    def _pool(self, connection: Connection) -> urllib3.HTTPConnectionPool:
        if connection.listen is not None:
            host, port = split_listen(connection.listen)
            return urllib3.HTTPConnectionPool(host, port)
        assert self._config.gate.tls_listen is not None  # the configuration's check made sure
        host, port = split_listen(self._config.gate.tls_listen)
        name = connection.hosts[0]
        return urllib3.HTTPSConnectionPool(
            host,
            port,
            ca_certs=str(Path(self._config.gate.run_dir) / "douane-ca.pem"),
            server_hostname=name,
            assert_hostname=name,
        )


def _session_key(name: str, answer: Mapping[str, Any]) -> str:
    key = answer.get("session_key")
    if not isinstance(key, str) or not key:
        raise DouaneError(
            "session.no_key",
            f"connection {name} answered without a session key",
            remedy="Is what listens there Douane, with this configuration?",
        )
    return key


def base_url(connection: Connection) -> str:
    """Where a job sends traffic of this connection."""
    return f"http://{connection.listen}" if connection.listen is not None else f"https://{connection.hosts[0]}"


def _capitals(name: str) -> str:
    return name.upper().replace("-", "_")
