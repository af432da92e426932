"""Masks header fields, paths and queries: texts that are complete and have names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from ext_proc.exchange import Headers
from ext_proc.masking.errors import CredentialEchoError
from ext_proc.masking.marks import Marker, blanked
from ext_proc.masking.names import KEYWORDS, level
from ext_proc.masking.scanner import Scanner
from ext_proc.masking.spans import Span, disjoint
from ext_proc.masking.values import Level, plausible
from ext_proc.pb import journal_pb2

_SCHEMED = frozenset({"authorization", "proxy-authorization"})
_COOKIES = frozenset({"cookie", "set-cookie"})
_KEPT = 512
_KEEP_UNDER = 4096
"""How many fields' findings are kept, and up to which size in bytes."""


class FieldMasker:
    """`configured` headers are masked entirely; authorization and cookies always; the rest by what is in them."""

    __slots__ = ("_configured", "_marked", "_marker", "_names", "_scanner", "_seen", "_texts", "_with_names")

    def __init__(self, scanner: Scanner, marker: Marker, configured: frozenset[str], with_names: bool) -> None:
        self._scanner = scanner
        self._marker = marker
        self._configured = configured
        self._with_names = with_names
        self._seen: dict[tuple[str, bytes], Sequence[Span]] = {}
        self._marked: dict[tuple[str, int, tuple[str, bytes]], tuple[bytes, list[journal_pb2.Mask]]] = {}
        self._names: dict[str, Sequence[Span]] = {}
        self._texts: dict[tuple[str, str], tuple[str, list[journal_pb2.Mask]]] = {}

    def headers(self, place: str, headers: Headers) -> tuple[list[tuple[str, bytes]], list[journal_pb2.Mask]]:
        """The fields as they are stored, and the masks in them."""
        stored: list[tuple[str, bytes]] = list(headers)
        masks: list[journal_pb2.Mask] = []
        for index, field in enumerate(stored):
            name = field[0]
            if self._in_name(name):
                raw, found = self._marker.mask(name.encode("latin-1"), self._in_name(name), f"{place}.name", index)
                name = raw.decode("latin-1")
                stored[index] = (name, field[1])
                masks += found
            if self._spans(field):
                text, found = self._masked(place, index, field)
                stored[index] = (name, text)
                masks += found
        return stored, masks

    def _in_name(self, name: str) -> Sequence[Span]:
        """Known values in a field's name."""
        spans = self._names.get(name)
        if spans is None:
            found, _ = self._scanner.known.find(name.encode("latin-1"), last=True)
            known = (Span(f.start, f.end, f.known.name, f.known.value, 0, f.known.redact) for f in found)
            spans = disjoint(known, 0)
            if len(self._names) >= _KEPT:
                self._names.clear()
            self._names[name] = spans
        return spans

    def _masked(self, place: str, index: int, field: tuple[str, bytes]) -> tuple[bytes, list[journal_pb2.Mask]]:
        masked = self._marked.get((place, index, field))
        if masked is None:
            masked = self._marker.mask(field[1], self._spans(field), place, index)
            if len(field[1]) <= _KEEP_UNDER:
                if len(self._marked) >= _KEPT:
                    self._marked.clear()
                self._marked[place, index, field] = masked
        return masked

    def _spans(self, field: tuple[str, bytes]) -> Sequence[Span]:
        """What is to be masked in one field. A client sends most of its fields again and again, so these are kept."""
        spans = self._seen.get(field)
        if spans is None:
            name, value = field
            spans = self._field(name, value) if value else ()
            if len(value) <= _KEEP_UNDER:
                if len(self._seen) >= _KEPT:
                    self._seen.clear()
                self._seen[field] = spans
        return spans

    def text(self, place: str, value: str) -> tuple[str, list[journal_pb2.Mask]]:
        """A path or a query; offsets count UTF-8 bytes of the result."""
        seen = self._texts.get((place, value))
        if seen is None:
            seen = self._text(place, value)
            if len(value) <= _KEEP_UNDER:
                if len(self._texts) >= _KEPT:
                    self._texts.clear()
                self._texts[place, value] = seen
        return seen

    def _text(self, place: str, value: str) -> tuple[str, list[journal_pb2.Mask]]:
        raw = value.encode("utf-8", "surrogateescape")
        spans = self._scanner.find(raw, last=True).spans
        if b"=" in raw and place == "query":
            spans += self._parameters(raw)
        if b"%" in raw:
            spans += self._decoded(raw)
        masked, masks = self._marker.mask(raw, disjoint(spans, 0), place)
        return masked.decode("utf-8", "surrogateescape"), masks

    def redact(self, headers: Headers) -> list[tuple[int, str, bytes]]:
        """Fields (index, name, new value) in which a credential is blanked for the client. CredentialEchoError where
        it is in a name."""
        changed = []
        for index, (name, value) in enumerate(headers):
            for span in self._in_name(name):
                if span.redact:
                    raise CredentialEchoError(span.detector)
            if not self._spans((name, value)):
                continue
            found, _ = self._scanner.known.find(value, last=True)
            spans = [Span(f.start, f.end, f.known.name, b"", 0, f.known.redact) for f in found]
            exact = self._scanner.known.exact(value)
            if exact is not None:
                spans = [Span(0, len(value), exact.name, b"", 0, exact.redact)]
            new = blanked(value, spans)
            if new != value:
                changed.append((index, name, new))
        return changed

    def _field(self, name: str, value: bytes) -> Sequence[Span]:
        exact = self._scanner.known.exact(value)
        if exact is not None:
            return [Span(0, len(value), exact.name, exact.value, 0, exact.redact)]
        if name in self._configured:
            return [self._whole(0, value, "header")]
        if name in _SCHEMED:
            _, space, rest = value.partition(b" ")
            start = len(value) - len(rest.lstrip(b" ")) if space else 0
            return [self._whole(start, value[start:], name)] if value[start:] else []
        if name in _COOKIES:
            return list(self._cookies(name, value))
        found = _secret_name(name) if self._with_names else Level.NONE
        if found and plausible(value, found):
            return [self._whole(0, value, "named")]
        return self._scanner.whole(value)

    def _whole(self, start: int, value: bytes, detector: str) -> Span:
        """All of `value`; named for the known value that it is, or that is the most of it."""
        known = self._scanner.known.exact(value)
        if known is None:
            found, _ = self._scanner.known.find(value, last=True)
            known = found[0].known if found else None
        if known is not None:
            return Span(start, start + len(value), known.name, known.value, 0, known.redact)
        return Span(start, start + len(value), detector, value, 1)

    def _cookies(self, name: str, value: bytes) -> Iterable[Span]:
        at = 0
        for pair in value.split(b";"):
            key, equals, rest = pair.partition(b"=")
            content = rest.strip(b' "')
            start = at + len(key) + 1 + (rest.find(content) if content else 0)
            if equals and content:
                yield self._whole(start, content, name)
            if name == "set-cookie":
                yield from (s for s in self._scanner.whole(value) if s.start > at + len(pair))
                return
            at += len(pair) + 1

    def _parameters(self, query: bytes) -> Iterable[Span]:
        at = 0
        for pair in query.split(b"&"):
            key, equals, value = pair.partition(b"=")
            start = at + len(key) + 1
            at += len(pair) + 1
            if not equals or not value:
                continue
            secret = unquote_to_bytes(value.replace(b"+", b" "))
            known = self._scanner.known.exact(secret)
            if known is not None:
                yield Span(start, start + len(value), known.name, known.value, 0, known.redact)
            elif self._with_names:
                found = _secret_name(unquote_to_bytes(key).decode("latin-1"))
                if found and plausible(secret, found):
                    yield Span(start, start + len(value), "named", secret, 1)

    def _decoded(self, raw: bytes) -> Iterable[Span]:
        """Segments and parameters whose percent-decoded text holds a secret that the raw text does not show."""
        at = 0
        for segment in raw.replace(b"/", b"&").split(b"&"):
            start = at + segment.find(b"=") + 1
            part = raw[start : at + len(segment)]
            at += len(segment) + 1
            if b"%" not in part:
                continue
            for span in self._scanner.whole(unquote_to_bytes(part)):
                if span.rank > 0:
                    yield Span(start, start + len(part), span.detector, span.secret)
                    break


@lru_cache(maxsize=1024)
def _secret_name(name: str) -> Level:
    """As `names.level`; names without a keyword are no secret's."""
    raw = name.encode("latin-1", "replace")
    lower = raw.lower()
    return level(raw) if any(k in lower for k in KEYWORDS) else Level.NONE
