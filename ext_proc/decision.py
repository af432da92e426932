"""What a stage decides about a request, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class RuleHit:
    """A policy that matched. `digest` is its version, `mode` is enforce or observe, `values` are those that made it
    match, by the path they stand at (unmasked: the recorder masks them)."""

    policy: str
    digest: str
    effect: str
    mode: str
    values: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Requirement:
    """`quorum` different people among `approvers` (`group:NAME`, `user:NAME`, `local`) must say yes."""

    policy: str
    approvers: tuple[str, ...]
    quorum: int


@dataclass(frozen=True, slots=True)
class Hold:
    """The request waits for people; every requirement must be met. `wait` is how long Envoy keeps it, `validity` how
    long an approval may be used, `expires` how long the request for it stays open."""

    requirements: tuple[Requirement, ...]
    wait: timedelta
    validity: timedelta
    expires: timedelta
    message: str = ""

    @property
    def policies(self) -> str:
        """The names of the rules that hold it, as the ledger has them."""
        return ",".join(requirement.policy for requirement in self.requirements)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `limit` requests of one session in any time of `per`."""

    policy: str
    limit: int
    per: timedelta


@dataclass(frozen=True, slots=True)
class Obligations:
    """What an allowed request must put up with: more is masked, and rates are capped."""

    mask_headers: tuple[str, ...] = ()
    mask_json: tuple[str, ...] = ()
    rates: tuple[Rate, ...] = ()


NO_OBLIGATIONS = Obligations()


@dataclass(frozen=True, slots=True)
class Decided:
    """No policy denies. With a `hold`, it may pass once that is approved."""

    hold: Hold | None = None
    obligations: Obligations = NO_OBLIGATIONS
    hits: tuple[RuleHit, ...] = ()


@dataclass(frozen=True, slots=True)
class Deny:
    """The request ends here. `reason` is stable; `message` and `remedy` are for the caller.

    `decision` is what the ledger calls it: `hold` where it may pass once a person has said yes. `approval_id` and
    `approval_url` say which approval that is; `headers` are added to the answer;
    `operation` is the request's name, where it has one.
    """

    reason: str
    message: str
    http_status: int = 403
    policy: str = ""
    remedy: str = ""
    decision: str = "deny"
    approval_id: str = ""
    approval_url: str = ""
    headers: tuple[tuple[str, bytes], ...] = ()
    hits: tuple[RuleHit, ...] = ()
    operation: str = ""
