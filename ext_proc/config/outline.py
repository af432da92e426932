"""The outline of an OpenAPI document in YAML: paths, methods, operationIds and servers, by indentation alone.

In block style, what is indented exactly as far as a path, a method or an `operationId` is one: whatever text a value
may hold is indented further than its key. That is read at 20 MB/s; a YAML parser in Python takes a hundred times as
long. What is written in another way (flow style, anchors, merge keys, tabs) is left to the parser.
"""

from __future__ import annotations

from typing import Any

METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})


class _Unusual(Exception):  # noqa: N818 (not an error: the parser will do)
    pass


def outline(text: str) -> dict[str, Any] | None:
    """As much of the document as says which request is which operation; None where only a parser can tell."""
    reader = _Reader()
    try:
        for line in text.splitlines():
            rest = line.lstrip(" ")
            if rest and rest[0] != "#":
                reader.read(len(line) - len(rest), rest)
    except _Unusual:
        return None
    return reader.document


class _Reader:
    def __init__(self) -> None:
        self.document: dict[str, Any] = {"paths": {}}
        self._section = ""
        self._path: dict[str, Any] = {}
        self._operation: dict[str, Any] | None = None
        self._servers: list[dict[str, str]] | None = None
        self._at: list[int] = []  # how far paths, methods and their members are indented, as far as known

    def read(self, indent: int, rest: str) -> None:
        if rest[0] == "\t":
            raise _Unusual
        item = rest == "-" or rest.startswith("- ")
        if indent == 0 and not item:
            self._top(rest)
        elif self._section == "servers":
            self._server(rest)
        elif self._section == "paths":
            self._in_paths(indent, rest, item)

    def _top(self, rest: str) -> None:
        if rest == "---" and not self._section:
            return
        if rest[0] in "%-.{[":
            raise _Unusual
        key, value = _split(rest)
        self._section, self._at = key, []
        self._servers = None
        if key == "openapi":
            self.document[key] = _scalar(value)
        elif key in ("servers", "paths"):
            if value:
                raise _Unusual
            if key == "servers":
                self._servers = self.document[key] = []

    def _in_paths(self, indent: int, rest: str, item: bool) -> None:
        del self._at[sum(indent >= at for at in self._at) :]
        depth = len(self._at)
        if depth and indent == self._at[-1]:
            depth -= 1
        elif depth == 3 or (depth == 2 and self._operation is None):
            self._server(rest)  # inside a member's value
            return
        else:
            self._at.append(indent)
        if item:  # of a list that is indented as its key is
            self._server(rest)
            return
        key, value = _split(rest)
        self._servers = None
        if depth == 0:
            self._path = self.document["paths"][_block(key, value)] = {}
            self._operation = None
        elif depth == 1:
            self._operation = None
            if key in METHODS:
                self._operation = self._path[_block(key, value)] = {}
            elif key == "servers":
                self._servers = self._path[_block(key, value)] = []
        elif self._operation is not None:
            if key == "operationId":
                self._operation[key] = _scalar(value)
            elif key == "servers":
                self._servers = self._operation[_block(key, value)] = []

    def _server(self, rest: str) -> None:
        if self._servers is None:
            return
        key, value = _split(rest.removeprefix("-").lstrip(" "), strict=False)
        if key == "url":
            self._servers.append({"url": _scalar(value)})


def _split(rest: str, *, strict: bool = True) -> tuple[str, str]:
    """A line's key and value, without its comment."""
    if rest[:1] in ("'", '"'):
        key, closed, after = rest[1:].partition(rest[0])
        colon = ":" if closed and after.lstrip(" ").startswith(":") else ""
        value = after.lstrip(" ")[1:]
    else:
        key, colon, value = f"{rest} ".partition(": ")
        if rest[:1] in ("?", "&", "*", "!", "|", ">", "{", "[", "<", "-"):
            colon = ""
    if strict and not colon:
        raise _Unusual
    value = f" {value}".partition(" #")[0].strip()
    if strict and value[:1] in ("&", "*", "!"):
        raise _Unusual
    return key.strip(), value


def _scalar(value: str) -> str:
    """A value on one line."""
    if not value or value[0] in "|>&*![{" or (value[0] in "'\"" and value[-1] != value[0]):
        raise _Unusual
    return value.strip("'\"")


def _block(key: str, value: str) -> str:
    """The key of something that must follow in lines of its own."""
    if value:
        raise _Unusual
    return key
