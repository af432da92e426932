"""Stage 5, around all others: what passes is first masked and written down.

A `Recorder` lives as long as one ext_proc stream. It gathers events and writes them in one append; only then may the
caller release the bytes they describe. It sees the request before injection, and of the credential only the name.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from ext_proc.approvals import SHOWN_BODY, Shown
from ext_proc.decision import Deny, RuleHit
from ext_proc.errors import DouaneError, RecordError
from ext_proc.exchange import Caller, Exchange, Headers, content_codings, is_interactive
from ext_proc.masking import codings, for_client
from ext_proc.pb import journal_pb2

if TYPE_CHECKING:
    from ext_proc.masking import BodyMasker, ExchangeMasker
    from ext_proc.spool import Spool

REQUEST = journal_pb2.REQUEST
RESPONSE = journal_pb2.RESPONSE


class Recorder:
    """Writes one exchange into the spool, in the order in which it happens.

    Methods that take body bytes return what may be released once `commit` has returned.
    """

    def __init__(
        self,
        spool: Spool,
        attempt: int,
        exchange: Exchange,
        masker: ExchangeMasker,
        *,
        host: str,
        digest: str,
        undecodable: Literal["refuse", "seal"],
    ) -> None:
        self._spool = spool
        self._attempt = attempt
        self._exchange = exchange
        self._masker = masker
        self._host = host
        self._digest = digest
        self._undecodable = undecodable
        self._id = exchange.exchange_id.bytes
        self._pending: list[journal_pb2.Event] = []
        self._bodies: dict[journal_pb2.Direction, BodyMasker] = {}
        self._opened = False
        self._websocket = (exchange.headers.first("upgrade") or b"").lower() == b"websocket"
        self._response_headers = Headers()
        self._response_interactive = False
        self.code_details = ""
        self.started = False  # something of this exchange is in the journal
        self.closed = False

    # --- the request -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """The request's head as the client sent it, masked."""
        exchange, masker = self._exchange, self._masker
        opened = self._event(at_us=exchange.received_us).opened
        opened.connection = exchange.connection
        opened.method = exchange.method
        opened.scheme = exchange.scheme
        opened.host = self._host
        opened.path, path_masks = masker.text("path", _clean(exchange.path))
        opened.query, query_masks = masker.text("query", _clean(exchange.query))
        opened.source_address = exchange.source_address
        opened.protocol = exchange.protocol
        opened.config_digest = self._digest
        headers, header_masks = masker.headers("req_headers", exchange.headers)
        _add_headers(opened.headers, headers)
        opened.masks.extend(path_masks)
        opened.masks.extend(query_masks)
        opened.masks.extend(header_masks)
        self._opened = True

    def verdict(
        self,
        verdict: Deny | None,
        *,
        policy: str = "",
        operation: str = "",
        credentials: Sequence[str] = (),
        caller: Caller | None = None,
        workload: Caller | None = None,
        approval_id: str = "",
        approved_by: Sequence[str] = (),
        hits: Sequence[RuleHit] = (),
    ) -> None:
        """What was decided, about whom, and with which credential (its name). None allows; a Deny whose decision is
        `hold` may still be lifted by a later verdict."""
        event = self._event().verdict
        event.policy = policy
        event.operation = operation
        event.approval_id = approval_id
        event.approved_by.extend(approved_by)
        event.credential = ",".join(credentials)
        event.hits.extend(self._hits(hits))
        if verdict is None:
            event.decision = "allow"
        else:
            event.decision = verdict.decision
            event.reason = verdict.reason
            event.message = verdict.message
            event.policy = verdict.policy or policy
        if caller is not None:
            event.caller.CopyFrom(_identity(caller))
        if workload is not None:
            event.workload.CopyFrom(_identity(workload))

    def shown(self, body: bytes, max_decoded: int, hits: Sequence[RuleHit]) -> Shown:
        """The request for the eyes of approvers, after `open` and `trailers`: what the ledger has of its head and its
        trailers, which are called `NAME (trailer)`, and the body's text.

        `body` is as sent, of at most `max_decoded` bytes when decoded; of one that cannot be decoded only the size is
        shown."""
        opened = next(e.opened for e in self._pending if e.WhichOneof("event") == "opened")
        trailers = [e.trailers.trailers for e in self._pending if e.WhichOneof("event") == "trailers"]
        headers = self._exchange.headers
        try:
            decoder = codings.decoder(content_codings(headers))
            text = body if decoder is None else decoder.feed(body, max_decoded)
            if decoder is not None and body:
                decoder.finish()
        except (codings.CodingError, codings.TooLargeError):
            masked, size = b"", len(body)
        else:
            masker = self._masker.body(REQUEST, headers.first("content-type") or b"", b"")
            masked = masker.feed(text, True).record
            size = len(masked)
        return Shown(
            path=opened.path,
            query=opened.query,
            headers=[
                *((header.name, header.value) for header in opened.headers),
                *((f"{field.name} (trailer)", field.value) for fields in trailers for field in fields),
            ],
            body=masked[:SHOWN_BODY],
            body_size=size,
            hits_json=[_hit_json(hit) for hit in self._hits(hits)],
        )

    def use(self, masker: ExchangeMasker) -> None:
        """For what comes from now on: a credential that was fetched meanwhile is known to it."""
        self._masker = masker

    def _hits(self, hits: Sequence[RuleHit]) -> list[journal_pb2.RuleHit]:
        """The values are the caller's, so they are masked as any text would be, each beside its path, so that a field's
        name tells what it holds; and what is masked in the request itself (at a configured place, say) is here, too."""
        hidden = {mask.fingerprint for event in self._pending for mask in _masks(event)} if hits else set()
        found = []
        for hit in hits:
            values = {
                path: "[masked]" if hidden and self._masker.fingerprint(str(value).encode()) in hidden else value
                for path, value in hit.values.items()
            }
            text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=str)
            masked, _ = self._masker.text("rules", text)
            found.append(
                journal_pb2.RuleHit(
                    policy=hit.policy, digest=hit.digest, effect=hit.effect, mode=hit.mode, values_json=masked
                )
            )
        return found

    def request_body(self, data: bytes, last: bool) -> bytes:
        interactive = is_interactive(self._exchange.headers, upgraded="upgrade" in dict(self._exchange.headers))
        return self._body(REQUEST, self._exchange.headers, data, last, interactive=interactive)

    def trailers(
        self, direction: journal_pb2.Direction, trailers: Headers, *, client: bool = False
    ) -> tuple[bytes, list[tuple[str, bytes]]]:
        """Records trailers. They end a body, so what was held of it is returned, to be released before them; and the
        fields that must be changed, as `response_head` says."""
        held = self._finish_body(direction)
        masked, masks = self._masker.headers("req_trailers" if direction == REQUEST else "resp_trailers", trailers)
        event = self._event().trailers
        event.direction = direction
        _add_headers(event.trailers, masked)
        event.masks.extend(masks)
        return held, self._changes(trailers, masked if client else None, masks) if direction == RESPONSE else []

    # --- the response ------------------------------------------------------------------------------------------------

    @property
    def masker(self) -> ExchangeMasker:
        return self._masker

    def response_head(
        self, status: int, headers: Headers, code_details: str, upstream: str, *, last: bool, client: bool = False
    ) -> list[tuple[str, bytes]]:
        """Records the response's head; returns the fields that must be changed so that no credential is echoed, or, for
        a `client` that is spared what the ledger is, so that nothing masked is seen.

        Raises where the body that follows is in a coding that cannot be looked into, while it can still be refused;
        `last`: none follows, or it is decoded elsewhere, and comes by `part`.
        """
        self._response_headers = headers
        self.code_details = code_details
        self._response_interactive = is_interactive(headers, upgraded=status == 101)
        masked, masks = self._masker.headers("resp_headers", headers)
        event = self._event().response_head
        event.status = status
        event.code_details = code_details
        event.upstream_address = upstream
        _add_headers(event.headers, masked)
        event.masks.extend(masks)
        if not last and content_codings(headers):
            self._bodies[RESPONSE] = self._new_body(RESPONSE, headers, interactive=self._response_interactive)
        return self._changes(headers, masked if client else None, masks)

    def response_body(self, data: bytes, last: bool) -> bytes:
        return self._body(RESPONSE, self._response_headers, data, last, interactive=self._response_interactive)

    def release_response(self) -> bytes:
        """Response bytes that wait for more to come, to be let go because it does not; see `BodyMasker.release_now`."""
        body = self._bodies.get(RESPONSE)
        return b"" if body is None else body.release_now()

    def part(self, data: bytes, form: journal_pb2.Part.Form, masks: Sequence[journal_pb2.Mask]) -> None:
        """Records a piece of the response's body that was masked elsewhere."""
        if data:
            part = self._event().part
            part.direction = RESPONSE
            part.data = data
            part.form = form
            part.masks.extend(masks)

    def response_verdict(self, decision: str, verdict: Deny | None = None, hits: Sequence[RuleHit] = ()) -> None:
        """What was decided of the response: pass, mask or withhold; why, where it is withheld."""
        event = self._event().response_verdict
        event.decision = decision
        event.hits.extend(self._hits(hits))
        if verdict is not None:
            event.reason, event.message, event.policy = verdict.reason, verdict.message, verdict.policy

    # --- the end -----------------------------------------------------------------------------------------------------

    def close(self, outcome: str, reason: str = "") -> None:
        """The end, once. An empty outcome leaves it to Envoy's access log."""
        if self.closed:
            return
        self.closed = True
        event = self._event().closed
        event.outcome = outcome
        event.reason = reason
        # from the head's arrival, so that a body that was awaited counts
        event.duration_us = max(time.time_ns() // 1000 - self._exchange.received_us, 0)

    def write(self) -> int:
        """Append what was gathered; the journal offset after it. RecordError when it cannot be written."""
        events, self._pending = self._pending, []
        self.started = True
        try:
            return self._spool.append(*events)
        except RecordError:
            if self.closed:  # not as it would have ended: what came with it is lost, and so it was cut
                ended = journal_pb2.Closed(reason="recording.unavailable")
                self._spool.owe(
                    journal_pb2.Event(
                        exchange_id=self._id, attempt=self._attempt, at_us=time.time_ns() // 1000, closed=ended
                    )
                )
            raise

    async def commit(self) -> None:
        """Append what was gathered and wait until it is as durable as configured."""
        if self._pending:
            await self._spool.durable(self.write())

    def abandon(self, reason: str) -> None:
        """The stream ended early. Whatever was held is written, never released, and the access log settles the rest."""
        if not self._opened or self.closed:
            return
        for direction in tuple(self._bodies):
            with contextlib.suppress(
                DouaneError
            ):  # a body cut in the middle of a compressed block has no end to decode
                self._finish_body(direction)
        self.close("", reason)
        self.write()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _event(self, at_us: int | None = None) -> journal_pb2.Event:
        event = journal_pb2.Event(
            exchange_id=self._id, attempt=self._attempt, at_us=time.time_ns() // 1000 if at_us is None else at_us
        )
        self._pending.append(event)
        return event

    def _body(
        self, direction: journal_pb2.Direction, headers: Headers, data: bytes, last: bool, *, interactive: bool
    ) -> bytes:
        body = self._bodies.get(direction)
        if body is None:
            if not data:
                return b""
            body = self._bodies[direction] = self._new_body(direction, headers, interactive=interactive)
        step = body.feed(data, last)
        if step.record:
            part = self._event().part
            part.direction = direction
            part.data = step.record
            part.form = step.form
            part.masks.extend(step.masks)
        if last:
            del self._bodies[direction]
        return step.release

    def _new_body(self, direction: journal_pb2.Direction, headers: Headers, *, interactive: bool) -> BodyMasker:
        return self._masker.body(
            direction,
            headers.first("content-type") or b"",
            content_codings(headers),
            redact=direction == RESPONSE,
            interactive=interactive,
            undecodable=self._undecodable,
            websocket=self._websocket,
        )

    def _changes(
        self, sent: Headers, stored: Sequence[tuple[str, bytes]] | None, masks: Sequence[journal_pb2.Mask]
    ) -> list[tuple[str, bytes]]:
        """Every occurrence of the fields of which one must change, changed where it must: credentials blanked, or all
        that is masked in `stored`."""
        changes = {index: value for index, _, value in self._masker.redact_headers(sent)}
        if stored is not None:
            changes = {
                index: for_client(stored[index][1], list(found))
                for index, found in groupby((m for m in masks if not m.place.endswith(".name")), key=lambda m: m.index)
            }
        if not changes:
            return []
        names = {sent.items[index][0] for index in changes}
        return [(n, changes.get(i, v)) for i, (n, v) in enumerate(sent.items) if n in names]

    def _finish_body(self, direction: journal_pb2.Direction) -> bytes:
        if direction not in self._bodies:
            return b""
        return self._body(direction, Headers(), b"", True, interactive=False)


def _masks(event: journal_pb2.Event) -> Sequence[journal_pb2.Mask]:
    kind = event.WhichOneof("event")
    return getattr(getattr(event, kind), "masks", ()) if kind else ()


def _hit_json(hit: journal_pb2.RuleHit) -> str:
    """As approvers see it. The values are JSON unless a mask cut into their form."""
    try:
        values = json.loads(hit.values_json)
    except ValueError:
        values = hit.values_json
    return json.dumps({"policy": hit.policy, "digest": hit.digest, "effect": hit.effect, "values": values})


@lru_cache(maxsize=256)
def _identity(who: Caller) -> journal_pb2.Identity:
    return journal_pb2.Identity(
        issuer=who.issuer,
        subject=who.subject,
        claims_json=json.dumps(who.claims, ensure_ascii=False, separators=(",", ":")),
        session_id=who.session_id.bytes,
        session_label=who.session_label,
    )


def _add_headers(into: object, headers: Sequence[tuple[str, bytes]]) -> None:
    for name, value in headers:
        into.add(name=name, value=value)  # type: ignore[attr-defined]  # protobuf's repeated composite container


def _clean(text: str) -> str:
    """Envoy passes bytes of 0x80 and above; protobuf strings are UTF-8. They are kept percent-encoded."""
    if text.isascii():
        return text
    return "".join(
        c if c.isascii() else "".join(f"%{b:02X}" for b in c.encode("utf-8", "surrogateescape")) for c in text
    )
