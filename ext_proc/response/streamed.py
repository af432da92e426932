"""A response that Envoy runs STREAMED: each chunk goes on when it is acknowledged, in order, once it is recorded."""

from __future__ import annotations

from collections import deque

from ext_proc import codec
from ext_proc.errors import Cut
from ext_proc.exchange import Exchange
from ext_proc.response.passing import PassingResponse
from ext_proc.stages.record import RESPONSE, Recorder


class StreamedResponse(PassingResponse):
    """Passes on what `recorder` has written down. A chunk whose end is undecided waits for the next one."""

    def __init__(self, recorder: Recorder, exchange: Exchange) -> None:
        super().__init__(recorder, exchange)
        self._unacknowledged: deque[bytes] = deque()  # chunks whose record is not complete yet
        self._released = bytearray()  # bytes that may go, not yet a whole chunk of Envoy's

    @property
    def waiting(self) -> bool:
        return bool(self._unacknowledged)

    async def on_idle(self) -> codec.Answers:
        """A chunk waits because a secret might go on in the next one. The client may be waiting for just that chunk,
        so it goes; only its undecided end, at most 4 KiB, stays unrecorded until more comes."""
        self._released += self._recorder.release_response()
        await self._recorder.commit()
        return self._acknowledge(everything=False)

    async def _on_head(self, head: codec.ResponseHead) -> codec.Answers:
        recorder = self._recorder
        changes = recorder.response_head(
            head.status, head.headers, head.code_details, head.upstream_address, last=head.last
        )
        self._expect(head)
        await recorder.commit()
        return [codec.forward_response_head(changes)]

    async def _on_body(self, body: codec.Body) -> codec.Answers:
        recorder = self._recorder
        if recorder.closed:  # its last byte has passed, and this only says so
            if body.data:
                raise Cut("gate.response_too_long")
            self._complete("", last=body.last)
            return [codec.forward_response_body(b"", b"")]
        self._left -= len(body.data)
        # An HTTP/1 client that has every byte it was promised may leave before Envoy says that this was the end.
        whole = body.last or self._left == 0
        self._unacknowledged.append(body.data)
        self._released += recorder.response_body(body.data, whole)
        if whole:
            self._complete("", last=body.last)
        await recorder.commit()
        return self._acknowledge(everything=whole)

    async def _on_trailers(self, trailers: codec.Trailers) -> codec.Answers:
        held, changes = self._recorder.trailers(RESPONSE, trailers.trailers)
        self._released += held
        self._complete("")
        await self._recorder.commit()
        return [*self._acknowledge(everything=True), codec.forward_trailers("response", changes)]

    def _acknowledge(self, *, everything: bool) -> codec.Answers:
        """Answer the chunks, in order, of which every byte is released."""
        answers = []
        while self._unacknowledged and (everything or len(self._unacknowledged[0]) <= len(self._released)):
            chunk = self._unacknowledged.popleft()
            size = len(self._released) if everything and not self._unacknowledged else len(chunk)
            answers.append(codec.forward_response_body(chunk, bytes(self._released[:size])))
            del self._released[:size]
        return answers
