"""How a masked span looks in what is stored: `[MASKED:detector:fingerprint]`."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence

from ext_proc.masking.spans import Span
from ext_proc.pb import journal_pb2

MARK = b"[MASKED:"
_DIGITS = 12


class Marker:
    """Writes masks with fingerprints keyed by `key`: equal secrets look equal, and nobody can try guesses."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def fingerprint(self, secret: bytes) -> str:
        """The first 12 hex digits of HMAC-SHA256 of the secret."""
        return hmac.digest(self._key, secret, "sha256").hex()[:_DIGITS]

    def mask(
        self, text: bytes, spans: Sequence[Span], place: str, index: int = 0, base: int = 0
    ) -> tuple[bytes, list[journal_pb2.Mask]]:
        """`text` with its spans masked, and the masks; `base` is where the result begins in what is stored."""
        if not spans:
            return text, []
        parts: list[bytes] = []
        masks: list[journal_pb2.Mask] = []
        at = 0
        for span in spans:
            parts.append(text[at : span.start])
            base += span.start - at
            fingerprint = self.fingerprint(span.secret)
            mark = b"%s%s:%s]" % (MARK, span.detector.encode(), fingerprint.encode())
            if span.quoted:
                mark = b'"' + mark + b'"'
            parts.append(mark)
            masks.append(
                journal_pb2.Mask(
                    place=place,
                    index=index,
                    start=base,
                    length=len(mark),
                    original_length=span.end - span.start,
                    detector=span.detector,
                    fingerprint=fingerprint,
                )
            )
            base += len(mark)
            at = span.end
        parts.append(text[at:])
        return b"".join(parts), masks


_PLAIN = re.compile(rb"[^A-Za-z0-9_.:-]")


def client_mark(detector: str) -> bytes:
    """The mark that a client sees: plain characters, which mean nothing in JSON."""
    return MARK + _PLAIN.sub(b"_", detector.encode()) + b"]"


def for_client(text: bytes, masks: Sequence[journal_pb2.Mask], base: int = 0, *, keep_length: bool = False) -> bytes:
    """What a client is shown of a masked text whose first byte is at `base` of what is stored: marks without
    fingerprints, by which it could try guesses; or asterisks, as many as the secret had bytes (`keep_length`), where
    the text is framed by its length."""
    if not masks:
        return text
    parts: list[bytes] = []
    at = 0
    for mask in masks:
        start = mask.start - base
        parts.append(text[at:start])
        at = start + mask.length
        if keep_length:
            parts.append(b"*" * mask.original_length)
            continue
        mark = client_mark(mask.detector)
        parts.append(b'"%b"' % mark if text[start : start + 1] == b'"' else mark)
    parts.append(text[at:])
    return b"".join(parts)


def blanked(text: bytes, spans: Sequence[Span]) -> bytes:
    """`text` with the spans to redact overwritten by as many asterisks."""
    if not any(s.redact for s in spans):
        return text
    out = bytearray(text)
    for span in spans:
        if span.redact:
            out[span.start : span.end] = b"*" * (span.end - span.start)
    return bytes(out)
