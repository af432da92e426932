"""One HTTP exchange as the pipeline sees it: multi-valued headers, phases as types, no I/O.

The types enforce the order of the stages: `Exchange -> Identified -> Authorized -> Approved`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NewType
from uuid import UUID

from ext_proc.decision import NO_OBLIGATIONS, Hold, Obligations, RuleHit


def now_us() -> int:
    """Microseconds since the Unix epoch: the unit of every time in a record."""
    return time.time_ns() // 1000


SignedClaims = NewType("SignedClaims", Mapping[str, Any])
"""Claims whose signature, issuer, audience and times were verified. Only `oidc` makes one."""


class Headers:
    """Header fields or trailers in order of arrival, repeats kept. Names are lower case; values are raw bytes."""

    __slots__ = ("items",)

    def __init__(self, items: Iterable[tuple[str, bytes]] = ()) -> None:
        self.items: list[tuple[str, bytes]] = list(items)

    def all(self, name: str) -> list[bytes]:
        """Every value of `name` (lower case), in order."""
        return [v for n, v in self.items if n == name]

    def first(self, name: str) -> bytes | None:
        for n, v in self.items:
            if n == name:
                return v
        return None

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def is_interactive(headers: Headers, *, upgraded: bool = False) -> bool:
    """True where the other side may wait for each piece: upgraded streams, gRPC, server-sent events."""
    content_type = headers.first("content-type") or b""
    return upgraded or content_type.startswith((b"application/grpc", b"text/event-stream"))


def content_codings(headers: Headers) -> bytes:
    """The body's content-codings. gRPC compresses each message by itself, so that no decoder of ours sees into it."""
    codings = headers.all("content-encoding")
    if (headers.first("content-type") or b"").startswith(b"application/grpc"):
        codings += [b"grpc-" + coding for coding in headers.all("grpc-encoding") if coding != b"identity"]
    return b",".join(codings)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request as it arrived. `path` excludes the query; `query` excludes the `?`. `headers` begins with `host`."""

    exchange_id: UUID
    connection: str
    method: str
    scheme: str
    authority: str
    path: str
    query: str
    headers: Headers
    received_us: int
    protocol: str = ""
    source_address: str = ""
    sni: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """Who calls, proven by a token or by a session key got for one. One object as long as the token is remembered.

    `issuer` is the name in douane.yaml, `claims["iss"]` the URL. `session_label` is what people call the run
    (`acme/infra run 123 attempt 1`); `session_id` is derived from the issuer and the run, so it is the same everywhere.
    """

    issuer: str
    subject: str
    claims: SignedClaims
    session_id: UUID
    session_label: str


@dataclass(frozen=True, slots=True)
class Identified:
    """An exchange whose caller is proven. `token` is the caller's OIDC token, for a credential that is exchanged for
    it; None where a session key or the workload's identity was proof enough."""

    exchange: Exchange
    caller: Caller
    workload: Caller | None = None
    token: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Authorized:
    """An identified exchange that a grant's scope allows and no policy denies. `grant` and `scope` are names in
    douane.yaml; a `hold` must be lifted before it may pass."""

    identified: Identified
    grant: str
    scope: str
    operation: str = ""
    hold: Hold | None = None
    obligations: Obligations = NO_OBLIGATIONS
    hits: tuple[RuleHit, ...] = ()


@dataclass(frozen=True, slots=True)
class Approved:
    """An authorized exchange that nothing holds any more. `approval_id` is empty where nothing held it."""

    authorized: Authorized
    approval_id: str = ""
    approved_by: tuple[str, ...] = ()
