"""The masking of one configuration, and of one exchange under it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from ext_proc.config.models import Masking
from ext_proc.exchange import Headers
from ext_proc.masking import codings
from ext_proc.masking.body import BodyMasker
from ext_proc.masking.catalog import DEFAULT
from ext_proc.masking.errors import UndecodableError
from ext_proc.masking.fields import FieldMasker
from ext_proc.masking.json_paths import JsonValues, Path, parse
from ext_proc.masking.known import Known, compiled
from ext_proc.masking.marks import Marker
from ext_proc.masking.scanner import Scanner
from ext_proc.masking.seal import seal
from ext_proc.masking.search import Detectors
from ext_proc.masking.spans import Span
from ext_proc.masking.stream import TextStream
from ext_proc.masking.websocket import Unmasker
from ext_proc.pb import journal_pb2


@dataclass(frozen=True, slots=True)
class _Rules:
    detectors: Detectors | None
    marker: Marker
    headers: frozenset[str]
    paths: tuple[Path, ...]
    max_decoded: int
    seal_key: bytes | None


@lru_cache(maxsize=1)
def _default_detectors() -> Detectors:
    """Compiled once a process (0.2 s): no configuration changes them, so a reload does not stop the worker."""
    return Detectors(DEFAULT)


class Masker:
    """Compiled once per configuration; one thread at a time. Raises ConfigError for a JSON path it cannot take.

    `fingerprint_key` keys the fingerprints, at least 16 bytes; `max_decoded` is the bomb limit in bytes; `seal_key`
    (32 bytes) is needed where a connection has `undecodable: seal`.
    """

    def __init__(
        self, masking: Masking, fingerprint_key: bytes, max_decoded: int, seal_key: bytes | None = None
    ) -> None:
        self._rules = _Rules(
            detectors=_default_detectors() if masking.detectors == "default" else None,
            marker=Marker(fingerprint_key),
            headers=frozenset(masking.headers),
            paths=tuple(parse(p) for p in masking.json_paths),
            max_decoded=max_decoded,
            seal_key=seal_key,
        )

    def also(self, headers: Iterable[str], json_paths: Iterable[str]) -> Masker:
        """The same rules with more headers and JSON paths."""
        masker = copy(self)
        masker._rules = replace(
            self._rules,
            headers=self._rules.headers.union(headers),
            paths=(*self._rules.paths, *(parse(p) for p in json_paths)),
        )
        return masker

    def only(self, json_paths: Iterable[str]) -> Masker:
        """None of the rules but these JSON paths."""
        masker = copy(self)
        paths = tuple(parse(p) for p in json_paths)
        masker._rules = replace(self._rules, detectors=None, headers=frozenset(), paths=paths)
        return masker

    def exchange(self, known: Iterable[Known] = ()) -> ExchangeMasker:
        """The masking of one exchange, whose token, credentials and placeholders are `known`."""
        return ExchangeMasker(self._rules, tuple(known))

    def fingerprint(self, secret: bytes) -> str:
        """What a mask of `secret` shows, to look for it in the ledger."""
        return self._rules.marker.fingerprint(secret)


class ExchangeMasker:
    """Masks the parts of one exchange."""

    __slots__ = ("_fields", "_known", "_rules", "_scanner")

    def __init__(self, rules: _Rules, known: tuple[Known, ...]) -> None:
        self._rules = rules
        self._known = compiled(known)
        self._scanner = Scanner(rules.detectors, self._known)
        self._fields = FieldMasker(self._scanner, rules.marker, rules.headers, rules.detectors is not None)

    @property
    def scanner(self) -> Scanner:
        return self._scanner

    def text(self, place: str, value: str) -> tuple[str, list[journal_pb2.Mask]]:
        """`path` or `query` as stored, and its masks (offsets in UTF-8 bytes)."""
        return self._fields.text(place, value)

    def fingerprint(self, secret: bytes) -> str:
        """As `Masker.fingerprint`."""
        return self._rules.marker.fingerprint(secret)

    def headers(self, place: str, headers: Headers) -> tuple[list[tuple[str, bytes]], list[journal_pb2.Mask]]:
        """Fields or trailers as stored, and their masks; `place` is req_headers, resp_trailers and so on."""
        return self._fields.headers(place, headers)

    def redact_headers(self, headers: Headers) -> list[tuple[int, str, bytes]]:
        """Fields (index, name, new value) in which the client must not see what the upstream sent: a credential."""
        return self._fields.redact(headers) if self._known.redacts else []

    def body(
        self,
        direction: journal_pb2.Direction,
        content_type: bytes,
        content_encoding: bytes,
        *,
        redact: bool = False,
        interactive: bool = False,
        undecodable: str = "refuse",
        websocket: bool = False,
    ) -> BodyMasker:
        """The masker of one body. `interactive` releases chunks at once (SSE, gRPC, upgrades); `websocket` says that
        the bytes are WebSocket frames, of which a client's are recorded unmasked, in form DECODED.

        Raises UndecodableError for an unknown coding, unless `undecodable` is `seal`.
        """
        request = direction == journal_pb2.REQUEST
        seal_with = None
        if undecodable == "seal" and self._rules.seal_key is not None:
            seal_with = partial(seal, self._rules.seal_key)
        decoder: codings.Decoder | None = None
        sealed = False
        frames = websocket and request  # a server's frames are not masked
        try:
            decoder = Unmasker() if frames else codings.decoder(content_encoding)
        except codings.CodingError as error:
            if seal_with is None:
                raise UndecodableError(str(error), request=request) from None
            sealed = True
        values = None
        if self._rules.paths:
            kind = content_type.partition(b";")[0].strip().lower()
            values = JsonValues(self._rules.paths, strict=b"json" in kind, request=request)
        return BodyMasker(
            TextStream(self._scanner, values),
            self._rules.marker,
            self._known,
            request=request,
            decoder=decoder,
            max_decoded=sys.maxsize if frames else self._rules.max_decoded,
            redact=redact,
            interactive=interactive,
            seal=seal_with,
            sealed=sealed,
            decoded=frames,
        )

    def whole_text(self, text: str) -> tuple[str, list[tuple[int, int, str]]]:
        """A complete text masked, and the spans (start, end, detector) in characters of the original."""
        raw = text.encode("utf-8", "surrogatepass")
        values = JsonValues(self._rules.paths, strict=False, request=False) if self._rules.paths else None
        spans = [_of_characters(raw, span) for span in TextStream(self._scanner, values).feed(raw, last=True).spans]
        masked, _ = self._rules.marker.mask(raw, spans, "text")
        places: list[tuple[int, int, str]] = []
        at = character = 0
        for span in spans:
            character += _characters(raw[at : span.start])
            length = _characters(raw[span.start : span.end])
            places.append((character, character + length, span.detector))
            character += length
            at = span.end
        return masked.decode("utf-8", "surrogatepass"), places


_CONTINUED = bytes(range(0x80, 0xC0))


def _characters(raw: bytes) -> int:
    """How many characters whole UTF-8 spells; halves of surrogate pairs, as Python has them, count as one each."""
    return len(raw.translate(None, _CONTINUED))


def _of_characters(raw: bytes, span: Span) -> Span:
    """The span, with the rest of a character that it divides."""
    start, end = span.start, span.end
    while raw[start] in _CONTINUED:
        start -= 1
    while end < len(raw) and raw[end] in _CONTINUED:
        end += 1
    return replace(span, start=start, end=end)


def mask_text(text: str, masker: Masker) -> tuple[str, list[tuple[int, int, str]]]:
    """What `douane mask` shows: the masked text, and the spans as (start, end, detector) in characters."""
    return masker.exchange().whole_text(text)
