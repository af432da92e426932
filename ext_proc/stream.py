"""One ext_proc stream, phase by phase: a protocol core without I/O of its own but the spool's.

Envoy's phases go in, Envoy's answers come out. `server` moves them over gRPC; tests/playbook scripts them.

The request runs FULL_DUPLEX_STREAMED: nothing goes on before its head is answered, so the head's answer waits for the
body where the body is inspected. What becomes of the response: `ext_proc.response`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ext_proc import codec
from ext_proc.codec import Answers
from ext_proc.decision import Deny
from ext_proc.entry import Entry
from ext_proc.errors import Cut, DouaneError
from ext_proc.exchange import Approved, Authorized, Headers, Identified, is_interactive
from ext_proc.pipeline import Pipeline, denial, unknown_route
from ext_proc.response import Response, UnseenResponse, respond
from ext_proc.stages.protocol import METHOD_OVERRIDES, SESSION_PATH
from ext_proc.stages.record import REQUEST

if TYPE_CHECKING:
    from ext_proc.runtime import CompiledConnection, Runtime, Snapshot
    from ext_proc.spool import Spool
    from ext_proc.stages.credential import Injected

_PER_MESSAGE = ("sec-websocket-extensions", "grpc-accept-encoding")

MOST_AWAITED = 64 << 20
"""Bytes of request bodies that a worker holds at a time while their decisions wait for the rest of them."""
MOST_HELD = 256 << 20
"""Bytes of request bodies that a worker holds at a time while people decide on them."""


class Stream:
    """The state of one exchange. `done` is True once nothing more may come."""

    _awaited = 0  # in all streams of this process
    _held = 0

    def __init__(self, runtime: Runtime, spool: Spool, attempt: int) -> None:
        self._runtime = runtime
        self._spool = spool
        self._attempt = attempt
        self._snapshot: Snapshot
        self._connection: CompiledConnection
        self._pipeline: Pipeline
        self._head: codec.RequestHead | None = None
        self._injected: Injected | None = None
        self._collected: list[bytes] | None = None  # the request body while the decision waits for it
        self._size = 0
        self._entry: Entry | None = None  # from the moment its connection is known
        self._request_done = False
        self._response: Response = UnseenResponse()
        self.done = False

    @property
    def waiting(self) -> bool:
        """True while a response chunk waits to be acknowledged, see `on_idle`."""
        return self._response.waiting

    async def on(self, phase: codec.Phase) -> Answers:
        """One phase of Envoy's. Raises Cut where the stream must be aborted."""
        try:
            match phase:
                case codec.Body("response") | codec.ResponseHead() | codec.Trailers("response"):
                    return await self._on_response(phase)
                case codec.Body("request"):
                    return await self._on_request_body(phase)
                case codec.RequestHead():
                    return await self._on_request_head(phase)
                case codec.Trailers("request"):
                    return await self._on_request_trailers(phase)
                case _:
                    raise Cut("gate.unknown_message")
        except DouaneError as fault:
            return await self._fail(denial(fault))

    def on_abort(self, reason: str) -> None:
        """The stream ended before the exchange did. What is known is written; the access log settles the outcome."""
        self._let_go()
        self._response.abandon()
        if self._entry is not None and self._entry.recorder is not None:
            self._entry.recorder.abandon(reason)

    # --- the request -------------------------------------------------------------------------------------------------

    async def _on_request_head(self, head: codec.RequestHead) -> Answers:
        self._head = head
        self._request_done = head.last
        self._response = UnseenResponse(duplex=head.duplex)
        found = self._runtime.lookup(head.route)
        if found is None or found[1].inspected is not head.duplex:  # the second as a guard: the route's name says it
            self.done = True  # without a connection there is nothing to record it under but Envoy's access log
            return [codec.refuse(unknown_route(head.route), head.exchange.exchange_id)]
        self._snapshot, self._connection = found
        self._pipeline = Pipeline(self._snapshot, self._connection)
        entry = self._entry = Entry(self._spool, self._attempt, head, self._snapshot, self._connection)
        exchange = head.exchange
        length = exchange.headers.first("content-length") or b"0"
        self._spool.expect(self, exchange.received_us)
        self._spool.admit(int(length) if length.isdigit() else 0)
        presented = entry.presented = self._snapshot.identity.present(exchange, self._connection.config.identity)
        identified = await self._pipeline.identify(exchange, presented)
        if isinstance(identified, Deny):
            return await self._refuse(identified)
        entry.identified = identified
        if exchange.path == SESSION_PATH:
            return await self._serve_session(entry, identified)
        if head.last:
            return await self._decide(b"")
        if self._must_stream(int(length) if length.isdigit() else 0):
            return await self._decide(None)
        self._collected = []
        return []

    def _must_stream(self, length: int) -> bool:
        """True where the body cannot, or need not, be awaited."""
        assert self._head is not None
        exchange, config = self._head.exchange, self._connection.config
        if config.body == "stream" or is_interactive(exchange.headers) or exchange.headers.first("upgrade") is not None:
            return True
        return length > config.max_inspect and not self._pipeline.needs_body(exchange)

    async def _on_request_body(self, body: codec.Body) -> Answers:
        self._request_done = body.last
        if self._collected is not None:
            self._collected.append(body.data)
            self._size += len(body.data)
            Stream._awaited += len(body.data)
            if body.last:
                return await self._decide(b"".join(self._collected))
            if self._size > self._connection.config.max_inspect or Stream._awaited > MOST_AWAITED:
                return await self._overflow()
            return []
        return await self._pass_request_body(body.data, body.last)

    async def _overflow(self) -> Answers:
        """The awaited body is larger than may be awaited, or all are: decide without it, or refuse."""
        assert self._head is not None
        assert self._collected is not None
        if self._pipeline.needs_body(self._head.exchange):
            limit = self._connection.config.max_inspect
            if self._size <= limit:
                return await self._refuse(
                    Deny(
                        "gate.overloaded",
                        "this gate holds too many request bodies that have not arrived yet",
                        http_status=503,
                        remedy="Try again.",
                    )
                )
            return await self._refuse(
                Deny(
                    "policy.uninspectable",
                    f"a policy must read the request body, and it is over {limit} bytes",
                    http_status=413,
                    remedy="Send less, or let the operator raise max_inspect for this connection.",
                )
            )
        collected, self._collected = b"".join(self._collected), None
        answers = await self._decide(None)
        if self.done:
            return answers
        return answers + await self._pass_request_body(collected, False)

    def _let_go(self) -> None:
        """The body is no longer awaited, whatever became of it."""
        Stream._awaited -= self._size
        self._size = 0

    async def _pass_request_body(self, data: bytes, last: bool) -> Answers:
        recorder = self._entry.recorder if self._entry is not None else None
        if recorder is None:
            raise Cut("a body without a decided head")
        released = self._signed(recorder.request_body(data, last), last)
        await recorder.commit()
        return codec.forward_request_body(released, last) if released or last else []

    def _signed(self, data: bytes, last: bool) -> bytes:
        """The body as it leaves: some credentials sign it while it passes."""
        signer = self._injected.body if self._injected is not None else None
        return data if signer is None else signer.pass_on(data, last)

    async def _on_request_trailers(self, trailers: codec.Trailers) -> Answers:
        self._request_done = True
        answers: Answers = []
        if self._collected is not None:
            answers = await self._decide(b"".join(self._collected), trailers.trailers)
        elif self._entry is not None and self._entry.recorder is not None:
            held, _ = self._entry.recorder.trailers(REQUEST, trailers.trailers)
            held = self._signed(held, True)
            await self._entry.recorder.commit()
            if held:
                answers = codec.forward_request_body(held, False)
        if self.done:
            return answers
        # Some servers merge trailers into the head, where these have been removed or refused.
        names = [name for name, _ in trailers.trailers]
        remove = self._injected.taken(names) if self._injected is not None else ()
        remove += tuple(name for name in names if name.replace("_", "-") in METHOD_OVERRIDES)
        return [*answers, codec.forward_trailers("request", remove=remove)]

    async def _decide(self, body: bytes | None, trailers: Headers | None = None) -> Answers:
        """The verdict. On `body` None the body follows; otherwise it is all there and goes on behind the head."""
        self._let_go()
        head, entry = self._head, self._entry
        assert head is not None
        assert entry is not None
        assert entry.identified is not None
        authorized = await self._pipeline.authorize(entry.identified, body)
        if isinstance(authorized, Deny):
            return await self._refuse(authorized)
        if authorized.hold is not None:
            assert body is not None
            approved = await self._hold(entry, authorized, body, trailers)
            if isinstance(approved, Approved) and (denied := await self._denied_since(entry.identified, body)):
                return await self._refuse(denied)
        else:
            approved = Approved(authorized)
        passage = approved if isinstance(approved, Deny) else await self._pipeline.inject(approved, body)
        if isinstance(passage, Deny):
            return await self._refuse(passage)
        self._collected = None
        injected = self._injected = passage.injected
        recorder = await entry.passed(passage, body, trailers)
        self._spool.met(self)
        self._response = respond(recorder, self._snapshot, self._connection, authorized, entry.masker)
        # Secrets cannot be looked for in compressed frames and messages, so the upstream is not asked for them.
        unasked = (*_PER_MESSAGE, *self._response.unasked)
        remove = (*injected.remove, *(n for n in unasked if head.exchange.headers.first(n) is not None))
        answers = [codec.forward_request(remove=remove, put=injected.put, path=injected.path)]
        if body is not None and not head.last and (body or trailers is None):
            answers += codec.forward_request_body(body, last=trailers is None)
        return answers

    async def _hold(
        self, entry: Entry, authorized: Authorized, body: bytes, trailers: Headers | None
    ) -> Approved | Deny:
        """Wait for people. Until they have decided, it stands in the journal as held."""
        if Stream._held + len(body) > MOST_HELD:
            return Deny(
                "gate.overloaded",
                "this gate holds too many requests already",
                http_status=503,
                remedy="Try again when some of them are decided.",
            )
        Stream._held += len(body)
        try:
            recorder = entry.begin(entry.masker(authorized.obligations), body, trailers)
            shown = recorder.shown(body, self._snapshot.max_decoded, authorized.hits)
            waiting = await self._pipeline.hold(authorized, body, trailers or Headers(), shown)
            if isinstance(waiting, Deny):
                return waiting
            async with contextlib.aclosing(waiting):
                entry.held(recorder, authorized, waiting.approval_id)
                await recorder.commit()
                self._spool.met(self)
                return await waiting.outcome()
        finally:
            Stream._held -= len(body)

    async def _denied_since(self, identified: Identified, body: bytes) -> Deny | None:
        """What the operator has forbidden while the request was held: a yes does not outweigh a later no. All else of
        it keeps the configuration that it began with."""
        current = self._runtime.current
        if current is self._snapshot:
            return None
        again = await Pipeline(current, self._connection).authorize(identified, body)
        return again if isinstance(again, Deny) else None

    async def _refuse(self, deny: Deny) -> Answers:
        """Refuse and record it. Nothing has reached the upstream."""
        self._let_go()
        assert self._entry is not None
        self.done = True
        return await self._entry.refuse(deny, self._collected or ())

    async def _fail(self, deny: Deny) -> Answers:
        """A fault outside the stages."""
        if self._head is None:
            raise Cut(deny.reason)
        self._let_go()
        self.done = True
        if self._entry is None:
            return [codec.refuse(deny, self._head.exchange.exchange_id)]
        return await self._entry.fail(deny, self._collected or ())

    async def _serve_session(self, entry: Entry, identified: Identified) -> Answers:
        """`POST /.douane/session`: a session key for a verified token; `DELETE` revokes the presented key."""
        connection = self._connection
        answer = await self._snapshot.sessions.serve(
            identified.exchange, identified, connection.name, connection.config, entry.presented
        )
        if isinstance(answer, Deny):
            return await self._refuse(answer)
        self.done = True
        return await entry.serve(answer.status, answer.text(), answer.secrets)

    # --- the response ------------------------------------------------------------------------------------------------

    async def _on_response(self, phase: codec.Phase) -> Answers:
        answers = await self._response.on(phase)
        if self._response.ended and (self._request_done or self._entry is None):
            self.done = True
        return answers

    async def on_idle(self) -> Answers:
        """The upstream pauses while a response chunk waits."""
        return await self._response.on_idle()
