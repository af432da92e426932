"""What would be masked in the exchanges of a HAR file (HTTP Archive 1.2), by entry and place."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import typer

from ext_proc.cli.output import print_json
from ext_proc.errors import DouaneError
from ext_proc.exchange import Headers

if TYPE_CHECKING:
    from ext_proc.masking import ExchangeMasker
    from ext_proc.pb import journal_pb2

_AROUND = 40
"""Characters shown on either side of a mask in a body."""


@dataclass(frozen=True, slots=True)
class Place:
    """What of an exchange has masks: `text` as it is stored, and `masks` in it."""

    name: str
    field: str  # of a header, empty elsewhere
    text: bytes
    masks: Sequence[journal_pb2.Mask]


def entries(text: str) -> list[dict[str, Any]] | None:
    """The entries when `text` is a HAR file, None when it is something else."""
    if '"entries"' not in text:
        return None
    try:
        found = json.loads(text)["log"]["entries"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def show(found: list[dict[str, Any]], masker: ExchangeMasker, *, as_json: bool) -> None:
    """Prints every mask: a line for the entry, then one for each; or with `as_json` a row for each."""
    from ext_proc.cli.mask import show_marks

    for number, entry in enumerate(found, 1):
        try:
            request = entry["request"]
            places = list(_places(entry, masker))
            url, _ = masker.text("query", str(request["url"]))
            title = f"entry {number}: {request['method']} {url}"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DouaneError("mask.har", f"entry {number} is not as HAR 1.2 says: {error!r}") from None
        if places and not as_json:
            typer.echo(title)
        for place in places:
            for mask in place.masks:
                if as_json:
                    print_json(
                        {"entry": number, "place": place.name, "field": place.field, "start": mask.start,
                         "original_length": mask.original_length, "detector": mask.detector}
                    )  # fmt: skip
                else:
                    label = f"{place.name} {place.field}".strip()
                    show_marks(f"  {label}: {_excerpt(place.text, mask)}", end="\n")


def _excerpt(text: bytes, mask: journal_pb2.Mask) -> str:
    end = mask.start + mask.length
    shown = text[max(0, mask.start - _AROUND) : end + _AROUND].decode("utf-8", "replace")
    before = "..." if mask.start > _AROUND else ""
    return before + " ".join(shown.split()) + ("..." if end + _AROUND < len(text) else "")


def _places(entry: dict[str, Any], masker: ExchangeMasker) -> Iterator[Place]:
    request, response = entry["request"], entry["response"]
    url = urlsplit(request["url"])
    for name, value in (("path", url.path), ("query", url.query)):
        text, masks = masker.text(name, value)
        if masks:
            yield Place(name, "", text.encode("utf-8", "surrogateescape"), masks)
    for side, message, sent in (("req", request, _sent(request)), ("resp", response, _received(response))):
        fields = [(str(h["name"]).lower(), str(h["value"]).encode()) for h in message.get("headers", ())]
        fields = [f for f in fields if not f[0].startswith(":")]
        stored, masks = masker.headers(f"{side}_headers", Headers(fields))
        for index, (name, text_in) in enumerate(stored):
            inside = [m for m in masks if m.index == index]
            if inside:
                yield Place(f"{side}_headers", name, text_in, inside)
        text_of, found = _body(side, sent, fields, masker)
        if found:
            yield Place(f"{side}_body", "", text_of, found)


def _body(
    side: str, sent: bytes, fields: list[tuple[str, bytes]], masker: ExchangeMasker
) -> tuple[bytes, Sequence[journal_pb2.Mask]]:
    """A HAR's bodies are decoded, whatever the content-encoding was."""
    from ext_proc.pb import journal_pb2

    kind = next((value for name, value in fields if name == "content-type"), b"")
    direction = journal_pb2.REQUEST if side == "req" else journal_pb2.RESPONSE
    step = masker.body(direction, kind, b"").feed(sent, last=True)
    return step.record, step.masks


def _sent(request: dict[str, Any]) -> bytes:
    data = request.get("postData") or {}
    if data.get("text"):
        return str(data["text"]).encode("utf-8", "surrogatepass")
    return urlencode([(p["name"], p.get("value", "")) for p in data.get("params", ())]).encode()


def _received(response: dict[str, Any]) -> bytes:
    content = response.get("content") or {}
    text = str(content.get("text") or "")
    if content.get("encoding") == "base64":
        try:
            return base64.b64decode(text)
        except binascii.Error:
            return text.encode()
    return text.encode("utf-8", "surrogatepass")
