"""Response bodies as a client gets them that is spared what the ledger is: whole, or piece by piece.

What a client gets in the place of a body is always without content-codings, and its marks bear no fingerprints.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ext_proc.errors import DouaneError
from ext_proc.exchange import Headers, content_codings
from ext_proc.masking import AS_SENT, DECODED, BombError, ExchangeMasker, Step, UndecodableError, codings, for_client
from ext_proc.pb import journal_pb2
from ext_proc.response.json_masks import fitted
from ext_proc.stages.record import RESPONSE

Shown = Literal["as recorded"] | ExchangeMasker | None
"""What of a body the client sees: what the ledger has, what another masker leaves, or what came."""


@dataclass(frozen=True, slots=True)
class Looked:
    """Text that was looked into: the record of it, and what the client gets in its place (None: just what came)."""

    record: bytes
    form: journal_pb2.Part.Form
    masks: Sequence[journal_pb2.Mask]
    instead: bytes | None


def decoded(headers: Headers, wire: bytes, limit: int) -> bytes | None:
    """The body's text; None where it cannot be had. Raises TooLargeError beyond `limit` bytes."""
    try:
        decoder = codings.decoder(content_codings(headers))
        if decoder is None:
            return wire
        text = decoder.feed(wire, limit)
        decoder.finish()
    except codings.CodingError:
        return None
    return text


def look(
    masker: ExchangeMasker,
    headers: Headers,
    wire: bytes,
    text: bytes,
    *,
    shown: Literal["as recorded"] | ExchangeMasker | None,
) -> Looked:
    """The whole body. Credentials are blanked in what the client sees as it came.

    The record is what came as long as nothing is masked in it. Raises DouaneError `response.unmaskable` where JSON
    would be none any more, and whatever `BodyMasker.feed` raises.
    """
    content_type = headers.first("content-type") or b""
    step = masker.body(RESPONSE, content_type, b"", redact=True).feed(text, last=True)
    if not step.masks:
        return Looked(wire, AS_SENT, (), None)
    form = DECODED if content_codings(headers) else AS_SENT
    if shown is None:
        instead = step.release
    elif shown == "as recorded":
        instead = _for_client(text, step)
    else:
        instead = _for_client(text, shown.body(RESPONSE, content_type, b"").feed(text, last=True))
    return Looked(step.record, form, step.masks, None if instead == text else instead)


def _for_client(text: bytes, step: Step) -> bytes:
    instead = for_client(step.record, step.masks)
    if step.masks and _is_json(text) and not _is_json(instead):
        instead = fitted(text, step.masks)
        if not _is_json(instead):
            raise _unmaskable()
    return instead


def _unmaskable() -> DouaneError:
    return DouaneError(
        "response.unmaskable",
        "what must be masked in the response cannot be without breaking its JSON; the request was carried out",
        remedy="Ask for less of it, or let the operator name the field under masking.json.",
        http_status=502,
    )


def _is_json(text: bytes) -> bool:
    if text[:1] not in b'{["' and text.lstrip()[:1] not in (b"{", b"[", b'"'):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


class Pieces:
    """A body that cannot be awaited, masked piece by piece: what is undecided, at most 4 KiB, waits for the next one.

    `framed` bodies (WebSocket, gRPC) tell their lengths within, so secrets become as many asterisks there.
    Raises UndecodableError for a coding that cannot be undone.
    """

    def __init__(self, masker: ExchangeMasker, headers: Headers, *, framed: bool, max_decoded: int) -> None:
        try:
            self._decoder = codings.decoder(content_codings(headers))
        except codings.CodingError as error:
            raise UndecodableError(str(error), request=False) from None
        self._body = masker.body(RESPONSE, headers.first("content-type") or b"", b"")
        self._framed = framed
        self._budget = self._max_decoded = max_decoded
        self._stored = 0

    @property
    def coded(self) -> bool:
        return self._decoder is not None

    def feed(self, chunk: bytes, last: bool) -> Looked:
        """`Looked.instead` is always there. Raises as `look` does, and BombError."""
        step = self._body.feed(self._decoded(chunk, last), last)
        instead = for_client(step.record, step.masks, self._stored, keep_length=self._framed)
        self._stored += len(step.record)
        return Looked(step.record, DECODED if self.coded else AS_SENT, step.masks, instead)

    def _decoded(self, chunk: bytes, last: bool) -> bytes:
        if self._decoder is None:
            return chunk
        try:
            text = self._decoder.feed(chunk, self._budget)
            if last:
                self._decoder.finish()
        except codings.TooLargeError:
            raise BombError(self._max_decoded, request=False) from None
        except codings.CodingError as error:
            raise UndecodableError(str(error), request=False) from None
        self._budget -= len(text)
        return text
