"""HAR 1.2 files (W3C "HTTP Archive"; what browsers, proxies and test tools write) as recorded exchanges.

A HAR says nothing of decisions, so each entry counts as allowed. Its bodies are without their content-coding. It may
hold anything: it is read strictly, and a fault names its entry.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import NAMESPACE_URL, uuid5

from ext_proc.backtest.recorded import Content, Recorded
from ext_proc.errors import DouaneError
from ext_proc.exchange import Caller, Exchange, Headers

MAX_BYTES = 512 << 20
"""A HAR is one document, so it is read as a whole."""
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHOD = re.compile(r"[A-Za-z][A-Za-z-]{0,31}")
_FORM = "application/x-www-form-urlencoded"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Har:
    """A file's entries for `hosts` (names with ports, lower case), in order of time. DouaneError `har.*`."""

    def __init__(self, path: Path, connection: str, hosts: Sequence[str], caller: Caller | None) -> None:
        self._connection = connection
        self._hosts = frozenset(hosts)
        self._caller = caller
        self._path = path
        self.others: Counter[str] = Counter()
        """Entries for other hosts, which are left out, by host."""
        try:
            self.found = sorted(self._read(_document(path)), key=lambda r: r.exchange.received_us)
        except _MalformedError as error:
            raise DouaneError("har.malformed", f"{path}: {error}", remedy="Write the file anew.") from None

    def __iter__(self) -> Iterator[Recorded]:
        return iter(self.found)

    def _read(self, document: Any) -> Iterator[Recorded]:
        entries = _of(_of(document, "log", dict, ""), "entries", list, "log")
        for n, entry in enumerate(entries):
            found = self._entry(entry, n, f"entry {n + 1}")
            if found is not None:
                yield found

    def _entry(self, entry: Any, n: int, place: str) -> Recorded | None:
        request = _of(entry, "request", dict, place)
        url = _of(request, "url", str, place)
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise _MalformedError(f"{place}: its url is none") from None
        if parts.scheme not in ("http", "https"):
            self.others[f"{parts.scheme[:20]}:"] += 1
            return None
        authority = host if port in (None, 443 if parts.scheme == "https" else 80) else f"{host}:{port}"
        if not self._hosts & {authority, host}:
            self.others[authority] += 1
            return None
        method = _of(request, "method", str, place)
        if not _METHOD.fullmatch(method) or not url.isascii() or not url.isprintable():
            raise _MalformedError(f"{place}: its method or url is none")
        at = _time(_of(entry, "startedDateTime", str, place), place)
        response = _of(entry, "response", dict, place)
        status = _of(response, "status", int, place)
        headers = Headers([("host", authority.encode()), *(h for h in _headers(request, place) if h[0] != "host")])
        answered = Headers(_headers(response, place))
        label = self._caller.session_label if self._caller is not None else self._path.name
        return Recorded(
            Exchange(
                exchange_id=uuid5(NAMESPACE_URL, f"{self._path.name}#{n}"),
                connection=self._connection,
                method=method,
                scheme=parts.scheme,
                authority=authority,
                path=parts.path or "/",
                query=parts.query,
                headers=headers,
                received_us=at,
            ),
            self._caller,
            None,
            _sent(request, headers, place),
            _answer(response, answered, place),
            status,
            "allow",
            session_label=f"{label}, {place}",
        )


class _MalformedError(ValueError):
    """What is wrong, and in which entry; nothing of what the file holds."""


def _document(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DouaneError("har.unreadable", f"{path}: {(error.strerror or str(error)).lower()}") from None
    if len(raw) > MAX_BYTES:
        raise DouaneError(
            "har.too_large", f"{path} is larger than {MAX_BYTES >> 20} MiB", remedy="Export a part of it."
        )
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except RecursionError:
        raise DouaneError("har.malformed", f"{path}: it is nested too deep") from None
    except ValueError as error:
        said = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "it is not UTF-8"
        raise DouaneError(
            "har.malformed", f"{path}: this is no JSON ({said})", remedy="Is it a HAR file? They begin with a `log`."
        ) from None


def _of(value: Any, name: str, kind: type, place: str) -> Any:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise _MalformedError(f"{place or 'the file'}: there is no {name}, or it is no {_KINDS[kind]}")
    return found


_KINDS: dict[type, str] = {dict: "object", list: "list", str: "text", int: "number"}


def _time(text: str, place: str) -> int:
    """Microseconds since the epoch; a time without a zone is UTC."""
    try:
        when = datetime.fromisoformat(text)
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _MalformedError(f"{place}: its startedDateTime is no time") from None
    return max(int((when - _EPOCH).total_seconds() * 1e6), 0)


def _headers(message: dict[str, Any], place: str) -> list[tuple[str, bytes]]:
    found = []
    for header in _of(message, "headers", list, place):
        name, value = _of(header, "name", str, place).lower(), _of(header, "value", str, place)
        if name.startswith(":"):  # HTTP/2's pseudo-headers, which browsers list among the others
            continue
        if not _NAME.fullmatch(name):
            raise _MalformedError(f"{place}: it has a header whose name is none")
        found.append((name, value.encode("utf-8", "replace")))
    return found


def _sent(request: dict[str, Any], headers: Headers, place: str) -> Content:
    posted = request.get("postData")
    size = request.get("bodySize")
    if posted is None:
        missing = "the file does not have it" if isinstance(size, int) and size > 0 else ""
        return Content(headers, missing=missing, decoded=True)
    if not isinstance(posted, dict):
        raise _MalformedError(f"{place}: its postData is no object")
    if isinstance(posted.get("text"), str) and posted["text"]:
        return _content(headers, _body(posted, place))
    params = posted.get("params")
    kind = str(posted.get("mimeType", "")).partition(";")[0].strip().lower()
    if not params:
        return _content(headers, b"")
    if kind != _FORM or not isinstance(params, list):
        return Content(headers, missing="the file has its parts, not the body", decoded=True)
    pairs = [(_of(p, "name", str, place), str(p.get("value", ""))) for p in params]
    return _content(headers, urlencode(pairs, errors="replace").encode())


def _answer(response: dict[str, Any], headers: Headers, place: str) -> Content:
    content = response.get("content")
    if not isinstance(content, dict) or not isinstance(content.get("text"), str):
        size = content.get("size") if isinstance(content, dict) else 0
        missing = "the file does not have it" if isinstance(size, int) and size > 0 else ""
        return Content(headers, missing=missing, decoded=True)
    return _content(headers, _body(content, place))


def _body(holder: dict[str, Any], place: str) -> bytes:
    text: str = holder["text"]
    if holder.get("encoding") != "base64":
        return text.encode("utf-8", "replace")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _MalformedError(f"{place}: it has a body that is no base64") from None


def _content(headers: Headers, body: bytes) -> Content:
    return Content(headers, body, len(body), decoded=True)
