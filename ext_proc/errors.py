"""Faults, each with a stable reason code that the client, the record and the metrics show alike.

Expected outcomes (a refusal by policy, say) are values, see `decision`. What is raised from here is a fault that
ends an exchange or a command; the pipeline turns it into a denial in one place.
"""

from __future__ import annotations

from collections.abc import Mapping


class DouaneError(Exception):
    """A fault with everything a client, an operator and a record need.

    `reason` is short and stable (`identity.expired`); `message` says what happened and `remedy` what to do next.
    `detail` is for the operator's log only and never reaches a client.
    """

    default_status = 500

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        remedy: str = "",
        http_status: int | None = None,
        retryable: bool = False,
        detail: str = "",
    ) -> None:
        super().__init__(f"{reason}: {message}" + (f" {remedy}" if remedy else ""))
        self.reason = reason
        self.message = message
        self.remedy = remedy
        self.http_status = http_status or self.default_status
        self.retryable = retryable
        self.detail = detail

    def diagnostics(self) -> Mapping[str, str | int | bool]:
        """What a log line or a record holds of this fault."""
        return {
            "reason": self.reason,
            "message": self.message,
            "remedy": self.remedy,
            "http_status": self.http_status,
            "retryable": self.retryable,
        }


class ConfigError(DouaneError):
    """douane.yaml, or a file it names, cannot be used. `where` is `file:line:column`, as far as known."""

    default_status = 500

    def __init__(self, reason: str, message: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(reason, message, remedy=remedy)
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {super().__str__()}" if self.where else super().__str__()


class ProtocolError(DouaneError):
    """The request, or what Envoy told us of it, breaks a rule of HTTP or of the data path."""

    default_status = 400


class IdentityError(DouaneError):
    """The caller is not who it must be (401), or that cannot be checked now (503)."""

    default_status = 401


class CredentialError(DouaneError):
    """The real credential cannot be had: 502 when its source refuses, 503 when it is away."""

    default_status = 503


class RecordError(DouaneError):
    """The exchange cannot be recorded, so it does not happen."""

    default_status = 503


class HubError(DouaneError):
    """The hub is away or refused; what needs it cannot be decided."""

    default_status = 503


class ApprovalError(DouaneError):
    """An approval cannot be asked for, or somebody cannot decide it: 409 as it is now, 403 for this person."""

    default_status = 409


class StoreError(DouaneError):
    """ClickHouse, or the embedded store, refused or is away."""

    default_status = 503


class Cut(Exception):  # noqa: N818  (not an error of ours: the stream is ended on purpose)
    """The exchange cannot go on and its head has left: the connection must be cut."""
