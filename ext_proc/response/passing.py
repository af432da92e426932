"""What the two ways of passing a response on as it comes have in common: its phases, and where its body ends."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ext_proc import codec
from ext_proc.errors import Cut
from ext_proc.exchange import Exchange
from ext_proc.stages.record import Recorder


class PassingResponse(ABC):
    """Passes on what `recorder` has written down. `ended`: Envoy has nothing more of it."""

    unasked: tuple[str, ...] = ()

    def __init__(self, recorder: Recorder, exchange: Exchange) -> None:
        self._recorder = recorder
        self._http1 = exchange.protocol.startswith("HTTP/1")
        self._left = -1  # bytes of the body still to come; negative where only its end tells
        self.ended = False

    async def on(self, phase: codec.Phase) -> codec.Answers:
        match phase:
            case codec.Body("response"):
                return await self._on_body(phase)
            case codec.ResponseHead():
                return await self._on_head(phase)
            case codec.Trailers("response"):
                return await self._on_trailers(phase)
            case _:
                raise Cut("gate.unknown_message")

    def abandon(self) -> None:  # noqa: B027 (there is nothing to do, in neither way)
        """Nothing is here that the recorder does not have."""

    @abstractmethod
    async def _on_head(self, head: codec.ResponseHead) -> codec.Answers: ...

    @abstractmethod
    async def _on_body(self, body: codec.Body) -> codec.Answers: ...

    @abstractmethod
    async def _on_trailers(self, trailers: codec.Trailers) -> codec.Answers: ...

    def _expect(self, head: codec.ResponseHead) -> None:
        """The head is recorded: what it says of the body's length, and whether that was all."""
        length = head.headers.first("content-length") or b""
        if length.isdigit() and self._http1:
            self._left = int(length)
        if head.last or self._left == 0:
            self._complete(head.code_details, last=head.last)

    def _complete(self, code_details: str, *, last: bool = True) -> None:
        """The response is recorded to its end; `last`: Envoy has nothing more of it."""
        self.ended = last
        self._recorder.close(codec.outcome_of(self._recorder.code_details or code_details))
