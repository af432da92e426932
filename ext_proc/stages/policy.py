"""Stage 2: may this caller do this. `Identified -> Authorized`, or a refusal with its reason."""

from __future__ import annotations

from ext_proc.decision import Deny
from ext_proc.exchange import Authorized, Exchange, Identified
from ext_proc.masking import codings
from ext_proc.rules import Grants, Policies


class PolicyStage:
    """Default deny: a grant must allow the request, and no policy may deny it."""

    def __init__(self, grants: Grants, policies: Policies, max_decoded: int) -> None:
        self._grants = grants
        self._policies = policies
        self._max_decoded = max_decoded

    def needs_body(self, connection: str, method: str, path: str) -> bool:
        """True where a policy cannot decide without the whole request body."""
        return self._policies.needs_body(connection, method, path)

    def run(self, identified: Identified, body: bytes | None) -> Authorized | Deny:
        """`body` is all of it as sent, or None where it is streamed past the decision."""
        exchange = identified.exchange
        # With `require: both` the pod proves where the caller is; what the caller may do is the caller's own.
        granted = self._grants.allow(exchange.connection, exchange.method, exchange.path, identified.caller)
        if isinstance(granted, Deny):
            return granted
        denied = self._policies.decide(exchange, self._decoded(exchange, body))
        if denied is not None:
            return denied
        return Authorized(identified, granted.grant, granted.scope)

    def _decoded(self, exchange: Exchange, body: bytes | None) -> bytes | None:
        """The body without its content-codings, where a policy wants it and it can be had."""
        encoding = b",".join(exchange.headers.all("content-encoding"))
        if not body or not encoding:
            return body
        if not self._policies.needs_body(exchange.connection, exchange.method, exchange.path):
            return None
        try:
            decoder = codings.decoder(encoding)
            decoded = body if decoder is None else decoder.feed(body, self._max_decoded)
            if decoder is not None:
                decoder.finish()
        except (codings.CodingError, codings.TooLargeError):
            return None
        return decoded
