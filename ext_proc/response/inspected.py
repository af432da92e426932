"""A response that policies look at, or that the client gets masked: nothing of it passes before all of it was seen.

Envoy runs it FULL_DUPLEX_STREAMED. Head, body and trailers are collected, up to a bound; then the rules decide; what
the upstream answered is recorded; and the client gets it as it came, masked, or a refusal in its place.

What cannot be awaited (upgrades, gRPC, server-sent events) is decided on its head, and masked piece by piece. What
Envoy answers itself passes: it is no answer of the upstream's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from ext_proc import codec
from ext_proc.decision import NO_OBLIGATIONS, Deny, Obligations, ResponseDecision, RuleHit
from ext_proc.errors import Cut, DouaneError
from ext_proc.exchange import Exchange, Headers, is_interactive
from ext_proc.masking import ExchangeMasker, codings
from ext_proc.response.bodies import decoded, look
from ext_proc.response.changed import changed_head, changed_trailers
from ext_proc.response.duplex import DuplexResponse
from ext_proc.rules import ResponseRules
from ext_proc.stages.record import RESPONSE, Recorder

log = logging.getLogger("douane.response")

MOST_HELD = 64 << 20
"""Bytes of response bodies that a worker holds at a time."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is looked for in one response. `client`: it is spared what the ledger is. `limit` bounds the body, as sent
    and decoded, in bytes; `max_decoded` those that are masked piece by piece. `stricter` gives the exchange's masker
    with more to mask."""

    rules: ResponseRules | None
    client: bool
    limit: int
    max_decoded: int
    stricter: Callable[[Obligations], ExchangeMasker]


class InspectedResponse:
    """Collects, decides, records, answers. Raises DouaneError where the client gets a refusal instead."""

    unasked: tuple[str, ...] = ("range",)
    """Half a secret in each of two parts would be seen by nobody, so the upstream is asked for the whole."""

    _held = 0  # in all responses of this process

    def __init__(self, recorder: Recorder, exchange: Exchange, inspection: Inspection) -> None:
        self._recorder = recorder
        self._exchange = exchange
        self._inspection = inspection
        self._head: codec.ResponseHead | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._passing: DuplexResponse | None = None  # once it needs no waiting any more
        self._ended = False

    @property
    def ended(self) -> bool:
        return self._passing.ended if self._passing is not None else self._ended

    @property
    def waiting(self) -> bool:
        return self._passing is not None and self._passing.waiting

    async def on(self, phase: codec.Phase) -> codec.Answers:
        if self._passing is not None:
            return await self._passing.on(phase)
        head = self._head
        match phase:
            case codec.ResponseHead():
                return await self._on_head(phase)
            case codec.Body("response") if head is not None and not self._ended:
                return await self._on_body(head, phase)
            case codec.Trailers("response") if head is not None and not self._ended:
                return await self._finish(head, phase.trailers)
            case _:
                raise Cut("gate.unknown_message")

    async def on_idle(self) -> codec.Answers:
        return await self._passing.on_idle() if self._passing is not None else []

    def abandon(self) -> None:
        """What arrived is recorded, as masked as any rule could have asked for."""
        if self._head is not None and self._passing is None and not self._ended:
            self._record_arrived(self._head)
        self._let_go()

    # --- what arrives ------------------------------------------------------------------------------------------------

    async def _on_head(self, head: codec.ResponseHead) -> codec.Answers:
        self._head = head
        if head.code_details and not head.code_details.startswith("via_upstream"):
            return await self._pass(head, masked=False)
        if head.last:
            return await self._finish(head, None)
        if is_interactive(head.headers, upgraded=head.status == 101):
            return await self._pass_at_once(head)
        if (_length(head.headers) or 0) > self._inspection.limit:
            return await self._overflow(head)
        return []

    async def _on_body(self, head: codec.ResponseHead, body: codec.Body) -> codec.Answers:
        self._chunks.append(body.data)
        self._size += len(body.data)
        InspectedResponse._held += len(body.data)
        if self._size > self._inspection.limit or (InspectedResponse._held > MOST_HELD and not body.last):
            answers = await self._overflow(head)
            return answers + (await self.on(codec.Body("response", b"", True)) if body.last else [])
        return await self._finish(head, None) if body.last else []

    def _let_go(self) -> None:
        InspectedResponse._held -= self._size
        self._size = 0
        self._chunks.clear()

    # --- what cannot be awaited --------------------------------------------------------------------------------------

    async def _pass_at_once(self, head: codec.ResponseHead) -> codec.Answers:
        """An interactive response: both sides may wait for each piece of it."""
        decision = self._decide(head, None, _length(head.headers))
        if decision.withhold is not None:
            self._record_head(head, masked=False)
            raise self._withheld(decision.withhold, decision.hits)
        masked = self._masks(decision)
        self._record_verdict(decision, changed=masked)
        return await self._pass(head, masked=masked)

    async def _overflow(self, head: codec.ResponseHead) -> codec.Answers:
        """The body is larger than may be awaited, or all are: decide without it, or withhold it."""
        inspection, rules = self._inspection, self._inspection.rules
        if rules is not None and not rules.needs_body and not inspection.client:
            decision = self._decide(head, None, None)
            if decision.withhold is not None:
                self._record_arrived(head)
                raise self._withheld(decision.withhold, decision.hits)
            if decision.mask is None:
                self._record_verdict(decision, changed=False)
                return await self._pass(head, masked=False)
        length = _length(head.headers) or 0
        too_large = max(self._size, length) > inspection.limit
        self._record_arrived(head)
        raise self._withheld(_too_large(inspection.limit) if too_large else _OVERLOADED)

    async def _pass(self, head: codec.ResponseHead, *, masked: bool) -> codec.Answers:
        """From here on it passes as it comes."""
        self._passing = DuplexResponse(
            self._recorder, self._exchange, max_decoded=self._inspection.max_decoded, masked=masked
        )
        arrived = b"".join(self._chunks)
        self._let_go()
        answers = await self._passing.on(head)
        return answers + (await self._passing.on(codec.Body("response", arrived, False)) if arrived else [])

    # --- what was awaited --------------------------------------------------------------------------------------------

    async def _finish(self, head: codec.ResponseHead, trailers: Headers | None) -> codec.Answers:
        """All is here: decide, record, answer."""
        wire = b"".join(self._chunks)
        try:
            text = decoded(head.headers, wire, self._inspection.limit)
        except codings.TooLargeError:
            self._record_arrived(head)
            raise self._withheld(_too_large(self._inspection.limit)) from None
        readable = None if _is_part(head) else text
        decision = self._decide(head, readable, len(wire))
        masked = self._masks(decision)
        if masked and readable is None and wire and decision.withhold is None:
            decision = ResponseDecision(_UNREADABLE, decision.mask, decision.hits)
        changes = self._record_head(head, masked=masked)
        instead = self._record_body(head, wire, text, masked=masked)
        changes_at_all = instead is not None or bool(changes)
        trailing: codec.Answers = []
        if trailers is not None:
            _, more = self._recorder.trailers(RESPONSE, trailers, client=masked)
            trailing = [changed_trailers(trailers, more, anew=instead is not None)]
            changes_at_all = changes_at_all or bool(more)
        if decision.withhold is not None:
            raise self._withheld(decision.withhold, decision.hits)
        self._record_verdict(decision, changed=masked and changes_at_all)
        self._recorder.close(codec.outcome_of(head.code_details))
        self._ended = True
        self._let_go()
        await self._recorder.commit()
        answers = [changed_head(head.headers, changes, anew=instead is not None, length=len(instead or b""))]
        if not head.last and (wire or trailers is None):
            answers += codec.stream_response_body(wire if instead is None else instead, last=trailers is None)
        return [*answers, *trailing]

    # --- inside ------------------------------------------------------------------------------------------------------

    def _decide(self, head: codec.ResponseHead, body: bytes | None, size: int | None) -> ResponseDecision:
        rules = self._inspection.rules
        if rules is None:
            return ResponseDecision()
        try:
            decision = rules.decide(head.status, head.headers, body, size)
        except Exception:
            log.exception("a policy failed to look at a response, which is withheld")
            return ResponseDecision(withhold=_FAILED)
        if decision.mask is not None and decision.mask != NO_OBLIGATIONS:
            self._recorder.use(self._inspection.stricter(decision.mask))
        return decision

    def _masks(self, decision: ResponseDecision) -> bool:
        """Whether the client gets what the ledger gets."""
        return self._inspection.client or decision.mask is not None

    def _record_head(self, head: codec.ResponseHead, *, masked: bool) -> list[tuple[str, bytes]]:
        return self._recorder.response_head(
            head.status, head.headers, head.code_details, head.upstream_address, last=True, client=masked
        )

    def _record_body(self, head: codec.ResponseHead, wire: bytes, text: bytes | None, *, masked: bool) -> bytes | None:
        """What the client gets in the place of `wire`, if anything else."""
        if not wire:
            return None
        if text is None:
            self._recorder.response_body(wire, last=True)  # sealed; or it raises
            return None
        looked = look(self._recorder.masker, head.headers, wire, text, client=masked)
        self._recorder.part(looked.record, looked.form, looked.masks)
        return looked.instead

    def _record_verdict(self, decision: ResponseDecision, *, changed: bool) -> None:
        """`changed`: the client gets something masked."""
        if changed or self._inspection.rules is not None:
            self._recorder.response_verdict("mask" if changed or decision.mask else "pass", hits=decision.hits)

    def _record_arrived(self, head: codec.ResponseHead) -> None:
        """The part of it that came, undecided: as masked as any rule could have asked for."""
        rules = self._inspection.rules
        if rules is not None and rules.may_mask != NO_OBLIGATIONS:
            self._recorder.use(self._inspection.stricter(rules.may_mask))
        wire = b"".join(self._chunks)
        with contextlib.suppress(DouaneError):  # what cannot be looked into is not kept
            self._record_head(head, masked=False)
            self._recorder.response_body(wire, last=False)
            self._recorder.response_body(b"", last=True)

    def _withheld(self, deny: Deny, hits: tuple[RuleHit, ...] = ()) -> DouaneError:
        self._let_go()
        self._recorder.response_verdict("withhold", deny, hits)
        return DouaneError(deny.reason, deny.message, remedy=deny.remedy, http_status=deny.http_status)


_OVERLOADED = Deny(
    "gate.overloaded",
    "this gate holds too many responses that have not arrived yet; the request was carried out",
    http_status=503,
    remedy="Look at the upstream before trying again.",
)
_UNREADABLE = Deny(
    "policy.uninspectable",
    "the response must be masked for the client, and it cannot be decoded, or is a part of a document",
    http_status=502,
    remedy="Ask for the whole document, in identity, gzip, deflate, br or zstd.",
)
_FAILED = Deny(
    "policy.uninspectable",
    "a policy failed to look at the response",
    http_status=502,
    remedy="The request was carried out; the gate's log says more.",
)


def _too_large(limit: int) -> Deny:
    return Deny(
        "response.too_large",
        f"the response must be looked into, and it is over {limit} bytes; the request was carried out",
        http_status=502,
        remedy="Ask for less at a time, or let the operator raise max_inspect_response for this connection.",
    )


def _length(headers: Headers) -> int | None:
    length = headers.first("content-length") or b""
    return int(length) if length.isdigit() else None


def _is_part(head: codec.ResponseHead) -> bool:
    """A part of a document, or what changes one (RFC 9110 section 15.3.7, RFC 3229): it says little by itself."""
    return head.status in (206, 226) or head.headers.first("content-range") is not None
