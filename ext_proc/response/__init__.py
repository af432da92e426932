"""The response half of an exchange: Envoy's response phases in, its answers out, recorded before a byte passes.

`stream` chooses one for each exchange, by how Envoy runs the route's responses:

    response = StreamedResponse(recorder, exchange)
    answers = await response.on(phase)          # a ResponseHead, Body or Trailers
"""

from __future__ import annotations

from typing import Protocol

from ext_proc import codec
from ext_proc.response.streamed import StreamedResponse
from ext_proc.response.unseen import UnseenResponse


class Response(Protocol):
    """One response, phase by phase. Faults raise DouaneError; Cut where the connection must be cut."""

    @property
    def ended(self) -> bool:
        """Envoy has nothing more of it."""

    @property
    def waiting(self) -> bool:
        """True while a chunk waits to be acknowledged, see `on_idle`."""

    async def on(self, phase: codec.Phase) -> codec.Answers: ...

    async def on_idle(self) -> codec.Answers:
        """The upstream pauses while something waits."""


__all__ = ["Response", "StreamedResponse", "UnseenResponse"]
