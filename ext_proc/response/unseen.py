"""The response to a request that no worker saw or decided: Envoy's own refusal, which its access log records."""

from __future__ import annotations

from ext_proc import codec
from ext_proc.errors import Cut


class UnseenResponse:
    """Passes unchanged."""

    def __init__(self) -> None:
        self.ended = False
        self.waiting = False

    async def on(self, phase: codec.Phase) -> codec.Answers:
        match phase:
            case codec.ResponseHead():
                self.ended = phase.last
                return [codec.forward_response_head()]
            case codec.Body("response"):
                self.ended = phase.last
                return [codec.forward_response_body(phase.data, phase.data)]
            case codec.Trailers("response"):
                self.ended = True
                return [codec.forward_trailers("response")]
            case _:
                raise Cut("gate.unknown_message")

    async def on_idle(self) -> codec.Answers:
        return []
