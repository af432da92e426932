"""What a user of the store may ask, decided on the syntax tree that ClickHouse itself prints.

Steps, in order:
 1. `formatQuerySingleLine` parses the text with ClickHouse's own parser: one statement, comments and odd quoting
    gone. What it returns is what is checked and what is executed; the text as sent is never executed.
 2. In that canonical line, no quoted identifier holds an escape (a line break in a name could forge lines in 3), no
    INTO OUTFILE occurs, and every word right before `(` is a known function, type or definition. This second lock
    covers what the tree does not print: WHERE in SHOW, SETTINGS, APPLY.
 3. `EXPLAIN AST` of the line, with the query's parameters put in: a root that the user may have, node kinds from a
    list, functions and table functions from a list, tables only of `douane` and a few of `system`.
 4. The engine enforces grants (nothing outside these databases, no files, no network) and `readonly` besides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ext_proc.hub.store import tree
from ext_proc.hub.store.access import User
from ext_proc.hub.store.faults import QueryError, denied
from ext_proc.hub.store.settings import insert_setting_allowed
from ext_proc.hub.store.vocabulary import DEFINITIONS, ENGINES, OUTPUT_FORMATS, TABLE_FUNCTIONS, Vocabulary

DATABASE = "douane"
SYSTEM_TABLES = frozenset({
    "columns", "data_skipping_indices", "data_type_families", "databases", "detached_parts", "formats", "functions",
    "numbers", "one", "parts", "projections", "settings", "table_engines", "tables", "time_zones", "zeros",
})  # fmt: skip
INFORMATION_SCHEMA_TABLES = frozenset({"columns", "schemata", "tables", "views"})

_TOKEN = re.compile(
    r"'(?:[^'\\]|\\.|'')*'"  # a string
    r"|(?P<quoted>`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\")(?P<quoted_call>\()?"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)(?P<call>\()?"
    r"|(?P<number>\d[\w.]*)"
    r"|(?P<other>[^\s'`\"])",
    re.DOTALL,
)
_READ_KINDS = frozenset({
    "ArrayJoin", "Asterisk", "ColumnsExceptTransformer", "ColumnsListMatcher", "ColumnsRegexpMatcher",
    "ColumnsReplaceTransformer", "ColumnsReplaceTransformer::Replacement", "ColumnsTransformerList", "ExpressionList",
    "Function", "Identifier", "InterpolateElement", "Literal", "OrderByElement", "QualifiedAsterisk",
    "QualifiedColumnsListMatcher", "QualifiedColumnsRegexpMatcher", "SampleRatio", "SelectIntersectExceptQuery",
    "SelectQuery", "SelectWithUnionQuery", "Subquery", "TableExpression", "TableIdentifier", "TableJoin",
    "TablesInSelectQuery", "TablesInSelectQueryElement", "WindowDefinition", "WindowListElement", "WithElement",
})  # fmt: skip
_SELECTS = frozenset({"SelectWithUnionQuery", "SelectIntersectExceptQuery"})
# The tree of these shows little or nothing of what stands in them, so they may not hold a call at all (step 2).
_SHOWS = frozenset({
    "ExistsTableQuery", "ExistsViewQuery", "ShowColumns", "ShowCreateTableQuery", "ShowCreateViewQuery",
    "ShowFunctions", "ShowIndexes", "ShowTables",
})  # fmt: skip
_CREATE = re.compile(
    r"CREATE (?:TABLE|VIEW|OR REPLACE VIEW|MATERIALIZED VIEW) "
    r"|CREATE DATABASE (?:IF NOT EXISTS )?douane(?: ENGINE = Atomic)?$"
)
_ALTER_COMMANDS = frozenset({
    "ADD_COLUMN", "ADD_CONSTRAINT", "ADD_INDEX", "ADD_PROJECTION", "COMMENT_COLUMN", "MATERIALIZE_COLUMN",
    "MATERIALIZE_INDEX", "MATERIALIZE_PROJECTION", "MATERIALIZE_TTL", "MODIFY_COMMENT", "MODIFY_QUERY",
    "MODIFY_SETTING", "MODIFY_TTL",
})  # fmt: skip
_FORBIDDEN_IN_DEFINITIONS = frozenset({"Dictionary", "DictionaryAttributeDeclaration", "FunctionWithKeyValueArguments"})
_INSERT_SETTINGS = re.compile(r" SETTINGS ((?:\w+ = (?:'(?:[^'\\]|\\.)*'|[\w.+-]+)(?:, )?)+)$")
_DEFINITION_CALLS = DEFINITIONS | ENGINES

Kind = Literal["read", "insert", "insert_select", "define"]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that its user may run. `sql` is canonical. `format` is what the text itself names, if anything.

    `streamable` is False where the result has more to it than rows (WITH TOTALS, EXPLAIN, SHOW).
    """

    kind: Kind
    sql: str
    format: str = ""
    streamable: bool = False


@dataclass(frozen=True, slots=True)
class Guard:
    """`canonical` formats one statement, `explain` prints its tree with parameters put in. Both ask ClickHouse."""

    vocabulary: Vocabulary
    canonical: Callable[[str], str]
    explain: Callable[[str, Mapping[str, str], User], str]

    def inspect(self, user: User, text: str, params: Mapping[str, str]) -> Statement:
        """The statement in `text`, if `user` may run it. QueryError otherwise, with ClickHouse's code."""
        sql = self.canonical(text).rstrip("\n")
        calls, bare = _lex(sql)
        root = tree.parse(self.explain(sql, params, user))
        if root.kind in _SELECTS | _SHOWS | {"Explain", "DescribeQuery"}:
            return self._read(sql, root, calls, bare)
        if user != "writer":
            raise QueryError(164, "READONLY", f"{user}: Cannot execute query in readonly mode: only SELECT, SHOW, "
                        "DESCRIBE and EXPLAIN of a SELECT are allowed")  # fmt: skip
        if root.kind == "InsertQuery":
            return self._insert(sql, root, calls)
        if root.kind in {"CreateQuery", "AlterQuery"}:
            return self._define(sql, root, calls)
        raise denied(f"{user}: the store takes no such statement ({root.kind}); only INSERT, CREATE TABLE or VIEW, "
                     "ALTER that adds, and reading")  # fmt: skip

    def _read(self, sql: str, root: tree.Node, calls: frozenset[str], bare: frozenset[str]) -> Statement:
        output_format = _format_of(sql, root)
        if root.kind in _SHOWS:
            if calls:
                raise denied("SHOW takes no function calls here; select from system.tables or system.columns instead")
            return Statement("read", sql, output_format)
        self._check_calls(calls, frozenset())
        if root.kind in _SELECTS:
            self._check_read_tree(root)
            return Statement("read", sql, output_format, streamable="TOTALS" not in bare)
        if root.kind == "Explain" and not any(child.kind in _SELECTS for child in root.children):
            raise denied("EXPLAIN is allowed for SELECT only")
        for child in root.children:
            if child.kind != "Set":  # EXPLAIN's own: indexes = 1
                self._check_read_tree(child)
        return Statement("read", sql, output_format)

    def _check_read_tree(self, root: tree.Node) -> None:
        for node, parent in root.walk():
            if node.kind == "Set":
                # Values are not in the tree, and some are expressions (additional_table_filters).
                raise QueryError(164, "READONLY", "Settings in a query are not allowed; give them as URL parameters")
            if node.kind not in _READ_KINDS:
                raise denied(f"The store does not know how to check {node.kind} in a query")
            if parent is not None and parent.kind in _SELECTS and node.kind == "Literal":
                raise denied("INTO OUTFILE is not allowed")
            if node.kind == "TableIdentifier":
                _check_table(node.text)
            if node.kind == "Function":
                if parent is not None and parent.kind == "TableExpression":
                    if node.text not in TABLE_FUNCTIONS:
                        raise denied(f"Table function {node.text} is not allowed")
                elif not self.vocabulary.function(node.text):
                    raise denied(f"Function {node.text} is not allowed")

    def _check_calls(self, calls: frozenset[str], also: frozenset[str]) -> None:
        for name in calls:
            if name in also or name in TABLE_FUNCTIONS:
                continue
            if not self.vocabulary.function(name) and not self.vocabulary.type(name):
                raise denied(f"Function {name} is not allowed")

    def _insert(self, sql: str, root: tree.Node, calls: frozenset[str]) -> Statement:
        target = [child.text for child in root.children if child.kind == "Identifier"]
        select = [child for child in root.children if child.kind in _SELECTS]
        if any(child.kind not in {"Identifier", "ExpressionList", "Set"} | _SELECTS for child in root.children):
            raise denied("INSERT takes its rows from the request's body or from a SELECT, into a table only")
        if not target or (len(target) > 1 and target[0] != DATABASE) or len(target) > 2 or "{" in sql.partition("(")[0]:
            raise denied(f"INSERT is allowed into tables of {DATABASE} only")
        if select:
            self._check_calls(calls, frozenset())
            self._check_read_tree(select[0])
            return Statement("insert_select", sql)
        found = re.search(r" FORMAT (\w+)$", sql)
        head = sql[: found.start()] if found else sql
        settings = _INSERT_SETTINGS.search(head)
        if any(child.kind == "Set" for child in root.children):
            names = re.findall(r"(\w+) = ", settings[1]) if settings else []
            if not names or not all(insert_setting_allowed(name) for name in names):
                raise denied("INSERT takes only settings of deduplication and of the input format")
        return Statement("insert", head, found[1] if found else "")

    def _define(self, sql: str, root: tree.Node, calls: frozenset[str]) -> Statement:
        self._check_calls(calls, _DEFINITION_CALLS)
        names = [child.text for child in root.children if child.kind == "Identifier"]
        if root.kind == "CreateQuery" and not _CREATE.match(sql):
            raise denied("Only CREATE DATABASE douane, TABLE, VIEW and MATERIALIZED VIEW are allowed")
        if not names or (names[0] != DATABASE and len(names) > 1) or len(names) > 2:
            raise denied(f"Only what is in {DATABASE} may be defined")
        for node, parent in root.walk():
            if node.kind in _FORBIDDEN_IN_DEFINITIONS:
                raise denied("Dictionaries are not allowed")
            if node.kind == "AlterCommand" and node.text not in _ALTER_COMMANDS:
                raise denied(f"ALTER {node.text} is not allowed: the ledger is only added to")
            in_storage = node.kind == "Function" and parent is not None and parent.kind == "Storage"
            # ORDER BY and the like are children of the same node: an engine, or a pure function.
            if in_storage and node.text not in ENGINES and not self.vocabulary.function(node.text):
                raise denied(f"Engine {node.text} is not allowed; use one of the MergeTree family")
            if node.kind in _SELECTS:
                self._check_read_tree(node)
        return Statement("define", sql)


def _lex(sql: str) -> tuple[frozenset[str], frozenset[str]]:
    """Step 2: the names that are called, and all bare words."""
    calls: set[str] = set()
    bare: set[str] = set()
    position = 0
    previous = ""
    while position < len(sql):
        if sql[position].isspace():
            position += 1
            continue
        found = _TOKEN.match(sql, position)
        if found is None:
            raise denied("The query cannot be inspected")
        position = found.end()
        if quoted := found["quoted"]:
            if "\\" in quoted:
                raise denied("An identifier with an escape in it is not allowed")
            if found["quoted_call"]:
                calls.add(quoted[1:-1])
        word = found["word"] or ""
        if word:
            bare.add(word)
            if found["call"]:
                calls.add(word)
            if word == "OUTFILE" and previous == "INTO":
                raise denied("INTO OUTFILE is not allowed")
            if word == "INFILE" and previous == "FROM":
                raise denied("FROM INFILE is not allowed")
            if word == "APPLY":
                raise denied("APPLY is not allowed; name the columns")
        previous = word
    return frozenset(calls), frozenset(bare)


def _check_table(name: str) -> None:
    database, dot, table = name.partition(".")
    if not dot or database == DATABASE:
        return
    if database == "system" and table in SYSTEM_TABLES:
        return
    if database.lower() == "information_schema" and table.lower() in INFORMATION_SCHEMA_TABLES:
        return
    raise denied(f"Not enough privileges: {name} is not one of the tables that may be read")


def _format_of(sql: str, root: tree.Node) -> str:
    """The FORMAT that the statement names: an Identifier directly under the root of a SELECT; elsewhere its end."""
    if root.kind in _SELECTS:
        name = next((child.text for child in root.children if child.kind == "Identifier"), "")
    else:
        found = re.search(r" FORMAT (\w+)$", sql)
        name = found[1] if found else ""
    if name and name not in OUTPUT_FORMATS:
        raise denied(f"Format {name} is not allowed")
    return name
