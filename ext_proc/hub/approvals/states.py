"""What an approval is and how it may change: values and functions of them, without a clock or a database.

                    approved (the last yes that was needed)
    requested ───────────────────────────────▶ approved ──────▶ used
        │  │                                     │  │
        │  └──────▶ denied          withdrawn ◀──┘  │
        └─────────▶ expired ◀───────────────────────┘

Each change is an event that is appended and never altered. A state in the last column stays.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ext_proc.errors import ApprovalError

LOCAL = "local"
"""As an approver: whoever can reach the hub's own socket. As an issuer: how such a yes is labelled."""


class State(StrEnum):
    REQUESTED = "requested"
    APPROVED = "approved"
    USED = "used"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"

    @property
    def open(self) -> bool:
        return self in (State.REQUESTED, State.APPROVED)


@dataclass(frozen=True, slots=True)
class Requirement:
    """Met by `quorum` different people among `approvers`: `group:NAME`, `user:NAME`, `local`."""

    policy: str
    approvers: tuple[str, ...]
    quorum: int

    @property
    def local_only(self) -> bool:
        return all(one == LOCAL for one in self.approvers)


@dataclass(frozen=True, slots=True)
class Approver:
    """A person who decides. `issuer` is the URL of who vouches for them, or `local`; `name` the value of
    `sign_in.user_claim`, or the user id on this machine."""

    name: str
    issuer: str
    subject: str
    groups: frozenset[str] = frozenset()

    @property
    def local(self) -> bool:
        return self.issuer == LOCAL

    @property
    def label(self) -> str:
        """What they are called everywhere: `oidc:NAME`, or `local:UID`."""
        return label(self.name, self.issuer)

    def fits(self, requirement: Requirement) -> bool:
        """Whether this person is among the requirement's approvers."""
        if self.local:
            return LOCAL in requirement.approvers
        mine = {f"group:{group}" for group in self.groups} | {f"user:{_letters(self.name)}"}
        return any(
            (f"user:{_letters(one[5:])}" if one.startswith("user:") else one) in mine
            for one in requirement.approvers
            if one != LOCAL
        )


@dataclass(frozen=True, slots=True)
class Yes:
    """One approver's yes, and the numbers of the requirements that it counts for."""

    name: str
    issuer: str
    subject: str
    meets: tuple[int, ...]

    @property
    def label(self) -> str:
        return label(self.name, self.issuer)


@dataclass(frozen=True, slots=True)
class Approval:
    """Times in microseconds since the epoch. `person` is who the caller acts for, None for nobody. `valid_until_us` is
    0 until it is approved, `closed_us` until it is over. `exchange_id` is the request that was last attached to it;
    `told` whether a request has heard how it ended. `version` counts the changes."""

    id: str
    state: State
    requirements: tuple[Requirement, ...]
    person: str | None
    made_us: int
    expires_us: int
    validity_us: int
    exchange_id: bytes
    yes: tuple[Yes, ...] = ()
    valid_until_us: int = 0
    closed_us: int = 0
    told: bool = False
    comment: str = ""
    version: int = 0

    @property
    def approved_by(self) -> list[str]:
        return [one.label for one in self.yes]

    @property
    def deadline_us(self) -> int | None:
        """When it expires as it is now; None once it is over."""
        return {State.REQUESTED: self.expires_us, State.APPROVED: self.valid_until_us}.get(self.state)

    @property
    def missing(self) -> dict[str, int]:
        """How many more people each policy wants."""
        counts = [sum(n in one.meets for one in self.yes) for n in range(len(self.requirements))]
        return {
            r.policy: r.quorum - count for r, count in zip(self.requirements, counts, strict=True) if count < r.quorum
        }


def say_yes(approval: Approval, approver: Approver, now_us: int, comment: str = "") -> Approval:
    """With the approver's yes. ApprovalError says why it does not count."""
    _check_open(approval, now_us)
    meets = _requirements_of(approval, approver)
    if any(_same(approver, one) for one in approval.yes):
        raise ApprovalError(
            "approval.said_before",
            f"{approver.label} has approved {approval.id} already, and each person counts once",
            remedy="Somebody else must approve it.",
        )
    if approval.state is not State.REQUESTED:
        raise ApprovalError("approval.closed", f"{approval.id} is {approval.state} already")
    if approval.person is not None and not approver.local and same_person(approver.name, approval.person):
        raise ApprovalError(
            "approval.self",
            f"the request was made for {approval.person}, who may not approve it",
            remedy="Somebody else must approve it.",
            http_status=403,
        )
    yes = (*approval.yes, Yes(approver.name, approver.issuer, approver.subject, meets))
    after = replace(approval, yes=yes, comment=comment)
    if after.missing:
        return after
    return replace(after, state=State.APPROVED, valid_until_us=now_us + approval.validity_us)


def say_no(approval: Approval, approver: Approver, now_us: int, comment: str = "") -> Approval:
    """Denied, or withdrawn where it was approved and not used yet. One approver's no is enough, whatever the quorum.
    ApprovalError says why it does not count."""
    _check_open(approval, now_us)
    _requirements_of(approval, approver)
    state = State.DENIED if approval.state is State.REQUESTED else State.WITHDRAWN
    return replace(approval, state=state, closed_us=now_us, comment=comment)


def expire(approval: Approval, now_us: int) -> Approval:
    """Expired if its time is over, else unchanged."""
    deadline = approval.deadline_us
    if deadline is None or deadline > now_us:
        return approval
    return replace(approval, state=State.EXPIRED, closed_us=now_us)


def use(approval: Approval, exchange_id: bytes, now_us: int) -> Approval:
    """Used up by this exchange. ValueError unless it is approved and valid."""
    if approval.state is not State.APPROVED or approval.valid_until_us <= now_us:
        raise ValueError(f"{approval.id} cannot be used: it is {approval.state}")
    return replace(approval, state=State.USED, exchange_id=exchange_id, closed_us=now_us, told=True)


def label(name: str, issuer: str) -> str:
    """No name at a provider can look like the operator of this machine."""
    return f"{LOCAL}:{name}" if issuer == LOCAL else f"oidc:{name}"


def same_person(one: str, other: str) -> bool:
    """Whether two names may be one person's. Differences in letter case, width and composition are none: it is safer
    to take two people for one than one for two."""
    return _folded(one) == _folded(other)


def may_see(approval: Approval, approver: Approver) -> bool:
    """Whether the person may read what is asked: the approvers, and whom the caller acts for."""
    if any(approver.fits(requirement) for requirement in approval.requirements):
        return True
    return approver.local or (approval.person is not None and same_person(approver.name, approval.person))


def _check_open(approval: Approval, now_us: int) -> None:
    if not approval.state.open:
        raise ApprovalError("approval.closed", f"{approval.id} is {approval.state} already")
    if expire(approval, now_us) is not approval:
        raise ApprovalError("approval.closed", f"{approval.id} has expired")


def _requirements_of(approval: Approval, approver: Approver) -> tuple[int, ...]:
    meets = tuple(n for n, one in enumerate(approval.requirements) if approver.fits(one))
    if not meets:
        raise ApprovalError(
            "approval.not_approver",
            f"{approver.label} is not among those who may decide {approval.id}: {_listed(approval.requirements)}",
            remedy="Sign in as one of them, or ask one.",
            http_status=403,
        )
    return meets


def _listed(requirements: Sequence[Requirement]) -> str:
    return ", ".join(dict.fromkeys(one for requirement in requirements for one in requirement.approvers))


def _same(approver: Approver, yes: Yes) -> bool:
    if approver.local or yes.issuer == LOCAL:
        return approver.local and yes.issuer == LOCAL
    return approver.subject == yes.subject or same_person(approver.name, yes.name)


def _letters(name: str) -> str:
    """An address is the same in any case of A to Z (the Kelvin sign is no k); other names are as they are."""
    return "".join(c.lower() if c.isascii() else c for c in name) if "@" in name else name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()
