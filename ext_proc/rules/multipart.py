"""multipart/form-data (RFC 7578), read strictly: what servers could read in different ways is refused."""

from __future__ import annotations

import contextlib
import re
from typing import Any

MAX_PARTS = 500
MAX_HEAD = 2048
"""Bytes of a part's head; it is two lines."""
_PARAMETER = re.compile(r""";\s*([A-Za-z0-9*_-]+)\s*=\s*(?:"((?:[^"\\\r\n]|\\.)*)"|([^\s;"]+))""")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_CHARSET = re.compile(r"""charset\*?\s*=\s*["']?([^\s"';,]*)""", re.IGNORECASE)


class MultipartError(ValueError):
    """It is no form, or could be read in several ways."""


def parts(content_type: str, body: bytes) -> list[dict[str, Any]]:
    """Each part as a map: `name`, `filename`, `content_type`, `size` and, where it is UTF-8, `text`."""
    delimiter = b"--" + _boundary(content_type).encode()
    if not body.startswith(delimiter + b"\r\n"):
        raise MultipartError("it does not begin with its boundary")
    if body.count(delimiter) > MAX_PARTS:
        raise MultipartError(f"it has more than {MAX_PARTS} parts")
    pieces = (b"\r\n" + body).split(b"\r\n" + delimiter)
    if pieces[-1] not in (b"--", b"--\r\n"):
        raise MultipartError("it does not end with its boundary")
    return [_part(piece, delimiter) for piece in pieces[1:-1]]


def _boundary(content_type: str) -> str:
    kind, *parameters = [piece.strip() for piece in content_type.split(";")]
    named = [p.partition("=") for p in parameters]
    # boundary*0, boundary*: RFC 2231 spells the same parameter so, and some servers prefer that
    found = [value.strip() for name, _, value in named if name.strip().lower().partition("*")[0] == "boundary"]
    spelled = [name for name, _, _ in named if "*" in name]
    if kind.lower() != "multipart/form-data" or len(found) != 1 or spelled:
        raise MultipartError("its content-type is not multipart/form-data with one boundary")
    value = found[0]
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if not 0 < len(value) <= 70 or not value.isascii() or not value.isprintable() or '"' in value:
        raise MultipartError("its boundary is malformed")
    return value


def _part(piece: bytes, delimiter: bytes) -> dict[str, Any]:
    head, blank, data = piece.partition(b"\r\n\r\n")
    if not head.startswith(b"\r\n") or not blank or len(head) > MAX_HEAD:
        raise MultipartError("a part has no head")
    if delimiter in data:
        raise MultipartError("its boundary is found inside a part")
    headers: dict[str, str] = {}
    for line in head[2:].split(b"\r\n"):
        try:
            name, colon, value = line.decode("utf-8").partition(":")
        except UnicodeDecodeError:
            raise MultipartError("a part's head is not UTF-8") from None
        if not colon or not _NAME.fullmatch(name) or name.lower() in headers or "\r" in value or "\n" in value:
            raise MultipartError("a part's head is malformed")
        headers[name.lower()] = value.strip()
    charset = _CHARSET.search(headers.get("content-type", ""))
    if charset is not None and charset[1].lower() not in ("utf-8", "us-ascii"):
        raise MultipartError("a part's charset is not UTF-8")
    if "content-transfer-encoding" in headers:
        raise MultipartError("a part has a content-transfer-encoding")
    disposition = headers.get("content-disposition", "")
    if not disposition.lower().startswith("form-data;"):
        raise MultipartError("a part is no form-data")
    named: dict[str, str] = {}
    for match in _PARAMETER.finditer(disposition):
        name = match[1].lower()
        if name in named or name.endswith("*"):
            raise MultipartError("a part's name can be read in several ways")
        named[name] = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
    if "name" not in named or _PARAMETER.sub("", disposition[9:]).strip():
        raise MultipartError("a part has no name, or a malformed one")
    part: dict[str, Any] = {
        "name": named["name"],
        "filename": named.get("filename", ""),
        "content_type": headers.get("content-type", "text/plain" if "filename" not in named else ""),
        "size": len(data),
    }
    with contextlib.suppress(UnicodeDecodeError):
        part["text"] = data.decode("utf-8")
    return part
