"""chDB: one engine in this process, a connection a query. The only module that imports it.

A connection is cheap (0.2 ms) and carries its own settings and database, so each statement gets a fresh one and
nothing of one request reaches the next. Calls block; the facade makes them in threads (chDB releases the GIL).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ext_proc.errors import StoreError
from ext_proc.hub.store.access import User
from ext_proc.hub.store.faults import QueryError
from ext_proc.hub.store.guard import DATABASE, Guard
from ext_proc.hub.store.layout import Layout
from ext_proc.hub.store.settings import assignments, quoted
from ext_proc.hub.store.vocabulary import Function, Vocabulary


@dataclass(frozen=True, slots=True)
class Result:
    """Bytes in the format asked for; rows and bytes read, seconds taken."""

    data: bytes
    rows: int
    read_rows: int
    read_bytes: int
    seconds: float


class Connection:
    """One statement's session. Not for two threads at once."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._stream: Any = None

    def query(self, sql: str, output_format: str, params: Mapping[str, str] | None = None) -> Result:
        """Run and return all of the result. QueryError when the engine refuses."""
        try:
            result = self._raw.query(sql, output_format, params=dict(params or {}))
        except RuntimeError as error:
            raise QueryError.from_engine(error) from None
        if result.has_error():
            raise QueryError.from_engine(result.error_message())
        data = result.bytes() or b""
        return Result(
            data, result.rows_read(), result.storage_rows_read(), result.storage_bytes_read(), result.elapsed()
        )

    def blocks(self, sql: str, output_format: str, params: Mapping[str, str]) -> Iterator[tuple[bytes, int]]:
        """Run and yield (bytes, rows) a block; each block is a document of its own. Close it to cancel."""
        try:
            self._stream = self._raw.send_query(sql, output_format, params=dict(params))
            while True:
                block = self._raw.streaming_fetch_result(self._stream)
                if block is None:
                    break
                rows = block.rows_read()
                yield block.bytes() or b"", rows
                if rows == 0:
                    break
            self._stream = None
        except RuntimeError as error:
            self._stream = None
            raise QueryError.from_engine(error) from None

    def insert(self, sql: str, input_format: str, data: bytes) -> int:
        """Insert `data` and return the rows written. All of it is one append, so that the blocks, and with them what
        a deduplication token stands for, are the same at every resend; and nothing is written to a temporary file."""
        try:
            inserter = self._raw.send_insert(sql, input_format)
        except RuntimeError as error:
            raise QueryError.from_engine(error) from None
        try:
            self._raw.insert_append(inserter, data)
            return int(self._raw.insert_done(inserter).rows_written())
        except RuntimeError as error:
            with suppress(RuntimeError):  # the engine may have ended it already
                self._raw.insert_cancel(inserter)
            raise QueryError.from_engine(error) from None

    def run(self, sql: str) -> str:
        """A statement of our own, its result as text."""
        return self.query(sql, "TSVRaw").data.decode("utf-8", "replace")

    def close(self) -> None:
        if self._stream is not None:
            with suppress(RuntimeError):  # it may have ended meanwhile
                self._raw.streaming_cancel_query(self._stream)
            self._stream = None
        self._raw.close()


class Engine:
    """The engine on a folder. `version` is ClickHouse's."""

    def __init__(self, chdb: Any, address: str) -> None:
        self._chdb = chdb
        self._address = address
        # Kept open: the engine shuts down with its last connection.
        self._anchor = Connection(chdb.connect(address))
        self.version = self._anchor.run("SELECT version()").strip()

    @classmethod
    def open(cls, layout: Layout) -> Engine:
        """StoreError `store.locked` or `store.unreadable`."""
        # chDB reads ./config.xml and the environment's TMPDIR; neither is the user's business here.
        os.environ["TMPDIR"] = str(layout.tmp)
        from chdb import _chdb

        chdb: Any = _chdb
        try:
            engine = cls(chdb, f"{layout.data}?config-file={layout.engine_file}")
            chdb.reset_signal_handlers()
            engine._anchor.run(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
        except (RuntimeError, QueryError) as error:
            fault = error if isinstance(error, QueryError) else QueryError.from_engine(error)
            if fault.code == 76:
                raise StoreError(
                    "store.locked",
                    f"another process has the data in {layout.data} open",
                    remedy="Stop it; readers use the store's HTTP port instead.",
                ) from None
            raise StoreError(
                "store.unreadable",
                f"the engine cannot open {layout.data}: {fault.message}",
                remedy="Check the folder's owner and free space; restore it from a backup if it is damaged.",
            ) from None
        return engine

    @contextmanager
    def session(
        self, settings: Mapping[str, str], *, database: str = DATABASE, readonly: int = 0
    ) -> Iterator[Connection]:
        """A connection with these settings, closed at the end. `readonly` as ClickHouse's setting."""
        connection = self.connect(settings, database=database, readonly=readonly)
        try:
            yield connection
        finally:
            connection.close()

    def connect(self, settings: Mapping[str, str], *, database: str = DATABASE, readonly: int = 0) -> Connection:
        connection = Connection(self._chdb.connect(self._address))
        try:
            connection.run(f"USE {database}")
            if settings:
                connection.run(assignments(settings))
            if readonly:
                connection.run(f"SET readonly = {readonly}")
        except BaseException:
            connection.close()
            raise
        return connection

    def guard(self) -> Guard:
        """The guard, asking this engine."""
        with self.session({}, readonly=1) as connection:
            rows = connection.run(
                "SELECT name, categories, is_aggregate, case_insensitive, alias_to FROM system.functions "
                "WHERE origin = 'System'"
            )
            functions = []
            for line in rows.splitlines():
                name, category, aggregate, folded, alias = line.split("\t")
                functions.append(Function(name, category, aggregate == "1", folded == "1", alias))
            types = connection.run("SELECT name FROM system.data_type_families").splitlines()
        return Guard(Vocabulary(functions, _COMBINATORS, types), self._canonical, self._explain)

    def cancel_read(self, run_id: str) -> None:
        """Cancel the query that runs under this log_comment, unless it writes."""
        with self.session({}) as connection:
            where = f"query_kind = 'Select' AND Settings['log_comment'] = {quoted(run_id)}"
            connection.run(f"KILL QUERY WHERE {where} ASYNC")

    def detached_parts(self) -> list[tuple[str, int, str]]:
        """Parts that the engine set aside: (table, how many, reason). A broken one vanishes from queries silently."""
        with self.session({}, readonly=1) as connection:
            rows = connection.run(
                "SELECT database || '.' || table, count(), reason FROM system.detached_parts GROUP BY ALL ORDER BY ALL"
            )
        return [(name, int(count), reason) for name, count, reason in (row.split("\t") for row in rows.splitlines())]

    def close(self) -> None:
        self._anchor.close()

    def _canonical(self, text: str) -> str:
        with self.session({}, readonly=1) as connection:
            # Values of parameters are read as escaped text.
            escaped = text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\0", "\\0")
            escaped = escaped.replace("\r", "\\r")
            # Bytes that are not UTF-8 can only stand between quotes, where an escape says the same; chDB takes text.
            return connection.query("SELECT formatQuerySingleLine({q:String})", "TSVRaw", {"q": escaped}).data.decode(
                "utf-8", "backslashreplace"
            )

    def _explain(self, sql: str, params: Mapping[str, str], user: User) -> str:
        # readonly 1 for the auditor: a SETTINGS clause is refused here already.
        with self.session({}, readonly=1 if user == "auditor" else 0) as connection:
            result = connection.query(f"EXPLAIN AST {sql}", "TSVRaw", params)
        return result.data.decode("utf-8", "surrogateescape")


# system.aggregate_function_combinators, which the engine user has no grant for.
_COMBINATORS = (
    "SimpleState", "OrDefault", "Distinct", "Resample", "ForEach", "ArgMax", "ArgMin", "OrNull", "Tuple", "Merge",
    "State", "Array", "Null", "Map", "If",
)  # fmt: skip
