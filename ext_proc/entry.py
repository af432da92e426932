"""What one stream enters in the ledger: its record, from the masked head on, and the answers that we give ourselves.

`stream` decides what happens and says so here; nothing goes on, and nobody is answered, before it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ext_proc import codec
from ext_proc.decision import NO_OBLIGATIONS, Deny, Obligations
from ext_proc.errors import DouaneError, RecordError
from ext_proc.exchange import Authorized, Headers, Identified
from ext_proc.oidc import Presented
from ext_proc.pipeline import Passage, denial
from ext_proc.stages.record import REQUEST, Recorder

if TYPE_CHECKING:
    from ext_proc.masking import ExchangeMasker
    from ext_proc.runtime import CompiledConnection, Snapshot
    from ext_proc.spool import Spool

Secrets = tuple[tuple[str, bytes], ...]


class Entry:
    """`presented` is what the caller sent as proof, `identified` who it is, once that is proven. `recorder` is None
    until something is to be written."""

    def __init__(
        self,
        spool: Spool,
        attempt: int,
        head: codec.RequestHead,
        snapshot: Snapshot,
        connection: CompiledConnection,
    ) -> None:
        self._spool = spool
        self._attempt = attempt
        self._exchange = head.exchange
        self._snapshot = snapshot
        self._connection = connection
        self._own: Secrets = ()  # credentials of this exchange alone
        self.presented = Presented()
        self.identified: Identified | None = None
        self.recorder: Recorder | None = None

    # --- what is written ---------------------------------------------------------------------------------------------

    def masker(self, obligations: Obligations = NO_OBLIGATIONS, secrets: Secrets = ()) -> ExchangeMasker:
        return self._snapshot.exchange_masker(
            self._connection, self._exchange, self.presented, secrets, obligations, self._own
        )

    def begin(self, masker: ExchangeMasker, body: bytes | None = None, trailers: Headers | None = None) -> Recorder:
        """The request as it came: its head, and of its body what is at hand. Trailers come behind a whole body."""
        recorder = self.recorder = Recorder(
            self._spool,
            self._attempt,
            self._exchange,
            masker,
            host=self._connection.upstream_host,
            digest=self._snapshot.digest,
            undecodable=self._connection.config.undecodable,
        )
        recorder.open()
        if body:
            recorder.request_body(body, last=trailers is None)
        if trailers is not None:
            recorder.trailers(REQUEST, trailers)
        return recorder

    def held(self, recorder: Recorder, authorized: Authorized, approval_id: str) -> None:
        """It waits for people; a later verdict says how that went."""
        assert authorized.hold is not None
        pending = Deny(
            "approval.pending",
            "waits for a person",
            policy=authorized.hold.policies,
            decision="hold",
            approval_id=approval_id,
            hits=authorized.hits,
            operation=authorized.operation,
        )
        self._verdict(recorder, pending)

    async def passed(self, passage: Passage, body: bytes | None, trailers: Headers | None) -> Recorder:
        """It may pass: written when this returns. What was held is in the record already."""
        approved, authorized = passage.approved, passage.approved.authorized
        self._own = passage.injected.own
        masker = self.masker(authorized.obligations)
        recorder = self.recorder
        if recorder is None:
            recorder = self.begin(masker, body, trailers)
        else:
            recorder.use(masker)
        recorder.verdict(
            None,
            policy=authorized.grant,
            operation=authorized.operation,
            hits=authorized.hits,
            credentials=passage.injected.labels,
            approval_id=approved.approval_id,
            approved_by=approved.approved_by,
            caller=authorized.identified.caller,
            workload=authorized.identified.workload,
        )
        await recorder.commit()
        return recorder

    # --- what the client is told by us -------------------------------------------------------------------------------

    async def refuse(self, deny: Deny, collected: Sequence[bytes] = ()) -> codec.Answers:
        """Refuse and record it, with what has been `collected` of the body. Nothing has reached the upstream."""
        recorder = self.recorder
        if recorder is None:
            recorder = self.begin(self.masker())
            if collected:
                try:
                    recorder.request_body(b"".join(collected), last=True)
                except DouaneError as fault:  # the refused body cannot be looked into, so it is not kept
                    deny = replace(deny, message=f"{deny.message} (the body is not recorded: {fault.reason})")
        self._verdict(recorder, deny)
        body = codec.refusal_body(deny, self._exchange.exchange_id)
        return await self._answer(
            recorder, deny.http_status, body, outcome="denied", reason=deny.reason, headers=deny.headers
        )

    async def fail(self, deny: Deny, collected: Sequence[bytes] = ()) -> codec.Answers:
        """A fault outside the stages. Envoy passes the refusal on while the answer's head has not left, and cuts the
        connection afterwards."""
        recorder = self.recorder
        if recorder is None and deny.reason == "recording.unavailable":  # to record it is what failed
            return [codec.refuse(deny, self._exchange.exchange_id)]
        if recorder is None or not recorder.started:
            self.recorder = None
            return await self.refuse(deny, collected)
        recorder.close("denied", deny.reason)
        await recorder.commit()
        return [codec.refuse(deny, self._exchange.exchange_id)]

    async def serve(self, status: int, body: bytes, secrets: Secrets) -> codec.Answers:
        """An answer to what was asked of ourselves; `secrets` are in it."""
        recorder = self.begin(self.masker(secrets=secrets))
        who = self.identified
        assert who is not None
        recorder.verdict(None, policy="session", caller=who.caller, workload=who.workload)
        return await self._answer(recorder, status, body, outcome="complete", reason="")

    def _verdict(self, recorder: Recorder, deny: Deny) -> None:
        who = self.identified
        recorder.verdict(
            deny,
            operation=deny.operation,
            hits=deny.hits,
            approval_id=deny.approval_id,
            caller=who.caller if who else None,
            workload=who.workload if who else None,
        )

    async def _answer(
        self,
        recorder: Recorder,
        status: int,
        body: bytes,
        *,
        outcome: str,
        reason: str,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> codec.Answers:
        """Answer the client ourselves, once that is recorded."""
        recorder.response_head(status, Headers((*codec.REPLY_HEADERS, *headers)), reason, "", last=False)
        recorder.response_body(body, last=True)
        recorder.close(outcome, reason)
        try:
            await recorder.commit()
        except RecordError as fault:
            return [codec.refuse(denial(fault), self._exchange.exchange_id)]
        # Envoy spares details in this form
        return [codec.reply(status, body, details=reason or "session.served", headers=headers)]
