"""The digest covers all that reaches the upstream, and nothing that a client changes when it tries again."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from ext_proc.approvals import FRAMING, VOLATILE, digest
from ext_proc.exchange import Exchange, Headers

HEADERS = [("host", b"127.0.0.1:15001"), ("content-type", b"application/json"), ("accept", b"a"), ("x-tag", b"1")]
REPLACED = frozenset({"dd-api-key", "authorization"})
EXCHANGE = Exchange(
    exchange_id=UUID(int=1),
    connection="datadog",
    method="DELETE",
    scheme="http",
    authority="127.0.0.1:15001",
    path="/api/v1/dashboard/abc",
    query="force=true",
    headers=Headers(HEADERS),
    received_us=1,
)
GIVEN = {"upstream": "https://api.example", "credentials": ("key",), "session": b"s" * 16, "replaced": REPLACED}


def of(exchange: Exchange = EXCHANGE, body: bytes = b"{}", trailers: Headers | None = None, **changed: object) -> bytes:
    return digest(exchange, body, trailers or Headers(), **(GIVEN | changed))  # type: ignore[arg-type]


def with_headers(*items: tuple[str, bytes]) -> Exchange:
    return replace(EXCHANGE, headers=Headers(items))


@pytest.mark.parametrize(
    "other",
    [
        replace(EXCHANGE, exchange_id=UUID(int=2), received_us=9, scheme="https", authority="elsewhere"),
        with_headers(*HEADERS, *((name, b"anything") for name in sorted(VOLATILE | FRAMING | REPLACED))),
        with_headers(*reversed(HEADERS)),
    ],
    ids=["another try", "what changes from try to try", "another order of names"],
)
def test_a_repetition_has_the_same_digest(other: Exchange) -> None:
    assert of(other) == of()
    assert len(of()) == 32


@pytest.mark.parametrize(
    "other",
    [
        replace(EXCHANGE, method="POST"),
        replace(EXCHANGE, path="/api/v1/dashboard/abd"),
        replace(EXCHANGE, query="force=false"),
        replace(EXCHANGE, path="/api/v1/dashboard/abcforce", query="=true"),
        replace(EXCHANGE, connection="github"),
        with_headers(*HEADERS, ("x-more", b"")),
        with_headers(*HEADERS[:-1]),
        with_headers(*HEADERS[:-1], ("x-tag", b"2")),
        with_headers(*HEADERS, ("x-tag", b"1")),
        with_headers(*HEADERS, ("cookie", b"admin=1")),
        with_headers(("x-ta", b"g1"), *HEADERS[:-1]),
    ],
)
def test_whatever_else_differs_is_another_request(other: Exchange) -> None:
    assert of(other) != of()


@pytest.mark.parametrize(
    "changed",
    [
        {"body": b"{} "},
        {"trailers": Headers([("x", b"y")])},
        {"upstream": "https://api.example2"},
        {"credentials": ("key", "other")},
        {"session": b"t" * 16},
    ],
    ids=str,
)
def test_so_is_another_body_upstream_credential_or_session(changed: dict[str, object]) -> None:
    assert of(**changed) != of()  # type: ignore[arg-type]


def test_values_of_one_name_keep_their_order() -> None:
    assert of(with_headers(("x", b"1"), ("x", b"2"))) != of(with_headers(("x", b"2"), ("x", b"1")))


def test_the_volatile_headers_are_published() -> None:
    page = (Path(__file__).parents[2] / "docs" / "approvals.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"when they send the same request again:\n\n(.*?)\n\n", page, re.DOTALL)
    assert re.findall(r"`([^`]+)`", listed) == sorted(VOLATILE)


def test_a_header_is_not_a_trailer() -> None:
    moved = with_headers(*HEADERS[:-1])
    assert of(moved, trailers=Headers([HEADERS[-1]])) != of()


@pytest.mark.parametrize("name", ["baggage", "proxy-authorization"])
def test_what_reaches_the_upstream_and_may_mean_something_there_counts(name: str) -> None:
    assert of(with_headers(*HEADERS, (name, b"other"))) != of()
