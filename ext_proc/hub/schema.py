"""The ledger's tables, made and brought up to date by numbered migrations.

`migrations/NNNN_name.sql` holds statements that end with `;` at the end of a line, each of which may run again. They
are rendered for a single node or a cluster, sent one a call, and recorded in `schema_migrations`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from typing import Protocol

from ext_proc.errors import StoreError

_FILE = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_DAYS = re.compile(r"toIntervalDay\((\d+)\)")
_EXPIRING = ("exchanges", "body_parts", "approvals")

# How many of the last batches ClickHouse knows again, for each partition. A hub sends the one that it is not sure of
# first; the rest is room for other hubs. On replicas the window has a time as well: a hub may be off for that long.
_SINGLE = "non_replicated_deduplication_window = 10000"
_REPLICATED = "replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 2592000"

_HISTORY = """
CREATE TABLE IF NOT EXISTS {database}.schema_migrations {on_cluster}
(version UInt32, name String, applied_at DateTime('UTC') DEFAULT now('UTC'))
ENGINE = {replicated}MergeTree ORDER BY version
"""


class Statements(Protocol):
    """What a migration needs of `clickhouse.ClickHouse`."""

    def command(self, sql: str) -> None: ...

    def query(self, sql: str, parameters: Mapping[str, object]) -> Iterator[dict[str, object]]: ...


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tables are to be. `cluster` is a name in the servers' configuration, None for a single node."""

    database: str
    retention: timedelta
    cluster: str | None = None

    @property
    def days(self) -> int:
        """Never less than was asked for."""
        return math.ceil(self.retention / timedelta(days=1))

    def render(self, sql: str) -> str:
        """One statement with its placeholders filled in. ValueError for a placeholder that is none."""
        values = {
            "database": f"`{self.database}`",
            "on_cluster": f"ON CLUSTER `{self.cluster}`" if self.cluster else "",
            "replicated": "Replicated" if self.cluster else "",
            "deduplication": _REPLICATED if self.cluster else _SINGLE,
            "retention": str(self.days),
        }

        def fill(match: re.Match[str]) -> str:
            if match[1] not in values:
                raise ValueError(f"unknown placeholder {match[0]}")
            return values[match[1]]

        filled = _PLACEHOLDER.sub(fill, sql)
        return re.sub(r"(?<=\S) +$|(?<=\S) (?= )", "", filled, flags=re.MULTILINE).strip()


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str

    def statements(self, layout: Layout) -> list[str]:
        """What to send, one by one, without comments and without the semicolon."""
        without_comments = re.sub(r"^--.*\n", "", self.sql, flags=re.MULTILINE)
        return [layout.render(s) for s in re.split(r";\s*(?:\n|$)", without_comments) if s.strip()]


def migrations() -> list[Migration]:
    """All that this version knows, in order."""
    found = []
    for file in files("ext_proc.hub").joinpath("migrations").iterdir():
        match = _FILE.match(file.name)
        if match:
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda m: m.version)


def migrate(clickhouse: Statements, layout: Layout, *, log: Callable[[str], None] = lambda _: None) -> None:
    """Make the schema what this version knows, and the retention what is configured. Safe to repeat.

    StoreError `store.newer_schema` when a later version of Douane was here.
    """
    known = migrations()
    clickhouse.command(layout.render("CREATE DATABASE IF NOT EXISTS {database} {on_cluster}"))
    clickhouse.command(layout.render(_HISTORY))
    rows = clickhouse.query(layout.render("SELECT DISTINCT version FROM {database}.schema_migrations"), {})
    applied = {int(str(row["version"])) for row in rows}
    newer = max(applied, default=0)
    if newer > known[-1].version:
        raise StoreError(
            "store.newer_schema",
            f"the ledger's schema has version {newer}, and this Douane knows {known[-1].version}",
            remedy="Run the version of Douane that made it, or a later one; nothing was changed.",
        )
    for migration in known:
        if migration.version in applied:
            continue
        log(f"schema: {migration.version:04d} {migration.name}")
        for statement in migration.statements(layout):
            clickhouse.command(statement)
        record = (
            f"INSERT INTO {{database}}.schema_migrations (version, name) SELECT {migration.version}, '{migration.name}'"
        )
        clickhouse.command(layout.render(record))  # both are from the file's name
    _apply_retention(clickhouse, layout, log)


def _apply_retention(clickhouse: Statements, layout: Layout, log: Callable[[str], None]) -> None:
    tables = "SELECT name, engine_full FROM system.tables WHERE database = {db:String}"
    for row in clickhouse.query(tables, {"db": layout.database}):
        found = _DAYS.search(str(row["engine_full"]))
        if row["name"] in _EXPIRING and (found is None or int(found[1]) != layout.days):
            log(f"schema: {row['name']} is now kept for {layout.days} days")
            alter = f"ALTER TABLE {{database}}.{row['name']} {{on_cluster}} "
            clickhouse.command(layout.render(alter + "MODIFY TTL toDateTime(ts) + INTERVAL {retention} DAY DELETE"))
