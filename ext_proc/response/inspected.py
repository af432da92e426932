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
from typing import Protocol

from ext_proc import codec
from ext_proc.decision import Deny, RuleHit
from ext_proc.errors import Cut, DouaneError
from ext_proc.exchange import Exchange, Headers, is_interactive
from ext_proc.masking import ExchangeMasker, codings
from ext_proc.response.bodies import Shown, decoded, look
from ext_proc.response.changed import changed_head, changed_trailers
from ext_proc.response.duplex import DuplexResponse
from ext_proc.response.withheld import NO_PATHS, OVERLOADED, UNINSPECTABLE, UNREADABLE, too_large, withheld_by
from ext_proc.rules import ResponseDecision
from ext_proc.stages.record import RESPONSE, Recorder

log = logging.getLogger("douane.response")

MOST_HELD = 64 << 20
"""Bytes of response bodies that a worker holds at a time."""


class Judge(Protocol):
    """The policies with a response effect that fit one request."""

    @property
    def may_mask(self) -> tuple[str, ...]:
        """The JSON paths that any of them would mask."""

    def decide(self, head: codec.ResponseHead, body: bytes | None, size: int | None) -> ResponseDecision:
        """`body` is without content-codings, None where it cannot be had; `size` in bytes as sent, None where that is
        not known."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is looked for in one response. `client`: it is spared what the ledger is. `limit` bounds the body, as sent
    and decoded, in bytes; `max_decoded` those that are masked piece by piece. Of JSON paths, `stricter` makes the
    exchange's masker with these, too, and `narrow` one with only these."""

    judge: Judge | None
    client: bool
    limit: int
    max_decoded: int
    stricter: Callable[[tuple[str, ...]], ExchangeMasker]
    narrow: Callable[[tuple[str, ...]], ExchangeMasker]


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
            self._record_arrived(self._head, self._take())

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

    def _take(self) -> bytes:
        """What was collected. It is held no longer, whatever becomes of it."""
        wire = b"".join(self._chunks)
        InspectedResponse._held -= self._size
        self._size = 0
        self._chunks.clear()
        return wire

    # --- what cannot be awaited --------------------------------------------------------------------------------------

    async def _pass_at_once(self, head: codec.ResponseHead) -> codec.Answers:
        """An interactive response: both sides may wait for each piece of it."""
        decision = self._decide(head, None, _length(head.headers))
        withheld = withheld_by(decision) or (NO_PATHS if decision.mask_json else None)
        if withheld is not None:
            self._record_head(head, masked=False)
            raise self._withheld(withheld, decision.hits)
        masked = self._as_recorded(decision)
        self._record_verdict(decision, changed=masked)
        return await self._pass(head, masked=masked)

    async def _overflow(self, head: codec.ResponseHead) -> codec.Answers:
        """The body is larger than may be awaited, or all are: decide without it, or withhold it."""
        length = _length(head.headers)
        over = max(self._size, length or 0) > self._inspection.limit
        withheld = too_large(self._inspection.limit) if over else OVERLOADED
        decision = ResponseDecision()
        if not self._inspection.client:
            decision = self._decide(head, None, length)
            if decision.action == "pass":
                self._record_verdict(decision, changed=False)
                return await self._pass(head, masked=False)
            if decision.reason != UNINSPECTABLE:
                withheld = withheld_by(decision) or withheld
        self._record_arrived(head, self._take())
        raise self._withheld(withheld, decision.hits)

    async def _pass(self, head: codec.ResponseHead, *, masked: bool) -> codec.Answers:
        """From here on it passes as it comes."""
        self._passing = DuplexResponse(
            self._recorder, self._exchange, max_decoded=self._inspection.max_decoded, masked=masked
        )
        arrived = self._take()
        answers = await self._passing.on(head)
        return answers + (await self._passing.on(codec.Body("response", arrived, False)) if arrived else [])

    # --- what was awaited --------------------------------------------------------------------------------------------

    async def _finish(self, head: codec.ResponseHead, trailers: Headers | None) -> codec.Answers:
        """All is here: decide, record, answer."""
        wire = self._take()
        try:
            text = decoded(head.headers, wire, self._inspection.limit)
        except codings.TooLargeError:
            self._record_arrived(head, wire)
            raise self._withheld(too_large(self._inspection.limit)) from None
        readable = None if _is_part(head) else text
        decision = self._decide(head, readable, len(wire))
        withheld = withheld_by(decision)
        masked = self._as_recorded(decision)
        if (masked or decision.mask_json) and readable is None and wire:
            withheld = withheld or UNREADABLE
        changes = self._record_head(head, masked=masked)
        instead = self._record_body(head, wire, text, decision)
        changes_at_all = instead is not None or bool(changes)
        trailing: codec.Answers = []
        if trailers is not None:
            _, more = self._recorder.trailers(RESPONSE, trailers, client=masked)
            trailing = [changed_trailers(trailers, more, anew=instead is not None)]
            changes_at_all = changes_at_all or bool(more)
        if withheld is not None:
            raise self._withheld(withheld, decision.hits)
        self._record_verdict(decision, changed=masked and changes_at_all)
        self._recorder.close(codec.outcome_of(head.code_details))
        self._ended = True
        await self._recorder.commit()
        answers = [changed_head(head.headers, changes, anew=instead is not None, length=len(instead or b""))]
        if not head.last and (wire or trailers is None):
            answers += codec.stream_response_body(wire if instead is None else instead, last=trailers is None)
        return [*answers, *trailing]

    # --- inside ------------------------------------------------------------------------------------------------------

    def _decide(self, head: codec.ResponseHead, body: bytes | None, size: int | None) -> ResponseDecision:
        judge = self._inspection.judge
        if judge is None:
            return ResponseDecision()
        try:
            decision = judge.decide(head, body, size)
        except Exception:
            log.exception("policies failed to look at a response, which is withheld")
            return ResponseDecision("withhold", reason=UNINSPECTABLE, message="policies failed to look at the response")
        if decision.mask_json:
            self._recorder.use(self._inspection.stricter(decision.mask_json))
        return decision

    def _as_recorded(self, decision: ResponseDecision) -> bool:
        """Whether the client gets just what the ledger gets."""
        return self._inspection.client or decision.detectors

    def _record_head(self, head: codec.ResponseHead, *, masked: bool) -> list[tuple[str, bytes]]:
        return self._recorder.response_head(
            head.status, head.headers, head.code_details, head.upstream_address, last=True, client=masked
        )

    def _record_body(
        self, head: codec.ResponseHead, wire: bytes, text: bytes | None, decision: ResponseDecision
    ) -> bytes | None:
        """What the client gets in the place of `wire`, if anything else."""
        if not wire:
            return None
        if text is None:
            self._recorder.response_body(wire, last=True)  # sealed; or it raises
            return None
        shown: Shown = None
        if self._as_recorded(decision):
            shown = "as recorded"
        elif decision.mask_json:
            shown = self._inspection.narrow(decision.mask_json)
        looked = look(self._recorder.masker, head.headers, wire, text, shown=shown)
        self._recorder.part(looked.record, looked.form, looked.masks)
        return looked.instead

    def _record_verdict(self, decision: ResponseDecision, *, changed: bool) -> None:
        """`changed`: the client gets something masked."""
        if changed or self._inspection.judge is not None:
            masks = changed or decision.action == "mask"
            self._recorder.response_verdict("mask" if masks else "pass", hits=decision.hits)

    def _record_arrived(self, head: codec.ResponseHead, wire: bytes) -> None:
        """The part of it that came, undecided: as masked as any rule could have asked for."""
        judge = self._inspection.judge
        if judge is not None and judge.may_mask:
            self._recorder.use(self._inspection.stricter(judge.may_mask))
        with contextlib.suppress(DouaneError):  # what cannot be looked into is not kept
            self._record_head(head, masked=False)
            self._recorder.response_body(wire, last=False)
            self._recorder.response_body(b"", last=True)

    def _withheld(self, deny: Deny, hits: tuple[RuleHit, ...] = ()) -> DouaneError:
        self._recorder.response_verdict("withhold", deny, hits)
        return DouaneError(deny.reason, deny.message, remedy=deny.remedy, http_status=deny.http_status)


def _length(headers: Headers) -> int | None:
    length = headers.first("content-length") or b""
    return int(length) if length.isdigit() else None


def _is_part(head: codec.ResponseHead) -> bool:
    """A part of a document, or what changes one (RFC 9110 section 15.3.7, RFC 3229): it says little by itself."""
    return head.status in (206, 226) or head.headers.first("content-range") is not None
