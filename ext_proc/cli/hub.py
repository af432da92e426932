"""The hub's API, as commands see it: signed in over HTTP, or as this machine's operator over the hub's own socket."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection

from ext_proc.config.approvals import OPERATOR_SOCKET
from ext_proc.errors import DouaneError, HubError
from ext_proc.web import is_allowed_url

if TYPE_CHECKING:
    from ext_proc.cli.sign_in import Login
    from ext_proc.config import Config
    from ext_proc.config.approvals import SignIn

Who = Literal["auto", "local", "signed-in"]

_TIMEOUT = urllib3.Timeout(connect=5, read=30)
_STREAM = urllib3.Timeout(connect=5, read=60)


@dataclass(frozen=True, slots=True)
class Place:
    """Which hub, as `-c FILE` or `--hub URL` says. `sign_in` is the configuration's; with `--hub` the hub tells it."""

    url: str
    socket: Path | None = None
    sign_in: SignIn | None = None
    configured: bool = True

    @property
    def ca_file(self) -> str | None:
        """To trust for the provider."""
        return self.sign_in.ca_file if self.sign_in else None


def place(config: Config | None, hub: str | None) -> Place:
    """DouaneError `hub.address` for an address to which no token may be sent."""
    if hub is None:
        assert config is not None
        url = (config.console.url or f"http://{config.console.listen}").rstrip("/")
        return Place(url, Path(config.gate.run_dir) / OPERATOR_SOCKET, config.approvals.sign_in)
    parts = urlsplit(hub)
    if not is_allowed_url(hub) or parts.query or parts.fragment:
        raise HubError("hub.address", f"{hub!r} is no hub's address", remedy="Write https://HOST, or http on loopback.")
    return Place(hub.rstrip("/"), configured=False)


def connect(where: Place, who: Who) -> Hub:
    """As the operator where nobody can sign in and the socket is ours, signed in otherwise; or as `who` says."""
    local = who == "local" or (who == "auto" and where.configured and where.sign_in is None and _ours(where.socket))
    if not local:
        from ext_proc.cli.sign_in import Login

        return Hub(where, Login.of(where))
    if where.socket is None:
        raise HubError("hub.address", "--as local is for the hub of a configuration on this machine (-c FILE)")
    return Hub(where, None, local=True)


class Hub:
    """Requests to one hub. Each method raises DouaneError with the hub's own reason, or HubError `hub.unavailable`."""

    def __init__(self, where: Place, login: Login | None, *, local: bool = False) -> None:
        """`local`: over the socket, where no sign-in is needed."""
        self._where = where
        self._login = login
        self._at = str(where.socket) if local else where.url
        self._pool = _pool(where, local)

    def get(self, path: str) -> dict[str, Any]:
        return self._ask("GET", path)

    def decide(self, approval_id: str, what: Literal["approve", "deny"], comment: str) -> dict[str, Any]:
        return self._ask("POST", f"/api/approvals/{quote(approval_id, safe='')}/{what}", {"comment": comment})

    def events(self, after: int) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """(number, what happened) as it happens; None for a sign of life. Ends when the hub ends it."""
        answer = self._request("GET", f"/api/approvals/events?after={after}", None, _STREAM, stream=True)
        if answer.status != 200:
            raise _refused(answer.status, answer.read())
        number = after
        try:
            for line in _lines(answer):
                name, _, value = line.partition(b": ")
                if name == b"id" and value.isdigit():
                    number = int(value)
                elif name == b"data":
                    yield number, json.loads(value)
                elif not line:
                    yield number, None
        except urllib3.exceptions.HTTPError:
            return  # the next try says what is wrong, if it still is
        finally:
            answer.close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self._request(method, path, body, _TIMEOUT)
        if answer.status != 200:
            raise _refused(answer.status, answer.data)
        try:
            found: dict[str, Any] = json.loads(answer.data)
        except ValueError:
            raise HubError("hub.unavailable", f"what answers at {self._at} is no hub") from None
        return found

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None, timeout: urllib3.Timeout, *, stream: bool = False
    ) -> urllib3.BaseHTTPResponse:
        headers = {"accept": "application/json", "user-agent": "douane"}
        if self._login is not None:
            headers["authorization"] = f"Bearer {self._login.id_token()}"
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            return self._pool.request(
                method,
                urlsplit(self._where.url).path + path,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=not stream,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise HubError(
                "hub.unavailable",
                f"the hub at {self._at} does not answer: {type(error).__name__}",
                remedy="Does it run? With --hub, is the address right?",
            ) from None


def _refused(status: int, data: bytes) -> DouaneError:
    try:
        body = json.loads(data)
        return DouaneError(str(body["reason"]), str(body["message"]), remedy=str(body.get("remedy", "")))
    except (ValueError, KeyError, TypeError):
        return HubError("hub.unavailable", f"the hub answered {status}", remedy="Is that address a hub's console?")


def _lines(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    while chunk := answer.read1(16384):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def _ours(path: Path | None) -> bool:
    try:
        return path is not None and path.is_socket() and path.stat().st_uid == os.getuid()
    except OSError:
        return False


def _pool(where: Place, local: bool) -> urllib3.HTTPConnectionPool:
    if local:
        assert where.socket is not None
        pool = urllib3.HTTPConnectionPool("localhost")
        pool.ConnectionCls = _through(where.socket)
        return pool
    parts = urlsplit(where.url)
    kind = urllib3.HTTPSConnectionPool if parts.scheme == "https" else urllib3.HTTPConnectionPool
    return kind(parts.hostname or "", parts.port)


def _through(path: Path) -> type[HTTPConnection]:
    class UnixConnection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                made.connect(os.fspath(path))
            except OSError as error:
                made.close()
                raise urllib3.exceptions.NewConnectionError(self, str(error)) from error
            return made

    return UnixConnection
