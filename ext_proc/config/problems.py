"""What a check across fields finds, and what several checks look for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ext_proc.config.addresses import is_loopback, split_url
from ext_proc.config.json_path import JsonPathError
from ext_proc.config.json_path import parse as parse_json_path
from ext_proc.config.positions import YamlPath

_REQUEST = re.compile(r"(\*|[A-Z]+(?:-[A-Z]+)*) (/\S*)")
_SEGMENT = re.compile(r"[^{}*]*|\{[A-Za-z_][A-Za-z0-9_]*\}|\*\*")


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


def json_path(path: YamlPath, text: str) -> Iterator[Problem]:
    try:
        parse_json_path(text)
    except JsonPathError as error:
        yield Problem(
            path,
            "config.json_path",
            f"{text!r} is no JSON path: {error}",
            "Write $.name, $..name, [*] and [0], such as $.items[*].key.",
        )


def request(path: YamlPath, text: str) -> Iterator[Problem]:
    match = _REQUEST.fullmatch(text)
    if not match:
        yield Problem(path, "config.scope", f"{text!r} is not `METHOD PATH`", "Write it as in 'GET /api/v1/{id}'.")
        return
    segments = match[2].split("/")[1:]
    if "?" in match[2] or "#" in match[2]:
        yield Problem(path, "config.scope", f"{text!r} has a query", "Scopes look at the path alone.")
        return
    for n, segment in enumerate(segments):
        if not _SEGMENT.fullmatch(segment) or (segment == "**" and n != len(segments) - 1):
            yield Problem(
                path,
                "config.scope",
                f"{segment!r} in {text!r} is not understood",
                "A segment is text or {name}; ** stands at the end for the rest.",
            )
            return


def unknown(path: YamlPath, kind: str, name: str, known: Iterable[str]) -> Problem:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    listed = f"Known: {', '.join(names)}." if names else f"There is no {kind} yet."
    remedy = f"Did you mean `{near[0]}`?" if near else listed
    return Problem(path, f"config.unknown_{kind}", f"there is no {kind} {name!r}", remedy)


def twice(path: YamlPath, name: str) -> Problem:
    return Problem(path, "config.duplicate_name", f"{name!r} is used twice", "Give each its own name.")
