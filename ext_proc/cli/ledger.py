"""The ledger, as the reading commands see it: the auditor's user, and the conditions that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import typer

from ext_proc.cli.options import load_config, parse_since

if TYPE_CHECKING:
    from ext_proc.hub.clickhouse import ClickHouse


class Ledger:
    """Read access. For the embedded store as `auditor`; for a server as the user that store.url names, read-only."""

    def __init__(self, config: Path) -> None:
        from ext_proc.hub.clickhouse import ClickHouse

        store = load_config(config).config.store
        password = ""
        if store.password is not None:
            from ext_proc.credentials import read_once

            password = read_once(store.password).decode()
        self._clickhouse: ClickHouse = ClickHouse(store, user="auditor", password=password)
        self.database = self._clickhouse.database

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> Iterator[dict[str, Any]]:
        """Rows as they come. `{db}` in `sql` is the ledger's database."""
        _check_utf8(*(parameters or {}).values())
        return self._clickhouse.query(sql.replace("{db}", f"`{self.database}`"), parameters)

    def raw(self, sql: str) -> Iterator[dict[str, Any]]:
        """Someone's own SQL, untouched."""
        _check_utf8(sql)
        return self._clickhouse.query(sql)


def _check_utf8(*values: object) -> None:
    """BadParameter for an argument with bytes that are no UTF-8, which Python hands over as lone surrogates."""
    for value in values:
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise typer.BadParameter(f"{value!r} is not UTF-8") from None


class Conditions:
    """A WHERE clause that grows, with its parameters beside it: values never become SQL text."""

    def __init__(self) -> None:
        self.clauses: list[str] = []
        self.parameters: dict[str, object] = {}

    def add(self, clause: str, **parameters: object) -> None:
        self.clauses.append(clause)
        self.parameters |= parameters

    def copy(self) -> Conditions:
        """One that grows by itself from here."""
        other = Conditions()
        other.clauses, other.parameters = list(self.clauses), dict(self.parameters)
        return other

    def since(self, text: str | None, column: str) -> None:
        when = parse_since(text)
        if when is not None:
            self.add(f"{column} >= toDateTime64({{since:String}}, 6, 'UTC')", since=when)

    def session(self, text: str) -> None:
        """A run by its id, or by a part of its label."""
        try:
            self.add("session_id = {session:UUID}", session=str(UUID(text)))
        except ValueError:
            self.add("positionCaseInsensitive(session_label, {session:String}) > 0", session=text)

    def where(self) -> str:
        return " AND ".join(f"({clause})" for clause in self.clauses) or "1"
