"""The hash chain over the rows of one gate, as one hub received them.

A chain is named `HUB/WRITER/GATE`; its rows have the numbers `seq` = 1, 2, 3 ... without a gap. Row n has

    record_hash(n) = SHA-256( record_hash(n - 1) || canonical(n) ),   record_hash(0) = 32 zero bytes

canonical(n) is ClickHouse's RowBinary encoding of the columns in `rows.HASHED[record_version]`, in that order. Bodies
are in it by their SHA-256, so that a body may be erased without breaking the chain, and that body alone is then known
to be missing. `record_version` is the first of these columns: each version hashes its own, in an order of its own.

An auditor recomputes it in SQL, as `verify_sql` does: formatRow('RowBinary', ...) gives the canonical bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from ext_proc.hub.attempts import Gate

GENESIS = bytes(32)
"""What stands before the first row."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last row of a chain: its number and its hash."""

    seq: int = 0
    record_hash: bytes = GENESIS


class Chains:
    """The heads of a hub's chains. `changed` names those that moved since `saved`."""

    def __init__(self, hub_id: str, heads: dict[str, Head]) -> None:
        self._hub_id = hub_id
        self._heads = heads
        self._names: dict[Gate, str] = {}
        self._changed: set[str] = set()

    def name(self, gate: Gate) -> str:
        """The chain that a gate's exchanges are entered in."""
        name = self._names.get(gate)
        if name is None:
            name = self._names[gate] = f"{self._hub_id}/{gate.writer}/{gate.name}"
        return name

    def next_seq(self, chain_id: str) -> int:
        head = self._heads.get(chain_id)
        return 1 if head is None else head.seq + 1

    def extend(self, chain_id: str, canonical: bytes) -> bytes:
        """Enter the row whose `seq` was `next_seq`; its record_hash."""
        head = self._heads.get(chain_id) or Head()
        record_hash = sha256(head.record_hash + canonical).digest()
        self._heads[chain_id] = Head(head.seq + 1, record_hash)
        self._changed.add(chain_id)
        return record_hash

    def changed(self) -> dict[str, Head]:
        """The heads that moved since the last call."""
        moved = {chain_id: self._heads[chain_id] for chain_id in self._changed}
        self._changed.clear()
        return moved


def verify_sql(database: str, columns: Mapping[int, tuple[str, ...]]) -> str:
    """SQL that lists what breaks a chain: rows whose hash is wrong, and the rows after a gap. No row: all is well.

    `columns` is `rows.HASHED`: the columns by record_version. The parameter `chain` is the chain_id.
    """
    versions = ", ".join(
        f"record_version = {version}, formatRow('RowBinary', {', '.join(names)})" for version, names in columns.items()
    )
    return f"""
SELECT seq, exchange_id, seq != previous_seq + 1 AS gap, record_hash != computed AS altered
FROM (
  SELECT seq, exchange_id, record_hash,
    lagInFrame(seq, 1, toUInt64(0)) OVER chain AS previous_seq,
    lagInFrame(record_hash, 1, toFixedString('', 32)) OVER chain AS previous_hash,
    SHA256(concat(previous_hash, canonical)) AS computed
  FROM (
    SELECT seq, exchange_id, record_hash, multiIf({versions}, '') AS canonical
    FROM {database}.exchanges WHERE chain_id = {{chain:String}}
  )
  WINDOW chain AS (ORDER BY seq ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
)
WHERE gap OR altered
ORDER BY seq"""  # noqa: S608  (names of our own schema, no input)
