"""Which way a response goes: by how Envoy runs its route, and by what looks at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ext_proc import codec
from ext_proc.decision import Obligations
from ext_proc.exchange import Authorized
from ext_proc.masking import ExchangeMasker
from ext_proc.response.duplex import DuplexResponse
from ext_proc.response.inspected import InspectedResponse, Inspection
from ext_proc.response.streamed import StreamedResponse
from ext_proc.rules import Facts, Message, ResponseDecision, ResponseRules
from ext_proc.runtime import CompiledConnection, Snapshot
from ext_proc.stages.record import Recorder


class Response(Protocol):
    """One response, phase by phase. Faults raise DouaneError; Cut where the connection must be cut."""

    @property
    def unasked(self) -> tuple[str, ...]:
        """Request fields that the upstream must not see, for what they ask for could not be looked into."""

    @property
    def ended(self) -> bool:
        """Envoy has nothing more of it."""

    @property
    def waiting(self) -> bool:
        """True while something waits only for what comes next, see `on_idle`."""

    async def on(self, phase: codec.Phase) -> codec.Answers: ...

    async def on_idle(self) -> codec.Answers:
        """The upstream pauses while something waits."""

    def abandon(self) -> None:
        """The stream ends before the response does: what arrived is handed to the recorder."""


def respond(
    recorder: Recorder,
    snapshot: Snapshot,
    connection: CompiledConnection,
    authorized: Authorized,
    masker: Callable[[Obligations], ExchangeMasker],
) -> Response:
    """The response half of an allowed request. `masker` gives the exchange's masker under more obligations."""
    exchange = authorized.identified.exchange
    if not connection.inspected:
        return StreamedResponse(recorder, exchange)
    rules = snapshot.policy.response_rules(exchange)
    if rules is None and not snapshot.masks_for_client:
        return DuplexResponse(recorder, exchange, max_decoded=snapshot.max_decoded)
    owed = authorized.obligations
    inspection = Inspection(
        None if rules is None else _Judge(rules, authorized),
        client=snapshot.masks_for_client,
        limit=connection.config.max_inspect_response,
        max_decoded=snapshot.max_decoded,
        stricter=lambda paths: masker(replace(owed, mask_json=(*owed.mask_json, *paths))),
        narrow=lambda paths: snapshot.narrow_masker(connection, paths),
    )
    return InspectedResponse(recorder, exchange, inspection)


class _Judge:
    """Policies over the response to one request."""

    def __init__(self, rules: ResponseRules, authorized: Authorized) -> None:
        self._rules = rules
        self._authorized = authorized
        masks = [rule.policy.mask for rule in rules.rules]
        self.may_mask = tuple(path for mask in masks if mask is not None for path in mask.json_paths)

    def decide(self, head: codec.ResponseHead, body: bytes | None, size: int | None) -> ResponseDecision:
        who = self._authorized.identified
        return self._rules.decide(
            Facts(
                who.exchange,
                who.caller,
                who.workload,
                operation=self._authorized.operation,
                response=Message(head.headers, body, size),
                status=head.status,
            )
        )
