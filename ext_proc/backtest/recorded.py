"""One recorded exchange, wherever it was recorded: what was sent, by whom, what became of it, and what is not known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ext_proc.exchange import Caller, Exchange, Headers

Decision = Literal["allow", "deny", "hold"]

MARK = "[MASKED:"
"""How a masked span begins (masking.marks). It is one only where the record lists a mask for the place."""


@dataclass(frozen=True, slots=True)
class Masks:
    """Where spans are masked: the path, the query, headers by their index, the body. `grown` is by how many bytes the
    masks made the stored body longer than the sent one."""

    path: bool = False
    query: bool = False
    headers: frozenset[int] = frozenset()
    body: bool = False
    grown: int = 0


NO_MASKS = Masks()


@dataclass(frozen=True, slots=True)
class Content:
    """One direction. `body` is what is stored; `fetch` gets it where it is stored apart. `decoded`: its
    content-coding was undone already. `size` counts stored bytes. `missing` says why it cannot be known."""

    headers: Headers
    body: bytes = b""
    size: int = 0
    decoded: bool = False
    masks: Masks = NO_MASKS
    missing: str = ""
    fetch: Callable[[], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """`decision`, `reason` and `policy` are what was decided then. `caller` is None where nobody is known, as in a HAR
    file without claims; `exchange.received_us` is when."""

    exchange: Exchange
    caller: Caller | None
    workload: Caller | None
    request: Content
    response: Content | None
    status: int
    decision: Decision
    reason: str = ""
    policy: str = ""
    response_decision: str = ""
    session_label: str = ""
    hits: Mapping[str, str] = field(default_factory=dict)
    """Response rules that matched then, with their effect."""
