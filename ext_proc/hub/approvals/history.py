"""Events of approvals on their way to ClickHouse, each exactly once.

Rows are made from the registry in the order of their numbers; how far that went is committed with them. ClickHouse
keeps this history and decides nothing: nothing here reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ext_proc.hub.approvals.rows import Event, Summary, requirements_text
from ext_proc.hub.approvals.states import Approval
from ext_proc.hub.rowbinary import data, text, texts, time, uint64, uuid, word

if TYPE_CHECKING:
    from ext_proc.hub.approvals.waiting import Approvals

COLUMNS = (
    *("ts", "approval_id", "registry", "number", "event", "state"),
    *("approver", "approver_issuer", "approver_subject", "comment", "exchange_id", "gate", "writer"),
    *("connection", "operation", "method", "path", "issuer", "subject", "acts_for", "session_id", "session_label"),
    *("policies", "requirements", "message", "digest"),
)
TABLE = "approvals"
_AT_ONCE = 500


class History:
    """For one life of the ledger."""

    def __init__(self, approvals: Approvals) -> None:
        self._approvals = approvals
        self._registry = ""
        self._after = 0
        self._news = approvals.news
        self._more = True

    async def begin(self, entered: tuple[str, int]) -> None:
        """`entered` is what the ledger has: the registry, and the number of its last event. Another registry than this
        hub's begins anew."""
        self._registry = await self._approvals.registry.identity()
        self._after = entered[1] if entered[0] == self._registry else 0
        self._approvals.entered = self._after

    async def rows(self) -> list[bytes]:
        """The next rows, in order; often none."""
        if not self._more and not self._news.is_set():
            return []
        self._news = self._approvals.news
        found = await self._approvals.registry.events(self._after, _AT_ONCE)
        self._more = len(found) == _AT_ONCE
        if found:
            self._after = found[-1][0].number
        return [row(self._registry, event, approval, about) for event, approval, about in found]

    @property
    def position(self) -> tuple[str, int]:
        """What `begin` wants once the rows so far are entered."""
        return self._registry, self._after

    def entered(self, position: tuple[str, int]) -> None:
        """The ledger has them: the registry may forget."""
        self._approvals.entered = position[1]


def row(registry: str, event: Event, approval: Approval, about: Summary) -> bytes:
    """One event, in the order of COLUMNS."""
    return b"".join(
        (
            time(event.at_us),
            text(approval.id),
            word(registry),
            uint64(event.number),
            word(event.event),
            word(event.state),
            word(event.approver),
            word(event.approver_issuer),
            text(event.approver_subject),
            text(event.comment),
            uuid(event.exchange_id),
            word(event.gate or about.gate),
            word(about.writer),
            word(about.connection),
            word(about.operation),
            word(about.method),
            text(about.path),
            word(about.issuer),
            word(about.subject),
            word(approval.person or ""),
            uuid(about.session_id),
            text(about.session_label),
            texts([requirement.policy for requirement in approval.requirements]),
            data(requirements_text(approval.requirements).encode()),
            text(about.message),
            about.digest,
        )
    )
