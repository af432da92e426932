"""What a stage decides about a request, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allow:
    """The request may go on. `policy` names what allowed it (the grant, where no policy spoke)."""

    policy: str = ""


@dataclass(frozen=True, slots=True)
class Deny:
    """The request ends here. `reason` is stable; `message` and `remedy` are for the caller."""

    reason: str
    message: str
    http_status: int = 403
    policy: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """The request waits until a person decides. `approval_id` names the open approval."""

    approval_id: str
    policy: str
    message: str


Decision = Allow | Deny | Hold
