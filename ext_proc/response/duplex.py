"""A response that Envoy runs FULL_DUPLEX_STREAMED and that need not, or cannot, be awaited: it passes as it comes.

Every byte goes back to Envoy; what is not given back does not pass.
"""

from __future__ import annotations

from ext_proc import codec
from ext_proc.errors import Cut
from ext_proc.exchange import Exchange
from ext_proc.response.bodies import Pieces
from ext_proc.response.changed import changed_head, changed_trailers
from ext_proc.response.passing import PassingResponse
from ext_proc.stages.record import RESPONSE, Recorder


class DuplexResponse(PassingResponse):
    """Passes on what `recorder` has written down; with `masked`, the client is spared what the ledger is."""

    def __init__(self, recorder: Recorder, exchange: Exchange, *, max_decoded: int, masked: bool = False) -> None:
        super().__init__(recorder, exchange)
        self._max_decoded = max_decoded
        self._masked = masked
        self._pieces: Pieces | None = None
        self._undecided = 0  # bytes that came and have not passed yet

    @property
    def waiting(self) -> bool:
        return self._undecided > 0

    async def on_idle(self) -> codec.Answers:
        """As in StreamedResponse. What is masked for the client waits: undecided, it could be half a secret."""
        released = self._recorder.release_response()
        self._undecided -= len(released)
        await self._recorder.commit()
        return codec.stream_response_body(released, False) if released else []

    async def _on_head(self, head: codec.ResponseHead) -> codec.Answers:
        recorder = self._recorder
        changes = recorder.response_head(
            head.status,
            head.headers,
            head.code_details,
            head.upstream_address,
            last=head.last or self._masked,
            client=self._masked,
        )
        anew = False
        if self._masked and not head.last:
            framed = head.status == 101 or (head.headers.first("content-type") or b"").startswith(b"application/grpc")
            self._pieces = Pieces(recorder.masker, head.headers, framed=framed, max_decoded=self._max_decoded)
            anew = not framed or self._pieces.coded
        self._expect(head)
        await recorder.commit()
        return [changed_head(head.headers, changes, anew=anew, length=None)]

    async def _on_body(self, body: codec.Body) -> codec.Answers:
        recorder = self._recorder
        if recorder.closed:  # its last byte has passed, and this only says so
            if body.data:
                raise Cut("gate.response_too_long")
            self._complete("", last=body.last)
            return codec.stream_response_body(b"", True) if body.last else []
        self._left -= len(body.data)
        # An HTTP/1 client that has every byte it was promised may leave before Envoy says that this was the end.
        whole = body.last or self._left == 0
        released = self._take(body.data, whole)
        if whole:
            self._complete("", last=body.last)
        await recorder.commit()
        return codec.stream_response_body(released, body.last) if released or body.last else []

    async def _on_trailers(self, trailers: codec.Trailers) -> codec.Answers:
        last = self._take(b"", True) if self._pieces is not None and not self._recorder.closed else b""
        held, changes = self._recorder.trailers(RESPONSE, trailers.trailers, client=self._masked)
        self._complete("")
        await self._recorder.commit()
        answers = codec.stream_response_body(last + held, False) if last or held else []
        return [*answers, changed_trailers(trailers.trailers, changes, anew=self._pieces is not None)]

    def _take(self, data: bytes, whole: bool) -> bytes:
        if self._pieces is None:
            released = self._recorder.response_body(data, whole)
            self._undecided = 0 if whole else self._undecided + len(data) - len(released)
            return released
        looked = self._pieces.feed(data, whole)
        self._recorder.part(looked.record, looked.form, looked.masks)
        return looked.instead or b""
