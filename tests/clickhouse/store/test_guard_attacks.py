"""What the two users must not be able to do, asked over HTTP of the real engine.

The canary is a file that nobody may read; a second file is one that nobody may write.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clickhouse.store.conftest import StoreProcess

CANARY = "canary-7f3a"

# {file} is the canary's path, {out} a path that must not appear.
READERS = {
    "scalar file": "SELECT file('{file}')",
    "scalar file, other case of SELECT": "sElEcT file('{file}')",
    "scalar file, quoted": "SELECT `file`('{file}')",
    "scalar file, double quoted": "SELECT \"file\"('{file}')",
    "scalar file behind a comment": "SELECT file/* SELECT 1 */('{file}')",
    "scalar file behind a line comment": "SELECT 1, -- comment\nfile('{file}')",
    "scalar file, heredoc": "SELECT file($x${file}$x$)",
    "scalar file in WHERE": "SELECT 1 FROM exchanges WHERE file('{file}') = ''",
    "scalar file in PREWHERE": "SELECT 1 FROM exchanges PREWHERE file('{file}') != ''",
    "scalar file in ORDER BY": "SELECT 1 FROM exchanges ORDER BY file('{file}')",
    "scalar file in HAVING": "SELECT count() FROM exchanges HAVING file('{file}') != ''",
    "scalar file in QUALIFY": "SELECT 1 FROM exchanges QUALIFY file('{file}') != ''",
    "scalar file in a window": "SELECT sum(status) OVER (PARTITION BY file('{file}')) FROM exchanges",
    "scalar file in a named window": "SELECT sum(status) OVER w FROM exchanges WINDOW w AS (ORDER BY file('{file}'))",
    "scalar file in WITH": "WITH file('{file}') AS x SELECT x",
    "scalar file in a CTE": "WITH x AS (SELECT file('{file}') AS y) SELECT y FROM x",
    "scalar file in a nested subquery": "SELECT * FROM (SELECT * FROM (SELECT file('{file}')))",
    "scalar file in a lambda": "SELECT arrayMap(x -> file(x), ['{file}'])",
    "scalar file in LIMIT": "SELECT 1 LIMIT length(file('{file}'))",
    "scalar file in a union": "SELECT '' UNION ALL SELECT file('{file}')",
    "scalar file in INTERSECT": "SELECT file('{file}') INTERSECT SELECT file('{file}')",
    "scalar file in CASE": "SELECT CASE WHEN 1 THEN file('{file}') ELSE '' END",
    "scalar file in INTERPOLATE": "SELECT 1 AS a, '' AS b ORDER BY a WITH FILL TO 3 INTERPOLATE (b AS file('{file}'))",
    "scalar file in ARRAY JOIN": "SELECT x FROM exchanges ARRAY JOIN [file('{file}')] AS x",
    "scalar file in view()": "SELECT * FROM view(SELECT file('{file}'))",
    "scalar file in values()": "SELECT * FROM values('a String', file('{file}'))",
    "VALUES as a query": "VALUES (file('{file}'))",
    "APPLY by name": "SELECT * APPLY file FROM (SELECT '{file}')",
    "APPLY with a lambda": "SELECT * APPLY(x -> file(x)) FROM (SELECT '{file}')",
    "COLUMNS with APPLY": "SELECT COLUMNS('.*') APPLY(file) FROM (SELECT '{file}')",
    "REPLACE": "SELECT * REPLACE(file('{file}') AS path) FROM exchanges",
    "function name by parameter": "SELECT {f:Identifier}('{file}')",
    "DESCRIBE of a scalar": "DESCRIBE (SELECT file('{file}'))",
    "EXPLAIN of a scalar": "EXPLAIN SYNTAX SELECT file('{file}')",
    "EXPLAIN with constant folding": "EXPLAIN QUERY TREE SELECT file('{file}')",
    "SHOW with WHERE": "SHOW TABLES FROM douane WHERE throwIf(1, file('{file}'))",
    "SHOW COLUMNS with WHERE": "SHOW COLUMNS FROM exchanges WHERE throwIf(1, file('{file}'))",
    "table function file": "SELECT * FROM file('{file}', 'LineAsString')",
    "table function file, FORMAT behind": "SELECT * FROM file('{file}', LineAsString) FORMAT JSON",
    "table function in IN": "SELECT 'x' IN file('{file}', 'LineAsString')",
    "a path as a table": "SELECT * FROM `{file}`",
    "a path as a string table": "SELECT * FROM '{file}'",
    "a path in the overlay database": "SELECT * FROM default.`{file}`",
    "table function merge": "SELECT * FROM merge('system', '.*')",
    "table function executable": "SELECT * FROM executable('cat {file}', 'LineAsString', 'a String')",
    "table function fileCluster": "SELECT * FROM fileCluster('default', '{file}', 'LineAsString')",
    "table function python": "SELECT * FROM python('open(\"{file}\")')",
    "table function sqlite": "SELECT * FROM sqlite('{file}', 'x')",
    "table function url": "SELECT * FROM url('http://127.0.0.1:1/x', 'LineAsString')",
    "table function url, file scheme": "SELECT * FROM url('file://{file}', 'LineAsString')",
    "table function s3": "SELECT * FROM s3('http://127.0.0.1:1/x')",
    "table function remote": "SELECT * FROM remote('127.0.0.1:1', system.one)",
    "table function mysql": "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "table function cluster": "SELECT * FROM clusterAllReplicas('default', system.one)",
    "DESCRIBE of a table function": "DESCRIBE TABLE file('{file}', 'LineAsString')",
    "outbound by hasColumnInTable": "SELECT hasColumnInTable('127.0.0.1:1', 'u', 'p', 'd', 't', 'c')",
    "dictGet": "SELECT dictGet('douane.d', 'a', 1)",
    "joinGet": "SELECT joinGet('douane.j', 'a', 1)",
    "server settings": "SELECT getServerSetting('tmp_path')",
    "macros": "SELECT getMacro('x')",
    "sleep": "SELECT sleep(3)",
    "INTO OUTFILE": "SELECT 1 INTO OUTFILE '{out}'",
    "INTO OUTFILE, FORMAT": "SELECT 1 INTO OUTFILE '{out}' TRUNCATE FORMAT CSV",
    "INTO OUTFILE in lower case": "select 1 into/**/outfile '{out}'",
    "INTO OUTFILE of EXPLAIN": "EXPLAIN SELECT 1 INTO OUTFILE '{out}'",
    "INTO OUTFILE of SHOW": "SHOW TABLES INTO OUTFILE '{out}'",
    "INTO OUTFILE of DESCRIBE": "DESCRIBE TABLE exchanges INTO OUTFILE '{out}'",
    "FORMAT Template": "SELECT 1 FORMAT Template",
    "FORMAT Protobuf": "SELECT 1 FORMAT Protobuf SETTINGS format_schema = '{file}:x'",
    "two statements": "SELECT 1; SELECT 2",
    "two statements, the second hidden": "SELECT 1; /* */ DROP TABLE exchanges",
    "two statements behind a comment": "SELECT 1 -- ;\n; TRUNCATE TABLE exchanges",
    "users": "SELECT * FROM system.users",
    "grants": "SELECT * FROM system.grants",
    "queries of others": "SELECT * FROM system.processes",
    "queries of others, SHOW": "SHOW PROCESSLIST",
    "the query log": "SELECT * FROM system.query_log",
    "errors": "SELECT * FROM system.errors",
    "stack traces": "SELECT * FROM system.stack_trace",
    "a system table in IN": "SELECT 1 IN (system.users)",
    "a system table quoted": "SELECT * FROM `system`.`processes`",
    "a system table in a join": "SELECT 1 FROM exchanges, system.processes",
    "a system table by CTE": "WITH x AS (SELECT * FROM system.processes) SELECT * FROM x",
    "lines forged by an alias": "SELECT 1 AS `a\\nb` FROM system.processes",
    "lines forged by an alias, real line break": "SELECT 1 AS `x\n TableIdentifier y`, file('{file}')",
    "SETTINGS readonly": "SELECT 1 SETTINGS readonly = 0",
    "SETTINGS limits": "SELECT 1 SETTINGS max_execution_time = 0",
    "SETTINGS in a subquery": "SELECT * FROM (SELECT 1 SETTINGS max_memory_usage = 0)",
    "SET": "SET readonly = 0",
    "INSERT": "INSERT INTO exchanges (path) VALUES ('x')",
    "INSERT SELECT": "INSERT INTO exchanges (path) SELECT 'x'",
    "INSERT behind WITH": "WITH x AS (SELECT 'x') INSERT INTO exchanges (path) SELECT * FROM x",
    "INSERT into a function": "INSERT INTO FUNCTION file('{out}', 'CSV', 'a String') SELECT 'x'",
    "EXPLAIN of an INSERT": "EXPLAIN INSERT INTO exchanges (path) SELECT 'x'",
    "EXPLAIN AST of a DROP": "EXPLAIN AST DROP TABLE exchanges",
    "EXPLAIN TABLE OVERRIDE": "EXPLAIN TABLE OVERRIDE mysql('127.0.0.1:1', 'a', 'b', 'c', 'd') PARTITION BY a",
    "CREATE": "CREATE TABLE x (a Int) ENGINE = Memory",
    "CREATE TEMPORARY": "CREATE TEMPORARY TABLE x (a Int)",
    "DELETE": "DELETE FROM exchanges WHERE 1",
    "KILL": "KILL QUERY WHERE 1",
    "SYSTEM": "SYSTEM STOP MERGES",
    "USE": "USE system",
    "EXECUTE AS": "EXECUTE AS default SELECT 1",
    "CHECK": "CHECK TABLE exchanges",
}  # fmt: skip

WRITERS = {
    "DROP TABLE": "DROP TABLE exchanges",
    "DROP DATABASE": "DROP DATABASE douane",
    "DROP VIEW": "DROP VIEW v",
    "TRUNCATE": "TRUNCATE TABLE exchanges",
    "DELETE": "DELETE FROM exchanges WHERE 1",
    "ALTER DELETE": "ALTER TABLE exchanges DELETE WHERE 1",
    "ALTER UPDATE": "ALTER TABLE exchanges UPDATE path = '' WHERE 1",
    "UPDATE": "UPDATE exchanges SET path = '' WHERE 1",
    "DROP PARTITION": "ALTER TABLE exchanges DROP PARTITION tuple()",
    "DETACH PARTITION": "ALTER TABLE exchanges DETACH PARTITION tuple()",
    "REPLACE PARTITION": "ALTER TABLE exchanges REPLACE PARTITION tuple() FROM other",
    "a DROP behind an ADD": "ALTER TABLE exchanges ADD COLUMN z UInt8, DROP COLUMN path",
    "MODIFY COLUMN": "ALTER TABLE exchanges MODIFY COLUMN req_body UInt8",
    "CLEAR COLUMN": "ALTER TABLE exchanges CLEAR COLUMN req_body",
    "RENAME": "RENAME TABLE exchanges TO gone",
    "EXCHANGE": "EXCHANGE TABLES exchanges AND other",
    "DETACH": "DETACH TABLE exchanges",
    "ATTACH": "ATTACH TABLE x FROM '{file}' (a String) ENGINE = File(CSV)",
    "CREATE OR REPLACE TABLE": "CREATE OR REPLACE TABLE exchanges (a Int) ENGINE = MergeTree ORDER BY a",
    "REPLACE TABLE": "REPLACE TABLE exchanges (a Int) ENGINE = MergeTree ORDER BY a",
    "OPTIMIZE": "OPTIMIZE TABLE exchanges FINAL DEDUPLICATE",
    "another database": "CREATE DATABASE other",
    "a table elsewhere": "CREATE TABLE default.x (a Int) ENGINE = MergeTree ORDER BY a",
    "engine File": "CREATE TABLE x (a String) ENGINE = File(CSV)",
    "engine URL": "CREATE TABLE x (a String) ENGINE = URL('http://127.0.0.1:1/', CSV)",
    "engine Executable": "CREATE TABLE x (a String) ENGINE = Executable('x', CSV)",
    "a table of a function": "CREATE TABLE x AS file('{file}', 'LineAsString')",
    "a table of a select": "CREATE TABLE x ENGINE = MergeTree ORDER BY tuple() AS SELECT file('{file}') AS a",
    "a view of a file": "CREATE VIEW x AS SELECT * FROM file('{file}', 'LineAsString')",
    "a view with a scalar": "CREATE VIEW x AS SELECT file('{file}')",
    "a default with a scalar": "CREATE TABLE x (a Int8, b String DEFAULT file('{file}')) ENGINE = MergeTree ORDER BY a",
    "an added default": "ALTER TABLE exchanges ADD COLUMN z String DEFAULT file('{file}')",
    "a materialized view elsewhere": "CREATE MATERIALIZED VIEW x TO default.y AS SELECT 1 AS a",
    "a disk elsewhere": "CREATE TABLE x (a Int) ENGINE = MergeTree ORDER BY a "
    "SETTINGS disk = disk(type = local, path = '/srv/x/')",
    "a dictionary": "CREATE DICTIONARY d (a UInt8) PRIMARY KEY a SOURCE(FILE(PATH '{file}' FORMAT CSV)) LAYOUT(FLAT())",
    "a function": "CREATE FUNCTION f AS x -> file(x)",
    "a user": "CREATE USER x",
    "a grant": "GRANT ALL ON *.* TO default",
    "INSERT from a file": "INSERT INTO exchanges (path) SELECT * FROM file('{file}', 'LineAsString')",
    "INSERT from a scalar": "INSERT INTO exchanges (path) SELECT file('{file}')",
    "INSERT of an expression": "INSERT INTO exchanges (path) VALUES (file('{file}'))",
    "INSERT of an expression, by setting": "INSERT INTO exchanges (path) SETTINGS "
    "input_format_values_interpret_expressions = 1 VALUES (file('{file}'))",
    "INSERT FROM INFILE": "INSERT INTO exchanges (path) FROM INFILE '{file}' FORMAT LineAsString",
    "INSERT into a function": "INSERT INTO FUNCTION file('{out}', 'CSV', 'a String') VALUES ('x')",
    "INSERT into a function, from a select": "INSERT INTO FUNCTION file('{out}', 'CSV', 'a String') SELECT 'x'",
    "INSERT elsewhere": "INSERT INTO system.one VALUES (1)",
    "INSERT with a template": "INSERT INTO exchanges (path) FORMAT Template\nx",
    "BACKUP": "BACKUP DATABASE douane TO File('{out}')",
    "SELECT of a file": "SELECT * FROM file('{file}', 'LineAsString')",
    "INTO OUTFILE": "SELECT 1 INTO OUTFILE '{out}'",
    "an expression as a setting": "SELECT 1 FROM exchanges SETTINGS "
    "additional_table_filters = {'douane.exchanges': 'file(\\'{file}\\') = 0'}",
    "SYSTEM": "SYSTEM SHUTDOWN",
    "SET": "SET allow_ddl = 0",
}  # fmt: skip

REFUSED = {400, 403, 404, 500, 501}


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("canary") / "secret.txt"
    file.write_text(CANARY + "\n")
    return file


def _refused(store: StoreProcess, user: str, sql: str, canary: Path) -> None:
    out = canary.parent / "out"
    text = sql.replace("{file}", str(canary)).replace("{out}", str(out))
    answer = store.ask(text, user=user, param_f="file")  # type: ignore[arg-type]
    body = answer.data.decode()
    assert answer.status in REFUSED, body
    assert "X-ClickHouse-Exception-Code" in answer.headers
    assert CANARY not in body
    assert not out.exists()
    assert store.rows("SELECT count(), any(path) FROM exchanges") == [["1", "/a"]]


@pytest.mark.parametrize("sql", READERS.values(), ids=READERS.keys())
def test_auditor_is_refused(store: StoreProcess, canary: Path, sql: str) -> None:
    _refused(store, "auditor", sql, canary)


@pytest.mark.parametrize("sql", WRITERS.values(), ids=WRITERS.keys())
def test_writer_is_refused(store: StoreProcess, canary: Path, sql: str) -> None:
    _refused(store, "writer", sql, canary)


@pytest.mark.parametrize("sql", [s for s in READERS.values() if "file(" in s or "OUTFILE" in s.upper()])
def test_refused_files_are_refused_by_the_guard(store: StoreProcess, canary: Path, sql: str) -> None:
    """Not by luck: the refusal is an access or a syntax error, not a type or a missing file."""
    text = sql.replace("{file}", str(canary)).replace("{out}", str(canary.parent / "out"))
    code = store.ask(text, param_f="file").headers["X-ClickHouse-Exception-Code"]
    assert code in {"497", "164", "62"}, sql


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("readonly", "0"),
        ("format_schema", "/etc/passwd:x"),
        ("format_template_resultset", "/etc/passwd"),
        ("max_execution_time", "0"),
        ("max_execution_time", "3600"),
        ("max_result_bytes", "0"),
        ("max_memory_usage", "0"),
        ("allow_introspection_functions", "1"),
        ("additional_table_filters", "{}"),
        ("log_comment", "x"),
        ("max_threads' , readonly='0", "1"),
    ],
)
def test_auditor_cannot_widen_by_setting(store: StoreProcess, name: str, value: str) -> None:
    answer = store.ask("SELECT getSetting('readonly'), getSetting('max_execution_time')", **{name: value})
    if name == "readonly":  # clients send it; it is ignored
        assert answer.data == b"1\t60\n"
    else:
        assert answer.headers["X-ClickHouse-Exception-Code"] in {"164", "452", "36"}


@pytest.mark.parametrize("level", ["1", "2"])
def test_a_writer_that_asks_to_read_only_reads_only(store: StoreProcess, level: str) -> None:
    """What `douane sql` relies on where `store.url` names a writer."""
    answer = store.ask(
        "INSERT INTO exchanges (ts, path) SELECT now(), 'forged'", user="writer", method="POST", readonly=level
    )
    assert answer.headers["X-ClickHouse-Exception-Code"] == "164"
    assert store.ask("SELECT 1", user="writer", readonly=level).data == b"1\n"


def test_get_reads_only(store: StoreProcess) -> None:
    answer = store.ask("INSERT INTO exchanges (path) SELECT 'x'", user="writer", method="GET")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "164"


GOOD = {
    "group by": "SELECT status, count() FROM douane.exchanges GROUP BY status ORDER BY count() DESC LIMIT 10",
    "case of functions": "select COUNT(*), Max(status), sumIf(status, path = '/a') from exchanges",
    "quantiles": "SELECT quantilesTDigest(0.5, 0.9)(status) FROM exchanges",
    "json": "SELECT JSONExtractString(req_body, 'a', 'b'), JSON_VALUE(req_body, '$.a') FROM exchanges",
    "times": "SELECT toStartOfHour(ts), ts - INTERVAL 1 HOUR, ts::Date, date_trunc('day', ts) FROM exchanges",
    "search": "SELECT hasToken(lower(req_body), 'x'), path ILIKE '%A%', match(path, '^/a') FROM exchanges",
    "cte, join, union": "WITH x AS (SELECT 1 AS a) SELECT a FROM x JOIN (SELECT 1 AS a) n USING a UNION ALL SELECT 2",
    "window": "SELECT path, row_number() OVER (PARTITION BY status ORDER BY ts) FROM exchanges",
    "lambda": "SELECT arrayMap((x, y) -> concat(x, y), ['a'], ['b']), arrayFilter(x -> x > 1, [1, 2])",
    "case, cast, tuple": "SELECT CASE WHEN status > 1 THEN 'a' ELSE 'b' END, (1, 2).2, status::String FROM exchanges",
    "subquery in": "SELECT count() FROM exchanges WHERE path IN (SELECT path FROM exchanges)",
    "exists": "SELECT EXISTS(SELECT 1), hex(SHA256('x')), 1 IN (1, 2)",
    "columns": "SELECT COLUMNS('pa.*'), * EXCEPT (path) FROM exchanges",
    "array join": "SELECT x FROM exchanges ARRAY JOIN [1, 2] AS x",
    "fill": "SELECT toDate('2026-01-01') + number AS d FROM numbers(2) ORDER BY d WITH FILL",
    "totals": "SELECT status, count() FROM exchanges GROUP BY status WITH TOTALS",
    "intersect": "SELECT 1 INTERSECT SELECT 1",
    "identifier parameter": "SELECT count() FROM {t:Identifier} WHERE path = {p:String}",
    "explain": "EXPLAIN indexes = 1 SELECT * FROM exchanges",
    "explain ast": "EXPLAIN AST SELECT 1",
    "show": "SHOW TABLES FROM douane LIKE 'ex%'",
    "show create": "SHOW CREATE TABLE exchanges",
    "describe": "DESCRIBE TABLE douane.exchanges",
    "exists table": "EXISTS TABLE exchanges",
    "system": "SELECT name FROM system.columns WHERE database = 'douane' AND table = 'exchanges'",
    "information schema": "SELECT table_name FROM information_schema.tables WHERE table_schema = 'douane'",
    "clients ask": "SELECT displayName(), version(), revision(), timezone()",
    "trailing semicolon": "SELECT 1;",
    "format": "SELECT 1 AS a FORMAT JSONCompact",
}  # fmt: skip


@pytest.mark.parametrize("sql", GOOD.values(), ids=GOOD.keys())
def test_ordinary_reading_is_allowed(store: StoreProcess, sql: str) -> None:
    answer = store.ask(sql, param_t="exchanges", param_p="/a")
    assert answer.status == 200, answer.data.decode()


def test_parameter_cannot_name_a_forbidden_table(store: StoreProcess) -> None:
    answer = store.ask("SELECT * FROM {t:Identifier}", param_t="system.processes")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "497"


DEFINITIONS = [
    "CREATE DATABASE IF NOT EXISTS douane",
    """CREATE TABLE IF NOT EXISTS douane.full (
      id UUID, ts DateTime64(6,'UTC') CODEC(Delta(8),ZSTD(1)), host LowCardinality(String), body String CODEC(ZSTD(3)),
      headers Array(Tuple(name LowCardinality(String), value String)) CODEC(ZSTD(1)),
      sha FixedString(32), seq UInt64, hash FixedString(32) CODEC(NONE),
      INDEX i_host host TYPE bloom_filter(0.01) GRANULARITY 1,
      INDEX i_body body TYPE text(tokenizer=splitByNonAlpha, preprocessor=lower(body)),
      PROJECTION p_seq (SELECT _part_offset ORDER BY host, seq),
      CONSTRAINT c CHECK body='' OR SHA256(body)=sha
    ) ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY (host, ts, id)
    TTL toDateTime(ts) + INTERVAL 400 DAY DELETE
    SETTINGS index_granularity_bytes=1048576, ttl_only_drop_parts=1, fsync_after_insert=1,
             non_replicated_deduplication_window=1000""",
    "ALTER TABLE douane.full ADD COLUMN IF NOT EXISTS extra String DEFAULT lower(host) AFTER host",
    "ALTER TABLE douane.full ADD INDEX IF NOT EXISTS i_extra extra TYPE minmax",
    "ALTER TABLE douane.full MODIFY TTL toDateTime(ts) + INTERVAL 30 DAY",
    "ALTER TABLE douane.full MODIFY SETTING non_replicated_deduplication_window = 2000",
    "CREATE VIEW IF NOT EXISTS douane.sessions AS SELECT host, count() AS n FROM douane.full GROUP BY host",
    "CREATE OR REPLACE VIEW douane.sessions AS SELECT host, count() AS n, max(ts) AS t FROM douane.full GROUP BY host",
    "INSERT INTO douane.full (host, ts) SELECT path, now() FROM douane.exchanges",
]  # fmt: skip


def test_migrations_are_allowed(store: StoreProcess) -> None:
    for sql in DEFINITIONS:
        store.do(sql)
    assert store.rows("SELECT host, n FROM sessions") == [["/a", "1"]]
