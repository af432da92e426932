"""Fields that may be sent several times: headers, query parameters, form fields."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote_plus

MAX_FIELDS = 5_000


class FieldsError(ValueError):
    """There are more than anybody sends, or servers could divide them in different ways."""


class Fields(dict[str, list[str]]):
    """Names in lower case, each with all its values in order. A name that was not sent has no values: `[]`."""

    def add(self, name: str, value: str) -> None:
        known = self.get(name.casefold())
        if known is None:
            self[name.casefold()] = [value]
        else:
            known.append(value)

    def __missing__(self, name: object) -> list[str]:
        return self.get(name.casefold(), []) if isinstance(name, str) else []

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name.casefold() if isinstance(name, str) else name)


def header_fields(items: Iterable[tuple[str, bytes]]) -> Fields:
    fields = Fields()
    for name, value in items:
        fields.add(name, value.decode("utf-8", "replace"))
    return fields


def urlencoded(text: str) -> Fields:
    """A query or an urlencoded form (WHATWG URL, 5.1). FieldsError, also where there is a semicolon: older servers
    divide at it, newer ones do not."""
    fields = Fields()
    if text.count("&") >= MAX_FIELDS:
        raise FieldsError(f"it has more than {MAX_FIELDS} fields")
    if ";" in text:
        raise FieldsError("it has a semicolon, which some servers take for &; send it as %3B")
    for piece in text.split("&"):
        if piece:
            name, _, value = piece.partition("=")
            fields.add(unquote_plus(name), unquote_plus(value))
    return fields
