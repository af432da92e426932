"""What is stored of a body: its bytes, their hash, and the text in which they are searched.

A body is stored as it was sent. Where a secret had to be masked inside a content-coding, the worker went on with
decoded text from there: then all of it is stored decoded, so the part that was sent before is decoded here, by the
worker's own decoders. Offsets of masks count in what is stored, either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from ext_proc.hub.attempts import Body, Ref
from ext_proc.masking.codings import CodingError, Decoder, TooLargeError, decoder
from ext_proc.pb import journal_pb2 as pb

INLINE_BYTES = 1 << 20
"""A stored body above this goes to `body_parts`, in parts of this size."""
TEXT_BYTES = 1 << 20
"""As much decoded text is searched."""
_SLICE = 16 << 10
"""Coded bytes decoded at once: what a bomb may blow up before the limit is looked at."""

AS_SENT = pb.Part.AS_SENT
DECODED = pb.Part.DECODED
SEALED = pb.Part.SEALED

Read = Callable[[Ref], bytes]
Spill = Callable[[int, bytes], None]


@dataclass(frozen=True, slots=True)
class Stored:
    """`inline` is empty where the body went to `body_parts`. `form` is a pb.Part.Form. `text` is decoded text, where
    `form` is AS_SENT under a content-coding; otherwise empty. `size` and `sha256` are those of the stored bytes."""

    inline: bytes
    text: bytes
    size: int
    sha256: bytes
    form: int


NOTHING = Stored(b"", b"", 0, sha256(b"").digest(), AS_SENT)


def store(body: Body, coding: bytes, *, read: Read, spill: Spill, max_decoded: int) -> Stored:
    """Turn the pieces of one direction into what is stored.

    `coding` is the content-encoding field. `read` fetches the data of a piece that is not in memory. `spill` takes
    part n of a body too large for a row. `max_decoded` bounds what decoding may give, in bytes.
    """
    pieces = body.pieces
    if not pieces:
        return NOTHING
    forms = {form for form, _ in pieces}
    form = max(forms)
    text = b""
    if coding and form == AS_SENT:
        text = _text(pieces, coding, read, max_decoded)
    if len(pieces) == 1:
        data = pieces[0][1]
        if isinstance(data, bytes) and len(data) <= INLINE_BYTES:
            return Stored(data, text, len(data), sha256(data).digest(), form)
    chunks = _chunks(pieces, read)
    if coding and {AS_SENT, DECODED} <= forms:
        chunks = _decoded(pieces, coding, read, max_decoded)
    digest = sha256()
    size = 0
    buffer = bytearray()
    parts = 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        buffer += chunk
        while len(buffer) > INLINE_BYTES:
            spill(parts, bytes(buffer[:INLINE_BYTES]))
            parts += 1
            del buffer[:INLINE_BYTES]
    if parts:
        spill(parts, bytes(buffer))
        buffer.clear()
    return Stored(bytes(buffer), text, size, digest.digest(), form)


def _chunks(pieces: list[tuple[int, bytes | Ref]], read: Read) -> Iterator[bytes]:
    for _, data in pieces:
        yield data if isinstance(data, bytes) else read(data)


def _decoded(pieces: list[tuple[int, bytes | Ref]], coding: bytes, read: Read, limit: int) -> Iterator[bytes]:
    """The decoded text of a body whose coding was undone from some piece on."""
    undo = _decoder(coding)
    for form, data in pieces:
        chunk = data if isinstance(data, bytes) else read(data)
        if form != AS_SENT:
            yield chunk
        elif undo is not None:
            for text in _decode(undo, chunk, limit):
                limit -= len(text)
                yield text


def _text(pieces: list[tuple[int, bytes | Ref]], coding: bytes, read: Read, limit: int) -> bytes:
    undo = _decoder(coding)
    if undo is None:
        return b""
    text = bytearray()
    for chunk in _chunks(pieces, read):
        for part in _decode(undo, chunk, limit):
            text += part
            limit -= len(part)
            if len(text) >= TEXT_BYTES:
                return bytes(text[:TEXT_BYTES])
    return bytes(text)


def _decoder(coding: bytes) -> Decoder | None:
    try:
        return decoder(coding)
    except CodingError:
        return None  # the worker refused it or sealed it; there is no text to search


def _decode(undo: Decoder, data: bytes, limit: int) -> Iterator[bytes]:
    """What can be decoded. A body that the client or the upstream cut short, or that is no such coding, ends early."""
    for at in range(0, len(data), _SLICE):
        try:
            text = undo.feed(data[at : at + _SLICE], limit)
        except (CodingError, TooLargeError):
            return
        limit -= len(text)
        yield text
