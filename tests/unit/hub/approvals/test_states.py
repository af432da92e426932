"""Every change that an approval may make, and every one that it may not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ext_proc.errors import ApprovalError
from ext_proc.hub.approvals import states
from ext_proc.hub.approvals.states import LOCAL, Approval, Approver, Requirement, State, Yes

NOW = 1_000_000
SRE = Requirement("deletes", ("group:sre",), 1)
ANN = Approver("ann@acme.example", "https://id.example", "1", frozenset({"sre"}))
BOB = Approver("bob@acme.example", "https://id.example", "2", frozenset({"sre", "dba"}))
OPERATOR = Approver("1000", LOCAL, "1000")


def approval(state: State = State.REQUESTED, **changes: object) -> Approval:
    fields: dict[str, object] = {
        "id": "a",
        "state": state,
        "requirements": (SRE,),
        "person": None,
        "made_us": 0,
        "expires_us": NOW + 100,
        "validity_us": 50,
        "exchange_id": b"x" * 16,
        "valid_until_us": NOW + 50 if state is State.APPROVED else 0,
        "closed_us": 0 if state.open else NOW,
    }
    return Approval(**(fields | changes))  # type: ignore[arg-type]


def refused(reason: str, change: object, *arguments: object) -> None:
    with pytest.raises(ApprovalError) as caught:
        change(*arguments)  # type: ignore[operator]
    assert caught.value.reason == reason


def test_requested() -> None:
    assert states.say_yes(approval(), ANN, NOW).state is State.APPROVED
    assert states.say_yes(approval(), ANN, NOW).valid_until_us == NOW + 50
    denied = states.say_no(approval(), ANN, NOW, "why")
    assert (denied.state, denied.closed_us, denied.comment) == (State.DENIED, NOW, "why")
    assert states.expire(approval(), NOW + 99).state is State.REQUESTED
    assert states.expire(approval(), NOW + 100).state is State.EXPIRED
    with pytest.raises(ValueError, match="cannot be used"):
        states.use(approval(), b"y" * 16, NOW)
    refused("approval.closed", states.say_yes, approval(), ANN, NOW + 100)  # the clock was not asked yet
    refused("approval.closed", states.say_no, approval(), ANN, NOW + 100)


def test_approved() -> None:
    given = approval(State.APPROVED, yes=(Yes(ANN.name, ANN.issuer, ANN.subject, (0,)),))
    used = states.use(given, b"y" * 16, NOW)
    assert (used.state, used.exchange_id, used.closed_us, used.told) == (State.USED, b"y" * 16, NOW, True)
    assert states.say_no(given, BOB, NOW).state is State.WITHDRAWN
    assert states.expire(given, NOW + 50).state is State.EXPIRED
    with pytest.raises(ValueError, match="cannot be used"):
        states.use(given, b"y" * 16, NOW + 50)
    refused("approval.said_before", states.say_yes, given, ANN, NOW)
    refused("approval.closed", states.say_yes, given, BOB, NOW)


@pytest.mark.parametrize("state", [State.USED, State.DENIED, State.EXPIRED, State.WITHDRAWN])
def test_what_is_over_stays_over(state: State) -> None:
    over = approval(state)
    refused("approval.closed", states.say_yes, over, ANN, NOW)
    refused("approval.closed", states.say_no, over, ANN, NOW)
    assert states.expire(over, NOW + 10**12) is over
    with pytest.raises(ValueError, match="cannot be used"):
        states.use(over, b"y" * 16, NOW)
    assert over.deadline_us is None


def test_every_requirement_wants_its_own_number_of_people() -> None:
    two, dba = Requirement("two", ("group:sre",), 2), Requirement("data", ("group:dba", "user:cat@acme.example"), 1)
    asked = approval(requirements=(two, dba))
    assert asked.missing == {"two": 2, "data": 1}
    once = states.say_yes(asked, BOB, NOW)
    assert (once.state, once.missing, once.yes[0].meets) == (State.REQUESTED, {"two": 1}, (0, 1))
    twice = states.say_yes(once, ANN, NOW)
    assert (twice.state, twice.approved_by) == (State.APPROVED, ["oidc:bob@acme.example", "oidc:ann@acme.example"])
    other_way = states.say_yes(states.say_yes(asked, ANN, NOW), BOB, NOW)
    assert other_way.state is State.APPROVED


def test_one_policy_twice_is_two_requirements() -> None:
    asked = approval(requirements=(Requirement("p", ("group:sre",), 1), Requirement("p", ("group:dba",), 1)))
    assert states.say_yes(asked, ANN, NOW).missing == {"p": 1}
    assert states.say_yes(asked, BOB, NOW).state is State.APPROVED


@pytest.mark.parametrize(
    "who",
    [
        ANN,
        replace(ANN, name="other@acme.example"),
        replace(ANN, subject="9"),
        replace(ANN, subject="9", name="ANN@ACME.example"),
        replace(ANN, subject="9", name="\uff41nn@acme.example"),
        replace(ANN, issuer="https://elsewhere.example"),
    ],
    ids=["again", "renamed", "new subject", "letters", "width", "provider"],
)
def test_each_person_counts_once(who: Approver) -> None:
    once = states.say_yes(approval(requirements=(replace(SRE, quorum=2),)), ANN, NOW)
    refused("approval.said_before", states.say_yes, once, who, NOW)


@pytest.mark.parametrize(
    "name", ["mona@acme.example", "Mona@Acme.example", "\uff4dona@acme.example", " mona@acme.example"]
)
def test_nobody_approves_what_they_asked_for(name: str) -> None:
    asked = approval(person="mona@acme.example")
    mona = replace(ANN, name=name)
    refused("approval.self", states.say_yes, asked, mona, NOW)
    assert states.say_no(asked, mona, NOW).state is State.DENIED
    assert states.say_yes(asked, ANN, NOW).state is State.APPROVED


def test_who_fits() -> None:
    assert not OPERATOR.fits(SRE)
    assert OPERATOR.fits(Requirement("p", ("group:sre", "local"), 1))
    named_local = replace(ANN, name="local", groups=frozenset({"local"}))
    assert not named_local.fits(Requirement("p", ("local",), 1))
    assert not replace(ANN, groups=frozenset({"SRE", "sre ", "group:sre"})).fits(SRE)
    by_name = Requirement("p", ("user:Ann@Acme.example", "user:cat"), 1)
    assert ANN.fits(by_name)
    assert not replace(ANN, name="Cat").fits(by_name)  # no address: letters matter
    assert not replace(ANN, name="ann@acme.example\u200b").fits(by_name)
    assert not replace(ANN, name="\u0430nn@acme.example").fits(by_name)
    refused("approval.not_approver", states.say_yes, approval(), OPERATOR, NOW)
    refused("approval.not_approver", states.say_no, approval(), replace(ANN, groups=frozenset()), NOW)


def test_the_operator_is_labelled_and_counts_once() -> None:
    asked = approval(requirements=(Requirement("p", ("local", "group:sre"), 2),), person="1000")
    once = states.say_yes(asked, OPERATOR, NOW)
    assert once.approved_by == ["local:1000"]
    refused("approval.said_before", states.say_yes, once, replace(OPERATOR, name="0", subject="0"), NOW)
    assert states.say_yes(once, ANN, NOW).state is State.APPROVED


def test_who_may_see() -> None:
    asked = approval(person="mona@acme.example")
    assert states.may_see(asked, ANN)
    assert states.may_see(asked, OPERATOR)
    assert states.may_see(asked, Approver("mona@acme.example", "i", "3"))
    assert not states.may_see(asked, Approver("eve@acme.example", "i", "4", frozenset({"dev"})))
