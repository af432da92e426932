"""Whom a caller acts for."""

from __future__ import annotations

from typing import Any

import pytest

from ext_proc.config.approvals import Actors
from ext_proc.errors import ApprovalError
from ext_proc.hub.approvals.people import person_of
from ext_proc.hub.approvals.states import Requirement

PEOPLE = (Requirement("p", ("group:sre",), 1),)
LOCAL = (Requirement("p", ("local",), 1),)
MIXED = (*LOCAL, *PEOPLE)
ACTORS = {
    "github": Actors(claim="actor_id", people={"1": "mona@acme.example", "2": None}),
    "gitlab": Actors(claim="user_email", people={"bot@acme.example": None}, same=True),
}


@pytest.mark.parametrize(
    ("issuer", "claims", "person"),
    [
        ("github", {"actor_id": "1"}, "mona@acme.example"),
        ("github", {"actor_id": 1}, "mona@acme.example"),
        ("github", {"actor_id": "2"}, None),
        ("gitlab", {"user_email": "x@acme.example"}, "x@acme.example"),
        ("gitlab", {"user_email": "bot@acme.example"}, None),
    ],
)
def test_the_mapping_says_it(issuer: str, claims: dict[str, Any], person: str | None) -> None:
    for requirements in (PEOPLE, LOCAL, MIXED):
        assert person_of(ACTORS, issuer, claims, requirements) == person


@pytest.mark.parametrize(
    ("issuer", "claims"),
    [
        ("other", {"actor_id": "1"}),
        ("github", {"actor_id": "3"}),
        ("github", {"actor_id": True}),
        ("github", {"actor_id": ["1"]}),
        ("github", {"actor_id": ""}),
        ("github", {}),
        ("gitlab", {"user_email": ""}),
        ("gitlab", {"user_email": None}),
    ],
)
def test_where_nobody_knows_only_the_operator_can_approve(issuer: str, claims: dict[str, Any]) -> None:
    assert person_of(ACTORS, issuer, claims, LOCAL) is None
    for requirements in (PEOPLE, MIXED):
        with pytest.raises(ApprovalError) as caught:
            person_of(ACTORS, issuer, claims, requirements)
        assert caught.value.reason == "approval.actor_unmapped"
        assert f"approvals.actors.{issuer}" in caught.value.remedy


def test_what_is_no_address_is_nobody_where_approvers_are_known_by_theirs() -> None:
    """`mona` is never the same as her address, so she could approve what she asked for."""
    actors = {"github": Actors(claim="actor", same=True)}
    assert person_of(actors, "github", {"actor": "mona"}, PEOPLE) == "mona"
    assert person_of(actors, "github", {"actor": "m@acme.example"}, PEOPLE, by_email=True) == "m@acme.example"
    with pytest.raises(ApprovalError, match="'mona'"):
        person_of(actors, "github", {"actor": "mona"}, PEOPLE, by_email=True)
