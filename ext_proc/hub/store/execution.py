"""One request, from its statement to its answer. Blocking: the facade runs it in threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from ext_proc.hub.store.access import User
from ext_proc.hub.store.engine import Connection, Engine
from ext_proc.hub.store.faults import QueryError, denied
from ext_proc.hub.store.formats import Joiner, streamable
from ext_proc.hub.store.guard import Guard, Statement
from ext_proc.hub.store.request import Request
from ext_proc.hub.store.settings import Limits, session_settings
from ext_proc.hub.store.vocabulary import INPUT_FORMATS, OUTPUT_FORMATS

# The largest answer in a format that cannot be streamed, which is held in memory.
WHOLE_RESULT = 256 << 20
_FIRST_PIECE = 1 << 20
_FIRST_PIECE_WAITING = 32 << 20


@dataclass(slots=True)
class Answer:
    """`head` is ready; `rest`, if any, is pulled piece by piece. A QueryError may end it half way."""

    head: bytes
    rest: Pieces | None
    format: str
    summary: dict[str, int]


class Pieces:
    """What remains of a streamed result. `close` cancels the query."""

    def __init__(self, connection: Connection, blocks: Iterator[tuple[bytes, int]], joiner: Joiner) -> None:
        self._connection = connection
        self._blocks = blocks
        self._joiner = joiner
        self.rows = 0

    def next(self) -> bytes | None:
        """The next piece, None at the end."""
        for block, rows in self._blocks:
            self.rows += rows
            if block:
                return self._joiner.join(block)
        return None

    def close(self) -> None:
        self._connection.close()


class Executor:
    """Inspects and runs statements on the engine, under each user's limits."""

    def __init__(self, engine: Engine, guard: Guard, limits: dict[User, Limits]) -> None:
        self._engine = engine
        self._guard = guard
        self._limits = limits

    def run(self, user: User, request: Request, *, run_id: str, get: bool) -> Answer:
        """QueryError for whatever the guard or the engine refuses. `get`: the method allows reading only.

        `run_id` is what `Engine.cancel_read` takes.
        """
        if not request.text.strip():
            raise QueryError(62, "SYNTAX_ERROR", "Syntax error: the query is empty")
        statement = self._guard.inspect(user, request.text, request.params)
        settings = session_settings(user, self._limits[user], request.settings)
        settings["log_comment"] = run_id
        if statement.kind == "read":
            return self._read(user, request, statement, settings)
        if get:
            raise QueryError(
                164, "READONLY", "Cannot execute query in readonly mode: method GET allows reading only; use POST"
            )
        if user != "writer":
            raise denied(f"{user}: Not enough privileges")
        if request.settings.get("readonly", "0") != "0":
            raise QueryError(164, "READONLY", "Cannot execute query in readonly mode: it was asked for with `readonly`")
        with self._engine.session(settings, database=request.database) as connection:
            if statement.kind == "insert":
                return self._insert(connection, request, statement)
            result = connection.query(statement.sql, "Null", request.params)
            return Answer(b"", None, "", {"written_rows": result.rows, "elapsed_ns": int(result.seconds * 1e9)})

    def _read(self, user: User, request: Request, statement: Statement, settings: dict[str, str]) -> Answer:
        name = statement.format or request.default_format
        if name not in OUTPUT_FORMATS:
            raise QueryError(73, "UNKNOWN_FORMAT", f"Unknown format {name}")
        connection = self._engine.connect(settings, database=request.database, readonly=1 if user == "auditor" else 2)
        if not (statement.streamable and streamable(name)):
            try:
                return self._whole(connection, statement, name, request.params)
            finally:
                connection.close()
        pieces = Pieces(connection, connection.blocks(statement.sql, name, request.params), Joiner(name))
        limit = _FIRST_PIECE_WAITING if request.wait else _FIRST_PIECE
        head: list[bytes] = []
        size = 0
        try:
            while size < limit:
                piece = pieces.next()
                if piece is None:
                    pieces.close()
                    return Answer(b"".join(head), None, name, {"result_rows": pieces.rows, "result_bytes": size})
                head.append(piece)
                size += len(piece)
        except BaseException:
            with suppress(QueryError):
                pieces.close()
            raise
        return Answer(b"".join(head), pieces, name, {})

    def _whole(self, connection: Connection, statement: Statement, name: str, params: dict[str, str]) -> Answer:
        """A result in a format that is one document. chDB renders it in memory, without a limit of its own, so it is
        first rendered block by block, to measure it; a result of one block is then already the document."""
        if statement.streamable:
            documents: list[bytes] = []
            size = rows = 0
            for block, block_rows in connection.blocks(statement.sql, name, params):
                size += len(block)
                rows += block_rows
                if size > WHOLE_RESULT:
                    raise QueryError(
                        396,
                        "TOO_MANY_ROWS_OR_BYTES",
                        f"Limit for result exceeded: {WHOLE_RESULT >> 20} MiB in a format that cannot be streamed; "
                        "add a LIMIT, or use JSONEachRow, CSV, TabSeparated or Native",
                    )
                if (block_rows or not documents) and len(documents) < 2:
                    documents.append(block)
            if len(documents) == 1:
                return Answer(documents[0], None, name, {"result_rows": rows, "result_bytes": size})
        result = connection.query(statement.sql, name, params)
        summary = {
            "read_rows": result.read_rows,
            "read_bytes": result.read_bytes,
            "result_rows": result.rows,
            "result_bytes": len(result.data),
            "elapsed_ns": int(result.seconds * 1e9),
        }
        return Answer(result.data, None, name, summary)

    def _insert(self, connection: Connection, request: Request, statement: Statement) -> Answer:
        if request.data is None:
            raise QueryError(62, "SYNTAX_ERROR", "Syntax error: INSERT needs rows after FORMAT or VALUES")
        name = statement.format
        if name != request.input_format or name not in INPUT_FORMATS:
            raise QueryError(73, "UNKNOWN_FORMAT", f"Unknown input format {name}")
        if not request.data:
            # A server answers an INSERT without rows with success.
            return Answer(b"", None, "", {"written_rows": 0})
        rows = connection.insert(statement.sql, name, request.data)
        return Answer(b"", None, "", {"written_rows": rows, "written_bytes": len(request.data)})
