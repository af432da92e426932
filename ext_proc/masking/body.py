"""One body, chunk by chunk: what is recorded, in which form, and what may be released.

Identity bodies are recorded as their masked text. An encoded body is recorded as sent while nothing in it needs a
mask: a wire chunk waits until the text it decodes to is decided. From the first mask on the record is decoded text,
which continues exactly where the chunks recorded before end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ext_proc.masking.codings import CodingError, Decoder, TooLargeError
from ext_proc.masking.errors import BombError, CredentialEchoError, TooManySecretsError, UndecodableError
from ext_proc.masking.known import KnownSet
from ext_proc.masking.marks import Marker, blanked
from ext_proc.masking.spans import CONTEXT, Span
from ext_proc.masking.stream import Decided, TextStream
from ext_proc.pb import journal_pb2

AS_SENT: journal_pb2.Part.Form = journal_pb2.Part.AS_SENT
DECODED: journal_pb2.Part.Form = journal_pb2.Part.DECODED
SEALED: journal_pb2.Part.Form = journal_pb2.Part.SEALED


_SLICE = 2 << 10
"""Coded bytes decoded at once, so that a bomb is noticed before it is unpacked: at most 2 MB of text."""
MOST_MASKS = 50_000
"""In one body, so that 20 KB of gzip cannot hold masks for a worker's next minute."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one chunk leads to: write `record` (if any) as a Part of `form` with `masks`, then release `release`."""

    record: bytes
    form: journal_pb2.Part.Form
    release: bytes
    masks: Sequence[journal_pb2.Mask] = field(default_factory=list)


class BodyMasker:
    """Feed every chunk in order, the final one (it may be empty) with `last`.

    `release` never runs ahead of `record`, except when `interactive`: then chunks pass at once and only the record of
    an undecided tail waits. With `redact` a credential that the upstream echoes is blanked in `release`.
    """

    def __init__(
        self,
        stream: TextStream,
        marker: Marker,
        known: KnownSet,
        *,
        request: bool,
        decoder: Decoder | None,
        max_decoded: int,
        redact: bool,
        interactive: bool,
        seal: Callable[[bytes], bytes] | None,
        sealed: bool = False,
        decoded: bool = False,
    ) -> None:
        self._stream = stream
        self._marker = marker
        self._known = known
        self._request = request
        self._place = "req_body" if request else "resp_body"
        self._decoder = decoder
        self._budget = self._max_decoded = max_decoded
        self._redact = redact and known.redacts
        self._interactive = interactive
        self._seal = seal
        self._sealed = sealed
        self._stored = 0  # how long the body is by now, as the ledger stores it
        self._decoded_form = decoded
        self._arrived = 0  # decoded bytes so far
        self._masks = 0
        self._decided = 0  # of these, decided
        self._recorded = 0  # of these, within chunks that were recorded as sent
        self._clean = b""  # decided text after that
        self._wire: deque[tuple[bytes, int]] = deque()  # chunks with undecided text, and where their text ends
        self._client: list[bytes] = []  # interactive: what the client waits for, perhaps a credential's start
        self._client_context = b""

    def feed(self, chunk: bytes, last: bool) -> Step:
        """Raises UndecodableError, BombError, TooManySecretsError and CredentialEchoError; the body then ends."""
        if self._sealed:
            return self._feed_sealed(chunk)
        if self._decoder is None:
            return self._feed_plain(chunk, last)
        return self._feed_encoded(self._decoder, chunk, last)

    def release_now(self) -> bytes:
        """What waits only because a secret might go on in the next chunk, which does not come. From here on the body is
        `interactive`: its undecided end waits in the record alone."""
        if self._interactive or self._sealed:
            return b""
        self._interactive = True
        if self._decoder is not None:
            self._client = [chunk for chunk, _ in self._wire]
            return self._encoded_at_once(b"", last=False)
        if not self._redact:
            return self._stream.pending
        self._client_context, self._client = self._stream.context, [self._stream.pending]
        return self._at_once(b"", last=False)

    def _feed_plain(self, chunk: bytes, last: bool) -> Step:
        decided = self._stream.feed(chunk, last)
        self._count(decided)
        record, masks = self._marker.mask(decided.text, decided.spans, self._place, base=self._stored)
        self._stored += len(record)
        if self._interactive:
            release = self._at_once(chunk, last) if self._redact else chunk
        else:
            release = blanked(decided.text, decided.spans) if self._redact else decided.text
        return Step(record, AS_SENT, release, masks)

    def _at_once(self, chunk: bytes, last: bool) -> bytes:
        """The chunk for the client, credentials blanked; only the likely start of a credential waits."""
        start = len(self._client_context)
        buffer = b"".join((self._client_context, *self._client, chunk))
        found, _ = self._known.find(buffer, last=True)
        cut = len(buffer) if last else max(start, self._known.held_for_redaction(buffer))
        spans = [Span(f.start, f.end, f.known.name, b"", 0, f.known.redact) for f in found if f.end <= cut]
        release = blanked(buffer, spans)[start:cut]
        self._client_context, self._client = buffer[max(0, cut - CONTEXT) : cut], [buffer[cut:]]
        return release

    def _feed_encoded(self, decoder: Decoder, chunk: bytes, last: bool) -> Step:
        texts: list[bytes] = []
        spans: list[Span] = []
        offset = 0
        try:
            for at in range(0, len(chunk) or 1, _SLICE):
                final = last and at + _SLICE >= len(chunk)
                text = decoder.feed(chunk[at : at + _SLICE], self._budget)
                if final:
                    decoder.finish()
                self._budget -= len(text)
                self._arrived += len(text)
                decided = self._stream.feed(text, final)
                self._count(decided)
                self._decided += len(decided.text)
                spans += [replace(s, start=s.start + offset, end=s.end + offset) for s in decided.spans]
                texts.append(decided.text)
                offset += len(decided.text)
        except TooLargeError:
            raise BombError(self._max_decoded, request=self._request) from None
        except CodingError as error:
            if self._seal is None:
                raise UndecodableError(str(error), request=self._request) from None
            return self._begin_sealing(self._seal, chunk)
        if chunk:
            self._wire.append((chunk, self._arrived))
        release = wire = self._decided_chunks()
        if self._redact:
            self._refuse_echo(spans)
        if self._interactive:
            release = self._encoded_at_once(chunk, last)
        return self._record_encoded(Decided(b"".join(texts), spans), wire, release)

    def _record_encoded(self, decided: Decided, wire: bytes, release: bytes) -> Step:
        if not self._decoded_form and not decided.spans:
            self._clean = (self._clean + decided.text)[-(self._decided - self._recorded) or self._decided :]
            self._stored += len(wire)
            return Step(wire, AS_SENT, release)
        text, spans = decided.text, decided.spans
        if not self._decoded_form:
            self._decoded_form = True
            spans = [replace(s, start=s.start + len(self._clean), end=s.end + len(self._clean)) for s in spans]
            text, self._clean = self._clean + text, b""
            self._stored = self._decided - len(text)  # the ledger decodes what was sent before, so that is counted
        record, masks = self._marker.mask(text, spans, self._place, base=self._stored)
        self._stored += len(record)
        return Step(record, DECODED, release, masks)

    def _decided_chunks(self) -> bytes:
        """Takes the wire chunks whose text is decided."""
        chunks: list[bytes] = []
        while self._wire and self._wire[0][1] <= self._decided:
            chunk, end = self._wire.popleft()
            chunks.append(chunk)
            if not self._decoded_form:
                self._recorded = end
        return b"".join(chunks)

    def _count(self, decided: Decided) -> None:
        self._masks += len(decided.spans)
        if self._masks > MOST_MASKS:
            raise TooManySecretsError(MOST_MASKS, request=self._request)

    def _refuse_echo(self, spans: Sequence[Span]) -> None:
        for span in spans:
            if span.redact:
                raise CredentialEchoError(span.detector)

    def _encoded_at_once(self, chunk: bytes, last: bool) -> bytes:
        self._client.append(chunk)
        if self._redact:
            view = self._stream.context + self._stream.pending
            found, _ = self._known.find(view, last=True)
            for one in found:
                if one.known.redact:
                    raise CredentialEchoError(one.known.name)
            if not last and self._known.held_for_redaction(view) < len(view):
                return b""
        release = b"".join(self._client)
        self._client.clear()
        return release

    def _begin_sealing(self, seal: Callable[[bytes], bytes], chunk: bytes) -> Step:
        """What could not be decoded, and all that was not recorded before it, is encrypted from here on."""
        self._sealed = True
        wire = b"".join([c for c, _ in self._wire] + [chunk])
        self._wire.clear()
        self._clean = b""
        record = seal(wire)
        self._stored += len(record)
        release = b"".join([*self._client, chunk]) if self._interactive else wire
        return Step(record, SEALED, release)

    def _feed_sealed(self, chunk: bytes) -> Step:
        record = self._seal(chunk) if chunk and self._seal is not None else b""
        self._stored += len(record)
        return Step(record, SEALED, chunk)
