import pytest

from ext_proc.errors import ConfigError
from ext_proc.rules.conditions import ConditionError, Facts, compile_condition

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
            compile_condition(source, "grants.g.if")
        return
    assert compile_condition(source, "grants.g.if").holds(Facts(CLAIMS)) is result


@pytest.mark.parametrize(
    "source",
    [
        "claims.missing == 'x'",
        "claims.ref",
        "claims.n",
        "claims.n + 'x' == 'y'",
        "claims.n / 0 == 1",
        "claims.aud[7] == 'a'",
        "claims.ref.matches('(')",
        "claims.none.x == 1",
    ],
)
def test_what_cannot_be_said_is_an_error_never_true(source: str) -> None:
    with pytest.raises(ConditionError):
        compile_condition(source, "g").holds(Facts(CLAIMS))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("claims.a ==", "not CEL"),
        ("", "not CEL"),
        ("(" * 3000 + "true" + ")" * 3000, "not CEL|longer"),
        ("x" * 5000, "longer"),
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
        ("claims.ref.lowerAscii() == 'x'", r"lowerAscii\(\)"),
        ("now() > timestamp('2020-01-01T00:00:00Z')", r"now\(\)"),
        ("claims.a.exists(x, x.exists(y, y.exists(z, z == 'a')))", "nests"),
        ("false", "false for every caller"),
        ("1 == 2", "false for every caller"),
        ("claims.ref == 'x' && false", "false for every caller"),
        ("!(claims.ref == 'x' || true)", "false for every caller"),
        ("'true'", "gives a str"),
        ("1", "gives a int"),
        ("1 / 0 == 1", "fails for every caller"),
        ("'a' + 1 == 'a1'", "fails for every caller"),
    ],
)
def test_what_can_never_work_is_refused_at_load(source: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        compile_condition(source, "grants.infra.if")
    assert caught.value.reason == "config.condition"
    assert "grants.infra.if" in str(caught.value)
