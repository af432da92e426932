"""Which person a caller acts for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ext_proc.errors import ApprovalError

if TYPE_CHECKING:
    from ext_proc.config.approvals import Actors
    from ext_proc.hub.approvals.states import Requirement


def person_of(
    actors: Mapping[str, Actors],
    issuer: str,
    claims: Mapping[str, Any],
    requirements: tuple[Requirement, ...],
    *,
    by_email: bool = False,
) -> str | None:
    """The person who may not approve, None where the caller acts for nobody. `issuer` is the configured name;
    `by_email`: approvers are known by their addresses, so that nothing else can be one of them.

    ApprovalError `approval.actor_unmapped` where that is not known and other people than the laptop's operator are to
    approve: they might approve their own request.
    """
    local_only = all(requirement.local_only for requirement in requirements)
    known = actors.get(issuer)
    if known is None:
        if local_only:
            return None
        raise _unmapped(f"callers of the issuer {issuer} act for", f"approvals.actors.{issuer}")
    value = claims.get(known.claim)
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if text and text in known.people:
        return known.people[text]
    if text and known.same and ("@" in text or not by_email):
        return text
    if local_only:
        return None
    who = f"{known.claim} {text[:100]!r} stands for" if text else f"a caller without {known.claim} acts for"
    raise _unmapped(who, f"approvals.actors.{issuer}.people")


def _unmapped(who: str, where: str) -> ApprovalError:
    return ApprovalError(
        "approval.actor_unmapped",
        f"nobody may approve this request: it is not configured whom {who}",
        remedy=f"Add it under {where}: the person, or null for a machine that acts for nobody.",
        http_status=403,
    )
