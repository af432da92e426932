"""The ledger of a running stack, read over ClickHouse's HTTP interface as an auditor reads it."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any

from ext_proc.config import load
from ext_proc.hub.clickhouse import ClickHouse
from tests.dataplane.stack import Stack

Row = dict[str, Any]

_BYTES = ("req_body", "resp_body")
_HASHES = ("req_body_sha256", "resp_body_sha256")
_COLUMNS = ", ".join([*(f"base64Encode({n}) AS {n}" for n in _BYTES), *(f"lower(hex({n})) AS {n}" for n in _HASHES)])


class Ledger:
    """Bodies come as bytes, hashes as hex, headers as (name, value)."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._client = ClickHouse(load(stack.config_file).config.store, user="auditor")

    def query(self, sql: str, **parameters: object) -> list[Row]:
        return list(self._client.query(sql, parameters))

    def rows(self, where: str, *, expect: int, timeout: float = 20, **parameters: object) -> list[Row]:
        """Rows of `exchanges`, in the order of arrival, once there are `expect` of them."""
        found = self.found(where, wait_for=expect, timeout=timeout, **parameters)
        assert len(found) == expect, f"{len(found)} rows, {expect} expected where {where}:\n{self._stack.log_tail()}"
        return found

    def found(self, where: str, *, wait_for: int, timeout: float = 20, **parameters: object) -> list[Row]:
        """The same, or what there is in time."""
        deadline = time.monotonic() + timeout
        count = f"SELECT count() AS n FROM douane.exchanges WHERE {where}"
        while int(self.query(count, **parameters)[0]["n"]) < wait_for and time.monotonic() < deadline:
            time.sleep(0.1)
        found = self.query(
            f"SELECT * REPLACE ({_COLUMNS}) FROM douane.exchanges WHERE {where} ORDER BY ts", **parameters
        )
        return [_readable(row) for row in found]

    def row(self, path: str, *, timeout: float = 20) -> Row:
        """The one exchange with this path."""
        return self.rows("path = {path:String}", expect=1, timeout=timeout, path=path)[0]

    def part_hash(self, exchange_id: str, direction: str) -> tuple[str, int]:
        """SHA-256 and length of a body that went to `body_parts`, joined in order."""
        digest, length, n = hashlib.sha256(), 0, 0
        while True:
            found = self.query(
                "SELECT base64Encode(data) AS data FROM douane.body_parts WHERE exchange_id = {id:UUID}"
                " AND direction = {direction:String} AND n >= {n:UInt32} AND n < {n:UInt32} + 16 ORDER BY n",
                id=exchange_id,
                direction=direction,
                n=n,
            )
            for part in found:
                data = base64.b64decode(part["data"])
                digest.update(data)
                length += len(data)
            n += len(found)
            if len(found) < 16:
                return digest.hexdigest(), length


def _readable(row: Row) -> Row:
    for name in _BYTES:
        row[name] = base64.b64decode(row[name])
    for name in ("req_headers", "req_trailers", "resp_headers", "resp_trailers"):
        row[name] = [(h["name"], h["value"]) for h in row[name]]
    return row
