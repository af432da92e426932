"""How request paths are compared: as sent for what is allowed, by what they could mean for what is denied.

Envoy has resolved dot segments and merged slashes; this holds without it, too. A *plain* path can be read in one way
only. Not plain, and so in no scope, is a path in which some server could find another one: an encoded slash,
backslash or control character (also encoded twice), or a segment that is `.` or `..` after decoding, without its
`;parameters` (`/a/..;/b` is `/b` to Tomcat) or blanks. See RFC 3986, sections 3.3 and 6.2.2.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

_SIMPLE = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_.~$'()*+,=:@!&-]*)+")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")
_DECODINGS = 4
_ASCII = bytes(range(128))


def is_plain(path: str) -> bool:
    """Whether every server finds the same path in `path` (which begins with a slash, without a query)."""
    if _SIMPLE.fullmatch(path):
        return True
    decoded = _decoded(path)
    if decoded is None or not path.startswith("/") or _UNSAFE.search(decoded):
        return False
    return decoded.count("/") == path.count("/") and not any(
        segment.partition(";")[0].strip() in (".", "..") for segment in decoded.split("/")
    )


def folded(path: str) -> list[str]:
    """The segments of a plain path as a lenient server may read them, so that look-alikes are equal.

    Percent-encoding, letter case, `;parameters`, empty segments and a final slash make no difference.
    """
    path = encoded(path)
    segments = (_decoded(path) or path).casefold().split("/")
    return [name for segment in segments if (name := segment.partition(";")[0])]


def encoded(path: str) -> str:
    """What is not ASCII percent-encoded as UTF-8, as every client sends it."""
    return path if path.isascii() else quote(path, safe=_ASCII, errors="surrogateescape")


def _decoded(path: str) -> str | None:
    """`path` without any percent-encoding, one character a byte; None where it is encoded over and over."""
    for _ in range(_DECODINGS):
        decoded = unquote(path, encoding="latin-1")
        if decoded == path:
            return path
        path = decoded
    return None
