from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from ext_proc.errors import StoreError
from ext_proc.hub import rows, schema
from ext_proc.hub.approvals import history
from ext_proc.hub.schema import Layout, Migration, migrate, migrations

GOLDEN = Path(__file__).parent / "golden"
SINGLE = Layout("douane", timedelta(days=400))
CLUSTER = Layout("audit", timedelta(days=30), cluster="main")


@pytest.mark.parametrize(("name", "layout"), [("single", SINGLE), ("cluster", CLUSTER)])
def test_what_is_sent_is_what_was_reviewed(name, layout):
    """After a wanted change: remove the golden file and run this test twice."""
    rendered = "".join(f"{s};\n\n" for m in migrations() for s in m.statements(layout))
    golden = GOLDEN / f"schema_{name}.sql"
    if not golden.exists():
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(rendered)
        pytest.fail(f"{golden} was written; look at it")
    assert rendered == golden.read_text()


def test_numbers_are_without_gaps_and_every_statement_may_run_again():
    known = migrations()
    assert [m.version for m in known] == list(range(1, len(known) + 1))
    for migration in known:
        for statement in migration.statements(SINGLE):
            assert re.match(r"CREATE (TABLE|VIEW) IF NOT EXISTS |ALTER TABLE .* IF NOT EXISTS\s", statement)


def test_the_tables_have_the_columns_that_rows_writes():
    by_table = {}
    for statement in (s for m in migrations() for s in m.statements(SINGLE)):
        name = re.match(r"CREATE TABLE IF NOT EXISTS `douane`\.(\w+)", statement)
        if name:
            by_table[name[1]] = tuple(re.findall(r"^    ([a-z]\w*) [A-Z]", statement, re.MULTILINE))
        added = re.match(
            r"ALTER TABLE `douane`\.(\w+) +ADD COLUMN IF NOT EXISTS\n    (\w+) .* AFTER (\w+)$", statement, re.DOTALL
        )
        if added:
            columns = by_table[added[1]]
            at = columns.index(added[3]) + 1
            by_table[added[1]] = (*columns[:at], added[2], *columns[at:])
    assert by_table == {
        "exchanges": rows.EXCHANGES,
        "body_parts": rows.BODY_PARTS,
        "configs": rows.CONFIGS,
        history.TABLE: history.COLUMNS,
    }


def test_an_unknown_placeholder_is_an_error():
    with pytest.raises(ValueError, match="on_clutser"):
        SINGLE.render("CREATE TABLE x {on_clutser}")


def test_retention_is_never_shorter_than_configured():
    assert Layout("d", timedelta(hours=25)).days == 2


class Recorded:
    """What a database answers that has `versions` and keeps rows for `days`."""

    def __init__(self, versions: tuple[int, ...] = (), days: int = 400) -> None:
        self.versions = versions
        self.days = days
        self.sent: list[str] = []

    def command(self, sql: str) -> None:
        self.sent.append(sql)

    def query(self, sql: str, parameters: Mapping[str, object]) -> Iterator[dict[str, object]]:
        if "schema_migrations" in sql:
            yield from ({"version": version} for version in self.versions)
            return
        for name in ("exchanges", "body_parts", "configs"):
            yield {"name": name, "engine_full": f"MergeTree TTL toDateTime(ts) + toIntervalDay({self.days})"}


def test_what_is_there_is_not_made_again():
    database = Recorded(tuple(m.version for m in migrations()))
    migrate(database, SINGLE)
    assert [s.split()[1] for s in database.sent] == ["DATABASE", "TABLE"]  # its own record, if it is missing


def test_a_later_schema_is_left_alone():
    database = Recorded((1, 99))
    with pytest.raises(StoreError) as caught:
        migrate(database, SINGLE)
    assert caught.value.reason == "store.newer_schema"
    assert not any("exchanges" in s for s in database.sent)


def test_a_changed_retention_is_applied_to_what_expires():
    database = Recorded((1,), days=90)
    migrate(database, SINGLE)
    altered = [s for s in database.sent if "MODIFY TTL" in s]
    assert altered == [
        "ALTER TABLE `douane`.exchanges MODIFY TTL toDateTime(ts) + INTERVAL 400 DAY DELETE",
        "ALTER TABLE `douane`.body_parts MODIFY TTL toDateTime(ts) + INTERVAL 400 DAY DELETE",
    ]


def test_a_migration_is_recorded_after_its_last_statement(monkeypatch):
    monkeypatch.setattr(schema, "migrations", lambda: [Migration(1, "a", "CREATE A;\n-- why\nCREATE B;\n")])
    database = Recorded()
    migrate(database, SINGLE)
    assert database.sent[2:] == [
        "CREATE A",
        "CREATE B",
        "INSERT INTO `douane`.schema_migrations (version, name) SELECT 1, 'a'",
    ]
