"""What a check across fields reports, and what several checks look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ext_proc.config.addresses import is_loopback, split_url
from ext_proc.config.positions import YamlPath


class Problem(NamedTuple):
    path: YamlPath
    reason: str
    message: str
    remedy: str


# Fields that frame a message or name its target; a token or a credential in them would break the request.
RESERVED = frozenset(
    (
        *("host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive"),
        *("proxy-connection", "expect", "content-type", "content-encoding", "x-request-id"),
    )
)


def web_address(path: YamlPath, text: str, *, query: bool) -> Iterator[Problem]:
    parts = split_url(text)
    if parts is None or parts.scheme not in ("http", "https"):
        yield Problem(path, "config.value", f"{text!r} is no URL", "Write https://HOST, with :PORT or /PATH.")
    elif parts.username is not None or parts.fragment or (parts.query and not query):
        yield Problem(
            path, "config.value", "the URL has a user, a query or a fragment", "Write https://HOST, :PORT and /PATH."
        )
    elif parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        yield Problem(path, "config.plain_http", f"{text} is plain HTTP beyond this machine", "Use https://.")
