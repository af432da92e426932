import pytest

from ext_proc.errors import ConfigError
from ext_proc.expressions import EvaluationError
from ext_proc.rules.conditions import CLAIMS as SCHEMA
from ext_proc.rules.conditions import condition

CLAIMS = {
    "repository_id": "74",
    "ref": "refs/heads/main",
    "aud": ["a", "b"],
    "n": 5,
    "ssh": False,
    "none": None,
    "kubernetes.io": {"namespace": "ci", "pod": {"uid": "u"}},
    "oidc.circleci.com/context-ids": ["c1"],
    "huge": 2**70,
}


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("true", True),
        ("claims.repository_id == '74' && claims.ref == 'refs/heads/main'", True),
        ("claims.repository_id == 74", False),
        ("claims['kubernetes.io'].namespace == 'ci'", True),
        ("claims['oidc.circleci.com/context-ids'].exists(c, c == 'c1')", True),
        ("'a' in claims.aud", True),
        ("has(claims.environment) && claims.environment == 'prod'", False),
        ("!has(claims.environment)", True),
        ("claims.environment == 'prod' || claims.n == 5", True),
        ("claims.aud.exists(x, ['a'].exists(y, x == y))", True),
        ("claims.ref.matches('^refs/heads/(main|release-.*)$')", True),
        ("claims.ref.startsWith('refs/') /* a */ == true", None),
        ("claims.ref.startsWith('refs/') // a comment with bad.name(", True),
        ("claims.ref == \"it's (x, \\\" or\" || r'\\d' == '\\\\d'", True),
        ("type(claims.n) == int", True),
        ("size(claims.aud) == 2 && !claims.ssh && claims.none == null", True),
        ("timestamp('2020-01-01T00:00:00Z').getFullYear() == 2020", True),
        ("claims.aud.map(x, x).filter(x, x != 'a') == ['b']", True),
    ],
)
def test_conditions(source: str, result: bool | None) -> None:
    if result is None:
        with pytest.raises(ConfigError):
            condition(source, "grants.g.if", SCHEMA)
        return
    assert condition(source, "grants.g.if", SCHEMA).holds({"claims": CLAIMS}) is result


@pytest.mark.parametrize(
    "source",
    [
        "claims.missing == 'x'",
        "claims.ref",
        "claims.n",
        "claims.n + 'x' == 'y'",
        "claims.n / 0 == 1",
        "claims.aud[7] == 'a'",
        "claims.none.x == 1",
    ],
)
def test_what_cannot_be_said_is_an_error_never_true(source: str) -> None:
    with pytest.raises(EvaluationError):
        condition(source, "g", SCHEMA).holds({"claims": CLAIMS})


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("claims.a ==", "not CEL"),
        ("", "not CEL"),
        ("(" * 3000 + "true" + ")" * 3000, "nests"),
        ("x" * 9000, "longer"),
        ("claim.ref == 'x'", "'claim'"),
        ("claims.ref == main", "'main'"),
        ("request.path == '/'", "'request'"),
        ("claims.aud.exists(x, x == 'a') && x == 'b'", "'x'"),
        ("x == 'b' || claims.aud.exists(x, x == 'a')", "'x'"),
        ("claims.aud.exists(x, x == y)", "'y'"),
        ("claims.aud.exists(x, true) && [x] == []", "'x'"),
        ("{a: 1} == {}", "'a'"),
        (".env == 'x'", "env"),
        ("foo(claims)", r"foo\(\)"),
        ("claims.ref.matches('(')", "RE2"),
        ("claims.ref.matches(claims.pattern)", "literal"),
        ("now() > timestamp('2020-01-01T00:00:00Z')", r"now\(\)"),
        ("false", "always false"),
        ("1 == 2", "always false"),
        ("claims.ref == 'x' && false", "always false"),
        ("!(claims.ref == 'x' || true)", "always false"),
        ("'true'", "gives a string"),
        ("1", "gives an int"),
        ("1 / 0 == 1", "always fails"),
        ("'a' + 1 == 'a1'", "a string and an int"),
    ],
)
def test_what_can_never_work_is_refused_at_load(source: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        condition(source, "grants.infra.if", SCHEMA)
    assert caught.value.reason == "config.condition"
    assert "grants.infra.if" in str(caught.value)
