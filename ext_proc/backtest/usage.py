"""What the ledger says was allowed, added up: who used which method and path, how often, and when last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ext_proc.backtest.callers import CLAIMS

Query = Callable[[str, Mapping[str, object]], Iterator[dict[str, Any]]]
"""SQL and its parameters -> rows as they come. `{db}` in the SQL is the ledger's database."""

OWN_PATHS = "/.douane/%"
"""What Douane answers itself on a connection's listener is no request to the upstream."""


@dataclass(frozen=True, slots=True)
class Used:
    """`count` equal requests. `claims` are JSON texts of `callers.CLAIMS`; none unless they were asked for."""

    connection: str
    method: str
    path: str
    grant: str
    count: int
    last: str
    issuer: str = ""
    claims: tuple[str, ...] = ()


def usage(query: Query, where: str, parameters: Mapping[str, object], *, callers: bool) -> Iterator[Used]:
    """Rows in no order. `where` is SQL over `exchanges`."""
    identity = ""
    if callers:
        raw = ", ".join(f"JSONExtractRaw(who, {', '.join(map(_text, path))})" for path in CLAIMS)
        identity = (
            ", if(issuer = '', workload_issuer, issuer) AS by, if(issuer = '', workload_claims, claims) AS who, "
            f"[{raw}] AS facts"
        )
    columns = "connection, method, path, policy" + (", by, facts" if callers else "")
    sql = (
        f"SELECT {columns}, count() AS n, formatDateTime(max(ts), '%Y-%m-%d %H:%i', 'UTC') AS last "  # noqa: S608
        f"FROM (SELECT connection, method, path, policy, ts{identity} FROM {{db}}.exchanges "
        f"WHERE decision = 'allow' AND path NOT LIKE {_text(OWN_PATHS)} AND ({where})) GROUP BY {columns}"
    )
    for row in query(sql, parameters):
        yield Used(
            row["connection"],
            row["method"],
            row["path"],
            row["policy"],
            int(row["n"]),
            row["last"],
            row.get("by", ""),
            tuple(row.get("facts", ())),
        )


def _text(constant: str) -> str:
    """A constant of this code as SQL."""
    assert "'" not in constant
    assert "\\" not in constant
    return f"'{constant}'"
