"""Looks for secrets wherever Douane could have left one: rows, journals, databases, files, processes.

`examples.demo.leaks` knows in how many ways a secret may be spelled. Here is where to look, and how to see through what
hides it: ClickHouse's compression (by SQL), frames and content-codings (journals), pages (SQLite).
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

from clickhouse_connect.driver.client import Client

from examples.demo.leaks import files, find, spellings
from ext_proc.masking.codings import CodingError, decoder
from ext_proc.pb import journal_pb2
from ext_proc.spool import frames

Place = tuple[str, bytes]
_ELEMENT = re.compile(r"(?:`(\w+)`|(\w+)) (LowCardinality\(String\)|FixedString\(\d+\)|String)")


def fragments(token: str) -> dict[str, str]:
    """Pieces of a signed token. Short ones, so that a part of it is found as well."""
    _, payload, signature = token.split(".")
    return {"token's claims": payload[-48:], "token's signature": signature[:32], "token's end": signature[-32:]}


# --- rows ------------------------------------------------------------------------------------------------------------


def rows(client: Client, secrets: Mapping[str, str]) -> list[str]:
    """`NAME in TABLE.COLUMN` for each secret in each String column of each table, by SQL."""
    found = []
    for table, columns in string_columns(client).items():
        for name, secret in secrets.items():
            needles = ",".join(f"unhex('{form.hex()}')" for form in sorted(set(spellings(secret))))
            counts = ", ".join(f"countIf(multiSearchAny({text}, needles))" for text in columns.values())
            answer = client.query(f"WITH [{needles}] AS needles SELECT {counts} FROM {table}").result_rows[0]
            found += [f"{name} in {table}.{column}" for column, n in zip(columns, answer, strict=True) if n]
    # What is cut into parts may have a secret at the cut.
    parts = (
        "SELECT exchange_id, direction, arrayStringConcat(arrayMap(p -> p.2, arraySort(groupArray((n, data))))) "
        "FROM body_parts GROUP BY exchange_id, direction"
    )
    joined = client.query(parts, query_formats={"String": "bytes"}).result_rows
    return found + find(((f"body_parts joined, {e} {d}", data) for e, d, data in joined), secrets)


def string_columns(client: Client) -> dict[str, dict[str, str]]:
    """By table, the columns that hold text, and each as one string in SQL."""
    listed = client.query(
        "SELECT c.table, c.name, c.type FROM system.columns AS c "
        "JOIN system.tables AS t ON t.database = c.database AND t.name = c.table "
        "WHERE c.database = currentDatabase() AND t.engine != 'View' AND position(c.type, 'String') > 0 "
        "ORDER BY c.table, c.position"
    )
    columns: dict[str, dict[str, str]] = {}
    for table, name, kind in listed.result_rows:
        columns.setdefault(table, {})[name] = _as_text(name, kind)
    return columns


def _as_text(name: str, kind: str) -> str:
    if re.fullmatch(r"(LowCardinality\()?(Fixed)?String(\(\d+\))?\)?", kind):
        return f"toString({name})"
    if re.fullmatch(r"Array\((LowCardinality\()?String\)?\)", kind):
        return f"arrayStringConcat({name}, '\\n')"
    inner = re.fullmatch(r"Array\(Tuple\((.*)\)\)", kind, re.DOTALL)
    assert inner, f"{name} is {kind}: tell the search for leaks how to look into that"
    elements = [a or b for a, b, _ in _ELEMENT.findall(inner[1])]
    joined = ", '\\n', ".join(f"tupleElement(t, '{element}')" for element in elements)
    return f"arrayStringConcat(arrayMap(t -> concat({joined}, ''), {name}), '\\n')"


# --- files -----------------------------------------------------------------------------------------------------------


def contents(folder: Path, given: Collection[Path]) -> Iterator[Place]:
    """Every file below `folder` but those `given` to Douane to read secrets from, as it is and with its content taken
    out of its container."""
    skipped = {str(path.relative_to(folder)) for path in given}
    for name, data in files(folder):
        if name in skipped:
            continue
        yield name, data
        if name.endswith(".journal"):
            yield from bodies(name, data)
        elif data.startswith(b"SQLite format 3\0"):
            yield from values(folder / name)


def bodies(name: str, journal: bytes) -> Iterator[Place]:
    """The bodies in a journal, each in one piece, as it was sent and without its content-coding."""
    sent: dict[tuple[bytes, int, int], bytearray] = {}
    coding: dict[tuple[bytes, int, int], bytes] = {}
    with suppress(frames.CorruptFrameError):  # preallocated zeros end a segment
        for _, payload in frames.scan(journal):
            event = journal_pb2.Event.FromString(payload)
            kind = event.WhichOneof("event")
            if kind in ("opened", "response_head"):
                key = (event.exchange_id, event.attempt, int(kind == "response_head"))
                fields = getattr(event, kind).headers
                coding[key] = b",".join(f.value for f in fields if f.name == "content-encoding")
            elif kind == "part":
                key = (event.exchange_id, event.attempt, event.part.direction)
                sent.setdefault(key, bytearray()).extend(event.part.data)
    for key, body in sent.items():
        yield f"a body in {name}", bytes(body)
        with suppress(CodingError):
            undo = decoder(coding.get(key, b""))
            if undo is not None:
                yield f"a decoded body in {name}", undo.feed(bytes(body), 1 << 30)


def values(database: Path) -> Iterator[Place]:
    """Every value of every table of a SQLite database, also what is only in its write-ahead log."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.text_factory = bytes
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for row in connection.execute(f'SELECT * FROM "{table.decode()}"'):
                for value in row:
                    if isinstance(value, bytes):
                        yield f"a value of {table.decode()} in {database.name}", value


# --- processes -------------------------------------------------------------------------------------------------------


def processes(workers: Collection[int]) -> Iterator[Place]:
    """Of all processes of this machine: command lines, environments (but the workers'), and files that have no name
    any more. What we may not read, nobody but root may."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield f"the command line of {process.name}", (process / "cmdline").read_bytes()
        if int(process.name) not in workers:
            with suppress(OSError):
                yield f"the environment of {process.name}", (process / "environ").read_bytes()
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    target = os.fspath(descriptor.readlink())
                    if target.endswith(" (deleted)") and descriptor.is_file() and descriptor.stat().st_size < 1 << 26:
                        yield f"{target} of {process.name}", descriptor.read_bytes()


def everywhere(
    folder: Path, secrets: Mapping[str, str], *, given: Collection[Path] = (), workers: Collection[int] = ()
) -> list[str]:
    """`NAME in PLACE` for all but the rows."""
    return find(contents(folder, given), secrets) + find(processes(workers), secrets)
