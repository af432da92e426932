"""Approvals that could not work, or would let callers approve, are refused at load with their line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ext_proc.config import ConfigErrors, parse
from ext_proc.errors import ConfigError

BASE = """
version: 1
issuers:
  github: {issuer: "https://token.example", audience: douane}
  other: {issuer: "https://other.example", audience: [a, b]}
connections:
  one: {listen: 127.0.0.1:15001, upstream: "https://one.example", scopes: {all: ["* /**"]}}
  two: {listen: 127.0.0.1:15002, upstream: "https://two.example", scopes: {all: ["* /**"]}}
grants:
  - {name: g, issuer: github, if: "true", allow: {one: [all]}}
  - {name: o, issuer: other, if: "true", allow: {two: [all]}}
"""
HOLD = 'policies: [{name: p, effect: hold, match: {connection: one}, approvers: ["group:sre"]}]\n'
ANY = 'policies: [{name: p, effect: hold, approvers: ["user:ann@acme.example", local]}]\n'
SIGN_IN = "sign_in: {issuer: 'https://id.example', client_id: cli}"
ACTORS = "actors: {github: {claim: actor_id, same: true}}"


def problems(text: str) -> list[tuple[str, str]]:
    """(reason, where) of everything that is refused."""
    try:
        parse(BASE + text, "douane.yaml", None)
    except ConfigErrors as found:
        return [(one.reason, one.message) for one in found.errors]
    except ConfigError as one:
        return [(one.reason, one.message)]
    return []


def reasons(text: str) -> list[str]:
    return sorted(reason for reason, _ in problems(text))


def test_what_can_work_is_taken() -> None:
    assert problems(mail("smtp+starttls://mail.example:587")) == []
    assert problems(mail("smtp://127.0.0.1:25")) == []
    assert problems(HOLD + f"approvals: {{{SIGN_IN}, {ACTORS}}}") == []
    assert problems('policies: [{name: p, effect: hold, approvers: ["local"]}]') == []


def test_people_are_named_as_approvers_are() -> None:
    by_name = SIGN_IN.replace("cli}", "cli, user_claim: preferred_username}")
    assert problems(f"approvals: {{{by_name}, actors: {{github: {{claim: actor, people: {{mona: mona}}}}}}}}") == []


def test_a_hold_for_people_needs_a_sign_in_and_to_know_whom_callers_act_for() -> None:
    assert reasons(HOLD) == ["config.actors", "config.sign_in"]
    assert reasons(HOLD + f"approvals: {{{SIGN_IN}}}") == ["config.actors"]
    [(_, message)] = problems(HOLD + f"approvals: {{{SIGN_IN}}}")
    assert "issuers.github" in message
    # Callers of both issuers reach what a rule for every connection looks at, also where `local` could approve alone.
    assert reasons(ANY + f"approvals: {{{SIGN_IN}, {ACTORS}}}") == ["config.actors"]
    both = "actors: {github: {claim: a, same: true}, other: {claim: b, people: {x: null}}}"
    assert problems(ANY + f"approvals: {{{SIGN_IN}, {both}}}") == []


def test_callers_tokens_must_not_be_approvers_tokens() -> None:
    for issuer, client in (("https://token.example", "douane"), ("https://other.example/", "b")):
        text = f"approvals: {{sign_in: {{issuer: '{issuer}', client_id: {client}}}}}"
        assert reasons(text) == ["config.sign_in"]
    assert problems("approvals: {sign_in: {issuer: 'https://token.example', client_id: cli}}") == []


def mail(server: str, sender: str = "a@b.example", to: str = "c@d.example") -> str:
    return f'approvals: {{notify: [{{smtp: "{server}", from: "{sender}", to: ["{to}"]}}]}}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("approvals: {sign_in: {issuer: 'http://id.example', client_id: cli}}", "config.plain_http"),
        ("approvals: {sign_in: {issuer: 'https://id.example', client_id: ''}}", "config.value"),
        ("approvals: {sign_in: {issuer: 'https://id.example', client_id: c, scopes: [email]}}", "config.value"),
        ("approvals: {actors: {gitlab: {claim: user_id, same: true}}}", "config.unknown_issuer"),
        ("approvals: {actors: {github: {claim: actor_id}}}", "config.value"),
        (f"approvals: {{{SIGN_IN}, actors: {{github: {{claim: actor, people: {{mona: mona}}}}}}}}", "config.actors"),
        ("approvals: {actors: {github: {claim: actor, people: {mona: ' '}}}}", "config.value"),
        ("console: {url: 'http://douane.example'}", "config.plain_http"),
        ("console: {url: 'https://douane.example/?x=1'}", "config.value"),
        (mail("smtp://mail.example"), "config.plain_smtp"),
        (mail("smtps://mail.example", sender="a"), "config.value"),
        (mail("smtps://mail.example", to="c@d.example\\nBcc: x@y.example"), "config.value"),
        (mail("smtps://mail.example", to="c@d.example, x@y.example"), "config.value"),
        (mail("smtps://mail.example").replace("smtp:", "user: u, smtp:"), "config.value"),
        (HOLD.replace("hold,", "hold, expires: 31d,") + f"approvals: {{{SIGN_IN}, {ACTORS}}}", "config.value"),
    ],
)
def test_what_cannot_work_is_refused(text: str, reason: str) -> None:
    assert reasons(text) == [reason]


def test_the_example_of_the_page_is_a_configuration() -> None:
    page = (Path(__file__).parents[3] / "docs" / "approvals.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert parse("version: 1\n" + example, "docs/approvals.md", Path("/srv")).config.approvals.sign_in is not None
