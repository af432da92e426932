"""What is wrong with approvals beyond their shape: a provider that agents share, rules whose requests nobody could
approve, notifications that would go in the clear."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

from ext_proc.config.addresses import is_loopback, split_url
from ext_proc.config.approvals import Actors, Email, SignIn
from ext_proc.config.models import Config
from ext_proc.config.policies import Policy
from ext_proc.config.positions import YamlPath
from ext_proc.config.problems import Problem, unknown, web_address

_MAIL = re.compile(r"[^\s@,;:<>()\[\]\\\"]+@[^\s@,;:<>()\[\]\\\"]+")
_LONGEST = timedelta(days=30)


def approvals(config: Config) -> Iterator[Problem]:
    if config.console.url is not None:
        yield from web_address(("console", "url"), config.console.url, query=False)
    if config.approvals.sign_in is not None:
        yield from _sign_in(config, config.approvals.sign_in)
    for name, actors in config.approvals.actors.items():
        if name not in config.issuers:
            yield unknown(("approvals", "actors", name), "issuer", name, config.issuers)
        yield from _people(config, name, actors)
    for n, policy in enumerate(config.policies):
        if policy.effect == "hold":
            yield from _hold(config, ("policies", n), policy)
    for n, notification in enumerate(config.approvals.notify):
        if isinstance(notification, Email):
            yield from _email(("approvals", "notify", n), notification)


def _sign_in(config: Config, sign_in: SignIn) -> Iterator[Problem]:
    here: YamlPath = ("approvals", "sign_in")
    yield from web_address((*here, "issuer"), sign_in.issuer, query=False)
    for key in ("client_id", "algorithms", "user_claim", "groups_claim"):
        if not getattr(sign_in, key):
            yield Problem((*here, key), "config.value", "must not be empty", "Leave it out, or name it.")
    if "openid" not in sign_in.scopes:
        yield Problem((*here, "scopes"), "config.value", "without `openid` there is no ID token", "Add openid.")
    for name, issuer in config.issuers.items():
        audiences = (issuer.audience,) if isinstance(issuer.audience, str) else issuer.audience
        if issuer.issuer.rstrip("/") == sign_in.issuer.rstrip("/") and sign_in.client_id in audiences:
            yield Problem(
                (*here, "client_id"),
                "config.sign_in",
                f"tokens of issuers.{name} are made for the same audience: callers could approve what they ask for",
                "Register a client of its own for approvers.",
            )


def _people(config: Config, name: str, actors: Actors) -> Iterator[Problem]:
    """Who is called otherwise than approvers are is never taken for one of them, and could approve what they ask."""
    for value, person in actors.people.items():
        if config.approvals.by_email and person is not None and "@" not in person:
            yield Problem(
                ("approvals", "actors", name, "people", value),
                "config.actors",
                f"{person!r} is no address, and approvers are known by theirs",
                "Write the person's address, or name them by another claim: approvals.sign_in.user_claim.",
            )


def _hold(config: Config, here: YamlPath, policy: Policy) -> Iterator[Problem]:
    for key in ("validity", "expires"):
        if getattr(policy, key) > _LONGEST:
            yield Problem((*here, key), "config.value", "is longer than 30d", "Lower it.")
    if all(approver == "local" for approver in policy.approvers):
        return
    if config.approvals.sign_in is None:
        yield Problem(
            (*here, "approvers"),
            "config.sign_in",
            "nobody can sign in to approve it",
            'Configure approvals.sign_in, or write `approvers: ["local"]` for the operator of this machine.',
        )
    for issuer in sorted(_issuers(config, policy)):
        if issuer not in config.approvals.actors:
            yield Problem(
                (*here, "approvers"),
                "config.actors",
                f"callers of issuers.{issuer} meet this rule, and it is not configured which people they act for",
                f"Add approvals.actors.{issuer}, so that nobody approves their own request.",
            )


def _issuers(config: Config, policy: Policy) -> set[str]:
    """Those whose callers a grant lets reach a connection that the rule looks at."""
    wanted = policy.match.connection
    return {
        grant.issuer
        for grant in config.grants
        if grant.issuer in config.issuers and (not wanted or wanted in grant.allow)
    }


def _email(here: YamlPath, email: Email) -> Iterator[Problem]:
    parts = split_url(email.smtp)
    if parts is None:
        yield Problem((*here, "smtp"), "config.value", f"{email.smtp!r} is no mail server", "Write smtps://HOST:PORT.")
    elif parts.scheme == "smtp" and not is_loopback(parts.hostname or ""):
        yield Problem(
            (*here, "smtp"), "config.plain_smtp", "mail would go in the clear", "Use smtp+starttls:// or smtps://."
        )
    if (email.user is None) != (email.password is None):
        yield Problem(here, "config.value", "`user` and `password` belong together", "Write both, or neither.")
    for key, address in (("from", email.sender), *(("to", one) for one in email.to)):
        if not _MAIL.fullmatch(address):
            yield Problem((*here, key), "config.value", f"{address!r} is no mail address", "Write NAME@HOST.")
