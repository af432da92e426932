"""ClickHouse's errors over HTTP: code, name, text and status as a server gives them."""

from __future__ import annotations

import re

_CODE = re.compile(r"Code: (\d+)\. DB::Exception: ")
_NAME = re.compile(r"\(([A-Z][A-Z0-9_]+)\)(?: \(version [^)]*\))?\s*$")
_TRAILER = re.compile(r"\s*\(version [^()]*(?:\([^()]*\))?\)\s*$")
_NESTED = re.compile(r"^(?:Code: \d+\. DB::Exception: )+")
# The guard's own query around the user's: what it says of itself tells a user nothing.
_SCOPE = re.compile(r": In scope SELECT formatQuerySingleLine\(.*\)\. (?=\([A-Z_]+\)$)", re.DOTALL)

# ClickHouse's exceptionCodeToHTTPStatus.
_BAD_REQUEST = {
    6,
    10,
    15,
    25,
    26,
    27,
    36,
    38,
    41,
    44,
    53,
    62,
    72,
    117,
    167,
    168,
    190,
    238,
    321,
    376,
    427,
    441,
    675,
    676,
}
_NOT_FOUND = {46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 153, 336, 511}
_STATUS = {
    **dict.fromkeys(_BAD_REQUEST, 400),
    **dict.fromkeys(_NOT_FOUND, 404),
    194: 401,
    192: 403,
    193: 403,
    497: 403,
    516: 403,
    159: 408,
    381: 411,
    223: 413,
    307: 413,
    48: 501,
    76: 503,
    202: 503,
    209: 503,
}


class QueryError(Exception):
    """An error that reaches a client of the store. `code` and `name` are ClickHouse's."""

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.name = name
        self.message = message

    @property
    def http_status(self) -> int:
        return _STATUS.get(self.code, 500)

    def text(self, version: str) -> str:
        """The body of the answer, in the words of a server."""
        return f"Code: {self.code}. DB::Exception: {self.message}. ({self.name}) (version {version})\n"

    @classmethod
    def from_engine(cls, error: BaseException | str) -> QueryError:
        """What chDB raised, taken apart."""
        text = str(error)
        found = _CODE.search(text)
        if found is None:
            return cls(1001, "STD_EXCEPTION", text.strip().rstrip("."))
        code = int(found[1])
        body = _SCOPE.sub(". ", _TRAILER.sub("", text[found.start() :]))
        name_found = _NAME.search(body)
        name = name_found[1] if name_found else "UNKNOWN_EXCEPTION"
        # An exception passed on inside the engine carries its name and version once for each time.
        trailers = rf"(?:[.\s]*\((?:{name}|version [^()]*(?:\([^()]*\))?)\))*[.\s]*$"
        return cls(code, name, re.sub(trailers, "", _NESTED.sub("", body)))


def denied(message: str) -> QueryError:
    """The guard refuses."""
    return QueryError(497, "ACCESS_DENIED", message)


def bad(message: str) -> QueryError:
    return QueryError(36, "BAD_ARGUMENTS", message)


def unsupported(message: str) -> QueryError:
    return QueryError(48, "NOT_IMPLEMENTED", message)
