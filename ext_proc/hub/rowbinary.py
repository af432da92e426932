"""ClickHouse's RowBinary: columns in order, integers little endian, strings behind their length as LEB128
(https://clickhouse.com/docs/interfaces/formats/RowBinary).

An encoder of our own, because a batch must be the same bytes whenever it is sent, and because the encoded columns are
what the hash chain covers.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from functools import lru_cache

LAST_US = 4_102_444_800_000_000
"""2100-01-01: a gate's clock may be wrong, but no row may be one that ClickHouse refuses."""

SHORT = [bytes([n]) for n in range(128)]
"""Sizes below 128, and numbers of one byte."""
EMPTY = b"\0"
"""An empty string or array."""

uint64 = struct.Struct("<Q").pack
uint32 = struct.Struct("<I").pack
_int64 = struct.Struct("<q").pack


def size(n: int) -> bytes:
    """LEB128."""
    if n < 128:
        return SHORT[n]
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def data(value: bytes) -> bytes:
    """A string of bytes."""
    n = len(value)
    return SHORT[n] + value if n < 128 else size(n) + value


def text(value: str) -> bytes:
    return data(value.encode()) if value else EMPTY


@lru_cache(4096)
def word(value: str) -> bytes:
    """A text that recurs from row to row."""
    return text(value)


def texts(values: Collection[str]) -> bytes:
    """An array of strings."""
    return size(len(values)) + b"".join(map(word, values))


def uuid(value: bytes) -> bytes:
    """Two little-endian halves, the high one first."""
    value = value if len(value) == 16 else value[:16].rjust(16, b"\0")
    return value[7::-1] + value[:7:-1]


def time(at_us: int) -> bytes:
    """DateTime64(6)."""
    return _int64(min(max(at_us, 0), LAST_US))
