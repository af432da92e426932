"""The response to a request that no worker saw or decided: Envoy's own refusal, which its access log records."""

from __future__ import annotations

from ext_proc import codec
from ext_proc.errors import Cut


class UnseenResponse:
    """Passes unchanged. `duplex` as in codec.RequestHead; a response that comes first says it itself."""

    unasked = ()

    def __init__(self, *, duplex: bool = False) -> None:
        self._duplex = duplex
        self.ended = False
        self.waiting = False

    async def on(self, phase: codec.Phase) -> codec.Answers:
        match phase:
            case codec.ResponseHead():
                self._duplex = self._duplex or phase.duplex
                self.ended = phase.last
                return [codec.forward_response_head()]
            case codec.Body("response"):
                self.ended = phase.last
                if self._duplex:
                    return codec.stream_response_body(phase.data, phase.last)
                return [codec.forward_response_body(phase.data, phase.data)]
            case codec.Trailers("response"):
                self.ended = True
                return [codec.forward_trailers("response")]
            case _:
                raise Cut("gate.unknown_message")

    async def on_idle(self) -> codec.Answers:
        return []

    def abandon(self) -> None:
        """Nothing is recorded here."""
