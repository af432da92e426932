"""What people are told of an approval. It goes to chats and mailboxes, so it names the request and holds none of its
content: no query, no header, no body."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from ext_proc.hub.approvals.rows import Event, Summary
from ext_proc.hub.approvals.shown import time_text
from ext_proc.hub.approvals.states import Approval, State

_TITLES = {
    "requested": "Approval needed",
    "approved": "Approved",
    "denied": "Denied",
    "withdrawn": "Approval taken back",
    "expired": "Expired: nobody decided",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """`id` is the same whenever it is sent again. Texts are one line each, without control characters."""

    id: str
    event: str
    at: str
    approval_id: str
    state: str
    connection: str
    operation: str
    method: str
    path: str
    issuer: str
    subject: str
    session_label: str
    acts_for: str
    policies: str
    approvers: str
    message: str
    by: str
    comment: str
    expires_at: str
    url: str

    @property
    def title(self) -> str:
        """`Approval needed: DELETE /api/v1/dashboard/x`, one line."""
        return f"{_TITLES[self.event]}: {self.request}"

    @property
    def request(self) -> str:
        return f"{self.method} {self.path}" + (f" ({self.operation})" if self.operation else "")

    @property
    def lines(self) -> list[tuple[str, str]]:
        """(what it is, the text), without what is empty."""
        waits = self.event == "requested"
        found = [
            ("Who", f"{self.subject} ({self.issuer})"),
            ("Run", self.session_label),
            ("Acts for", self.acts_for),
            ("Connection", self.connection),
            ("Held by", self.policies),
            ("Why", self.message),
            ("Who may approve", self.approvers if waits else ""),
            ("Until", self.expires_at if waits else ""),
            ("By", self.by),
            ("Comment", self.comment),
        ]
        return [(name, text) for name, text in found if text]

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Notice:
        return cls(**json.loads(text))


def notice(registry: str, url: str, event: Event, approval: Approval, about: Summary) -> Notice | None:
    """None for what nobody needs to hear: a yes of several, and that it was used."""
    if event.event not in _TITLES or (event.event == "approved" and event.state != State.APPROVED):
        return None
    words: dict[str, Any] = {
        "id": f"msg_{registry[:16]}_{event.number}",
        "event": event.event,
        "at": time_text(event.at_us),
        "approval_id": approval.id,
        "state": event.state,
        "connection": about.connection,
        "operation": about.operation,
        "method": about.method,
        "path": about.path,
        "issuer": about.issuer,
        "subject": about.subject,
        "session_label": about.session_label,
        "acts_for": approval.person or "",
        "policies": ", ".join(one.policy for one in approval.requirements),
        "approvers": "; ".join(f"{one.quorum} of {', '.join(one.approvers)}" for one in approval.requirements),
        "message": about.message,
        "by": event.approver,
        "comment": event.comment,
        "expires_at": time_text(approval.expires_us),
        "url": url,
    }
    return Notice(**{name: _line(text) for name, text in words.items()})


def _line(text: str, most: int = 500) -> str:
    """On one line, whatever a stranger wrote."""
    plain = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"
