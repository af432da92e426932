"""ClickHouse over HTTP, a server or the embedded store alike. The only module that imports clickhouse-connect.

Blocking: the hub calls it in threads. Connecting is left to the first call, so that a store that is away is an error
of that call and no reason not to start.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError as DriverError
from clickhouse_connect.driver.exceptions import Error as DriverFault
from clickhouse_connect.driver.exceptions import ProgrammingError
from urllib3.exceptions import HTTPError

from ext_proc.errors import StoreError
from ext_proc.hub.store.access import User
from ext_proc.hub.store.access import password as embedded_password

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from ext_proc.config.models import Store

EMBEDDED = "embedded:"
EMBEDDED_DATABASE = "douane"
_CONNECT_S = 5
_REPLY_S = 120

_CODE = re.compile(r"Code: (\d+)\. DB::Exception")
_FRAME = re.compile(r"Received ClickHouse exception, code: \d+, server response: | \(for url [^)]*\)")
"""What clickhouse-connect puts around ClickHouse's words."""
_DENIED = frozenset({164, 192, 193, 194, 497, 516})
"""READONLY, UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, ACCESS_DENIED, AUTHENTICATION_FAILED."""

for _name in ("clickhouse_connect", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # they log each error that they raise as well


class ClickHouseError(StoreError):
    """What ClickHouse said, or that it did not answer. `code` is ClickHouse's number, None where it did not answer.

    Reasons: `store.unavailable` (no answer), `store.denied` (the user may not), `store.refused` (anything else).
    """

    def __init__(self, reason: str, message: str, *, code: int | None, remedy: str = "") -> None:
        super().__init__(reason, message, remedy=remedy, retryable=reason == "store.unavailable")
        self.code = code


class ClickHouse:
    """One user's access to the ledger's database.

    `store` is the configuration's section, its paths absolute. For the embedded store the user's password is read from
    the store's folder; `user` chooses between its two. For a server, the URL names the user and `password` is the
    value of `store.password`.
    """

    def __init__(self, store: Store, *, user: User = "writer", password: str = "") -> None:
        self._folder: Path | None = None
        self._user: User = user
        options: dict[str, Any] = {"compress": False}
        if store.url.startswith(EMBEDDED):
            self._folder = Path(store.url.removeprefix(EMBEDDED))
            host, _, port = store.listen.rpartition(":")
            options |= {"interface": "http", "host": host.strip("[]"), "port": int(port), "username": user}
            self.database = EMBEDDED_DATABASE
        else:
            url = urlsplit(store.url.removeprefix("clickhouse+"))
            https = url.scheme == "https"
            options |= {"interface": url.scheme, "host": url.hostname, "port": url.port or (8443 if https else 8123)}
            options |= {"username": unquote(url.username or "default"), "password": password}
            if store.ca_file:
                options["ca_cert"] = store.ca_file
            self.database = unquote(url.path.strip("/")) or EMBEDDED_DATABASE
        self._where = f"{options['host']}:{options['port']}"
        self._options = options
        self._cluster = store.cluster
        self._client: Client | None = None
        self._lock = Lock()

    def insert(self, table: str, columns: tuple[str, ...], data: bytes, token: str) -> None:
        """Insert RowBinary rows, all or none. The same `token` again inserts nothing.

        There is always a token, because clickhouse-connect resends by itself after a connection was cut.
        """
        if not token:
            raise ValueError("an insert needs a deduplication token")
        settings = {"insert_deduplication_token": token, "insert_deduplicate": 1, "async_insert": 0}
        if self._cluster:
            settings["insert_quorum"] = "auto"  # a batch's file is deleted once a majority of the replicas has it
        with self._errors() as client:
            client.raw_insert(f"`{self.database}`.`{table}`", columns, data, settings=settings, fmt="RowBinary")

    def command(self, sql: str) -> None:
        """One statement that returns no rows."""
        with self._errors() as client:
            client.command(sql, use_database=False)

    def query(
        self, sql: str, parameters: Mapping[str, object] | None = None, *, readonly: bool = True
    ) -> Iterator[dict[str, Any]]:
        """The rows of one SELECT as they come, by column name, with the types of JSON; numbers stay numbers.

        `parameters` fill `{name:Type}` in `sql`. Bytes that are not UTF-8 are shown as U+FFFD: ask for base64Encode or
        hex where every byte counts.
        """
        settings: dict[str, Any] = {"output_format_json_quote_64bit_integers": 0}
        if readonly and self._folder is None:
            settings["readonly"] = 2  # 1 would refuse the settings that come with it; the embedded store guards itself
        with self._errors() as client:
            stream = client.raw_stream(
                sql, dict(parameters or {}), settings=settings, fmt="JSONEachRow", use_database=False
            )
            with stream:
                for line in _lines(stream):
                    if line.startswith(b"{"):
                        yield json.loads(line.decode("utf-8", "replace"))
                    elif line.strip():
                        # An error after the answer began stands in the place of a row.
                        text = line.decode("utf-8", "replace")
                        found = _CODE.search(text)
                        raise DriverFault(text, code=int(found[1]) if found else None)

    def ping(self) -> None:
        """ClickHouseError unless it answers this user."""
        next(self.query("SELECT 1 AS one"))

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> Client:
        with self._lock:
            if self._client is None:
                options = dict(self._options)
                if self._folder is not None:
                    options["password"] = embedded_password(self._folder, self._user)
                self._client = clickhouse_connect.get_client(
                    **options,
                    connect_timeout=_CONNECT_S,
                    send_receive_timeout=_REPLY_S,
                    autogenerate_session_id=False,
                    client_name="douane",
                )
            return self._client

    @contextmanager
    def _errors(self) -> Iterator[Client]:
        try:
            yield self._connected()
        except (DriverError, HTTPError, OSError) as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> ClickHouseError:
        code = getattr(error, "code", None)
        text = _FRAME.sub("", " ".join(str(error).split()))[:600]
        if code in _DENIED:
            remedy = "Check the user in store.url, its password and its grants (docs/sql.md)."
            return ClickHouseError("store.denied", f"ClickHouse refuses the user: {text}", code=code, remedy=remedy)
        if code is not None or isinstance(error, ProgrammingError):
            return ClickHouseError("store.refused", f"ClickHouse refuses: {text}", code=code)
        remedy = "Check store.url and the network, and that ClickHouse runs."
        if self._folder is not None:
            remedy = "Is it running? `douane up` starts it, and its log says why it stopped."
        message = f"ClickHouse at {self._where} does not answer: {_cause(error)}"
        return ClickHouseError("store.unavailable", message, code=None, remedy=remedy)


def _cause(error: BaseException) -> str:
    """What lies at the bottom of it, such as `Connection refused`, without the URL that each layer above adds."""
    below: BaseException | None = error
    while below is not None:
        error, below = below, below.__cause__ or below.__context__
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:200]


def _lines(stream: Any) -> Iterator[bytes]:
    """Lines of a response body, which may be longer than any chunk of it."""
    rest = b""
    while chunk := stream.read(1 << 16):
        head, *tail = chunk.split(b"\n")
        rest += head
        for line in tail:
            yield rest
            rest = line
    if rest:
        yield rest
