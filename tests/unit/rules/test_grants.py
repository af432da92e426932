from typing import Any
from uuid import UUID

import pytest

from ext_proc.config import Config
from ext_proc.decision import Deny
from ext_proc.errors import ConfigError
from ext_proc.exchange import Caller, SignedClaims
from ext_proc.rules import Granted, Grants


def config(**changes: Any) -> Config:
    return Config.model_validate(
        {
            "version": 1,
            "issuers": {
                "github": {"issuer": "https://gh.example", "audience": "douane"},
                "pods": {"issuer": "https://k8s.example", "audience": "douane"},
            },
            "connections": {
                "dd": {
                    "listen": "127.0.0.1:1",
                    "upstream": "https://api.example",
                    "scopes": {"all": ["* /**"], "read": ["GET /**"], "write": ["POST /dashboard"]},
                },
                "other": {"listen": "127.0.0.1:2", "upstream": "https://o.example", "scopes": {"read": ["GET /**"]}},
            },
            "grants": [
                {
                    "name": "main",
                    "issuer": "github",
                    "if": "claims.repository_id == '74' && claims.ref == 'refs/heads/main'",
                    "allow": {"dd": ["write", "read"]},
                },
                {"name": "readers", "issuer": "github", "if": "true", "allow": {"dd": ["read"]}},
                {"name": "broken", "issuer": "github", "if": "claims.groups[0] == 'x'", "allow": {"dd": ["all"]}},
                {
                    "name": "pod",
                    "issuer": "pods",
                    "if": "claims['kubernetes.io'].namespace == 'ci'",
                    "allow": {"dd": ["all"]},
                },
            ],
            **changes,
        }
    )


def caller(issuer: str = "github", **claims: Any) -> Caller:
    return Caller(issuer, "sub", SignedClaims({"iss": "x", **claims}), UUID(int=1), "acme/infra run 1 #1")


GRANTS = Grants(config())
MAIN = caller(repository_id="74", ref="refs/heads/main")
BRANCH = caller(repository_id="74", ref="refs/heads/x")
POD = caller("pods", **{"kubernetes.io": {"namespace": "ci"}})


@pytest.mark.parametrize(
    ("request_", "who", "expected"),
    [
        (("dd", "POST", "/dashboard"), MAIN, Granted("main", "write")),
        (("dd", "GET", "/dashboard"), MAIN, Granted("main", "read")),
        (("dd", "GET", "/dashboard"), BRANCH, Granted("readers", "read")),
        (("dd", "DELETE", "/x"), POD, Granted("pod", "all")),
        (("dd", "POST", "/dashboard"), BRANCH, "no grant allows"),
        (("dd", "DELETE", "/x"), MAIN, "no grant allows"),
        (("other", "GET", "/x"), MAIN, "no grant allows"),
        (("other", "POST", "/x"), MAIN, "no scope"),
        (("nowhere", "GET", "/x"), MAIN, "no connection"),
        (("dd", "GET", "/a/..;/b"), POD, "more than one way"),
        # The same claims from another issuer prove nothing.
        (("dd", "POST", "/dashboard"), caller("pods", repository_id="74", ref="refs/heads/main"), "no grant allows"),
        # A condition that fails grants nothing.
        (("dd", "DELETE", "/x"), caller(groups=[]), "no grant allows"),
    ],
)
def test_default_deny(request_: tuple[str, str, str], who: Caller, expected: Granted | str) -> None:
    for _ in range(2):  # the second time from what was remembered
        decision = GRANTS.allow(*request_, who)
        if isinstance(expected, Granted):
            assert decision == expected
        else:
            assert isinstance(decision, Deny)
            assert decision.reason == "grant.none"
            assert decision.http_status == 403
            assert decision.remedy
            assert expected in decision.message


def test_a_refusal_does_not_repeat_the_path() -> None:
    """A path may hold a secret, and a refusal is recorded before anything is masked in it."""
    decision = GRANTS.allow("dd", "POST", "/hooks/s3cret", BRANCH)
    assert isinstance(decision, Deny)
    assert "s3cret" not in decision.message + decision.remedy


def test_what_was_remembered_is_bound_to_the_claims_and_bounded() -> None:
    grants = Grants(config())
    for n in range(3000):
        allowed = n % 2 == 0
        one = caller(repository_id="74" if allowed else "75", ref="refs/heads/main")
        decision = grants.allow("dd", "POST", "/dashboard", one)
        assert isinstance(decision, Granted) is allowed
    assert len(grants._held) <= 1024


@pytest.mark.parametrize(
    ("changes", "reason", "said"),
    [
        ({"grants": [{"name": "g", "issuer": "x", "if": "true", "allow": {}}]}, "config.unknown_issuer", "'x'"),
        (
            {"grants": [{"name": "g", "issuer": "pods", "if": "true", "allow": {"x": ["all"]}}]},
            "config.unknown_connection",
            "'x'",
        ),
        (
            {"grants": [{"name": "g", "issuer": "pods", "if": "true", "allow": {"dd": ["x"]}}]},
            "config.unknown_scope",
            "'x'",
        ),
        ({"grants": [{"name": "g", "issuer": "pods", "if": "claim.x", "allow": {}}]}, "config.condition", "'claim'"),
        ({"grants": [{"name": "g", "issuer": "pods", "if": "false", "allow": {}}]}, "config.condition", "grants.g"),
    ],
)
def test_what_can_never_work_is_refused_by_name(changes: dict[str, Any], reason: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Grants(config(**changes))
    assert caught.value.reason == reason
    assert said in str(caught.value)
    assert "grants.g" in str(caught.value)
