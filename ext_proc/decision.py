"""What a stage decides about a request, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deny:
    """The request ends here. `reason` is stable; `message` and `remedy` are for the caller."""

    reason: str
    message: str
    http_status: int = 403
    policy: str = ""
    remedy: str = ""
