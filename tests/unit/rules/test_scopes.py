import pytest

from ext_proc.errors import ConfigError
from ext_proc.rules import Scopes

SCOPES = Scopes(
    {
        "all": ("* /**",),
        "read": ("GET /api/**", "HEAD /api/**"),
        "dashboards:write": ("POST /api/v1/dashboard", "PUT /api/v1/dashboard/{id}", "DELETE /api/v1/dashboard/{id}"),
        "keys": ("* /api/v2/{kind}/keys/{id}/{field}",),
        "slash": ("GET /docs/",),
        "percent": ("GET /a%20b/{x}",),
    }
)


def without_all(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name != "all"]


@pytest.mark.parametrize(
    ("method", "path", "names"),
    [
        ("POST", "/api/v1/dashboard", ["dashboards:write"]),
        ("PUT", "/api/v1/dashboard/abc-def", ["dashboards:write"]),
        ("GET", "/api/v1/dashboard", ["read"]),
        ("GET", "/api/", ["read"]),
        ("GET", "/api", []),
        ("GET", "/apis/x", []),
        ("PUT", "/api/v1/dashboard/abc/def", []),
        ("PUT", "/api/v1/dashboard/", []),
        ("PUT", "/api/v1/dashboard//", []),
        ("POST", "/api/v1/dashboard/", []),
        ("post", "/api/v1/dashboard", []),
        ("POST", "/api/v1/Dashboard", []),
        ("POST", "/api/v1/dashboar%64", []),
        ("POST", "/api/v1/dashboard;a=b", []),
        ("POST", "//api/v1/dashboard", []),
        ("POST", "/api//v1/dashboard", []),
        ("PATCH", "/api/v2/x/keys/1/name", ["keys"]),
        ("PATCH", "/api/v2//keys/1/name", []),
        ("GET", "/docs/", ["slash"]),
        ("GET", "/docs", []),
        ("GET", "/a%20b/c", ["percent"]),
        ("GET", "/a%2520b/c", []),
        ("GET", "/", []),
        ("GET", "/api/v1/100%25/x~y", ["read"]),
        ("GET", "/api/v1/%C3%A9", ["read"]),
        ("GET", "/api/...", ["read"]),
        ("GET", "/api/.well-known/..x", ["read"]),
    ],
)
def test_requests_are_matched_as_sent(method: str, path: str, names: list[str]) -> None:
    found = SCOPES.matching(method, path)
    assert "all" in found
    assert without_all(found) == names
    assert set(found) <= set(SCOPES.resembling(method, path))


@pytest.mark.parametrize(
    "path",
    [
        "",
        "*",
        "api/v1",
        "/api/../admin",
        "/api/./x",
        "/api/..",
        "/api/%2e%2e/admin",
        "/api/.%2E/admin",
        "/api/%252e%252e/admin",
        "/api/..;/admin",
        "/api/..;a=b/admin",
        "/api/%2e%2e%3b/admin",
        "/api/.. /admin",
        "/api/..%20/admin",
        "/api/x%2fadmin",
        "/api/x%2Fadmin",
        "/api/x%252fadmin",
        "/api/x%25252fadmin",
        "/api/x%5cadmin",
        "/api/x\\admin",
        "/api/x%00",
        "/api/x%0d%0aset-cookie:a",
        "/api/x\x7f",
        "/api/%25252525252e",
    ],
)
def test_a_path_with_two_readings_is_in_no_scope_and_in_every_deny_rule(path: str) -> None:
    assert SCOPES.matching("GET", path) == ()
    assert "all" in SCOPES.resembling("GET", path)
    assert len(SCOPES.resembling("GET", path)) == 6


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/API/v1/dashboard"),
        ("post", "/api/v1/dashboard"),
        ("POST", "/api/v1/dashboard/"),
        ("POST", "/api//v1///dashboard"),
        ("POST", "/api/v1/dashboar%64"),
        ("POST", "/api/v1/%2564ashboard"),
        ("POST", "/api/v1/dashboard;jsessionid=1"),
        ("POST", "/;x/api/v1/dashboard"),
        ("DELETE", "/api/v1/DASHBOARD/x;y/"),
    ],
)
def test_look_alikes_do_not_lead_around_a_deny_rule(method: str, path: str) -> None:
    assert "dashboards:write" not in SCOPES.matching(method, path)
    assert "dashboards:write" in SCOPES.resembling(method, path)


def test_the_rest_may_be_empty_for_look_alikes() -> None:
    assert "read" in SCOPES.resembling("GET", "/API")
    assert "read" not in SCOPES.resembling("GET", "/apix")


@pytest.mark.parametrize(
    "request_",
    [
        "GET",
        "/x",
        "GET x",
        "get /x",
        "GET  /x",
        "GET /x ",
        "GET|POST /x",
        "GET /a/**/b",
        "GET /a*",
        "GET /*",
        "GET /{}",
        "GET /{a}b",
        "GET /{a b}",
        "GET /a//b",
        "GET /a?b",
        "GET /a#b",
        "GET /../a",
        "GET /%2e%2e/a",
        "GET /a%2Fb",
        "GET /a\\b",
        "",
    ],
)
def test_a_malformed_pattern_is_refused_by_name(request_: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Scopes({"writes": (request_,)}, place="connections.dd.scopes")
    assert caught.value.reason == "config.scope"
    assert "connections.dd.scopes.writes" in str(caught.value)


def test_the_order_is_the_configurations() -> None:
    scopes = Scopes({"b": ("GET /x",), "a": ("* /**",), "c": ("GET /{y}", "GET /x")})
    assert scopes.matching("GET", "/x") == ("b", "a", "c")


def test_text_beyond_ascii_stands_for_its_percent_encoding() -> None:
    scopes = Scopes({"a": ["PUT /contents/straße/**"]})
    for path in ("/contents/stra%C3%9Fe/x", "/contents/stra%c3%9fe/x", "/contents/straße/x"):
        assert scopes.resembling("PUT", path) == ("a",)
    assert scopes.matching("PUT", "/contents/stra%C3%9Fe/x") == ("a",)
    assert scopes.resembling("PUT", "/contents/strasse/x") == ()
