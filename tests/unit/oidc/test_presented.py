import base64

import pytest

from ext_proc.errors import IdentityError
from ext_proc.exchange import Headers
from ext_proc.oidc import Presented, find_tokens, is_session_key
from ext_proc.oidc.presented import MAX_TOKEN

JWT = b"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln"
OTHER = b"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ5In0.c2ln"
KEY = b"dse_" + b"aB-_3" * 8 + b"xyz"
NAMES = ("dd-api-key", "authorization")


def basic(user: bytes, password: bytes) -> bytes:
    return b"Basic " + base64.b64encode(user + b":" + password)


def find(*items: tuple[str, bytes]) -> Presented:
    return find_tokens(Headers([("host", b"x"), *items, ("x-other", OTHER)]), NAMES)


@pytest.mark.parametrize(
    "value",
    [
        JWT,
        b"Bearer " + JWT,
        b"bearer   " + JWT,
        b"BEARER " + JWT + b" ",
        basic(b"x", JWT),
        basic(b"", JWT),
        b"basic " + base64.b64encode(b"user:" + JWT),
    ],
)
def test_the_forms_of_a_token(value: bytes) -> None:
    presented = find(("authorization", value))
    assert presented.required() == JWT.decode()
    assert presented.tokens == (JWT,)
    assert presented.placeholders == ()


def test_session_keys() -> None:
    assert find(("authorization", b"Bearer " + KEY)).required() == KEY.decode()
    assert is_session_key(KEY.decode())
    for wrong in (b"", KEY[:-1], KEY + b"x", KEY[4:], KEY[:-1] + b"+", b"DSE_" + KEY[4:], KEY + b"\n", JWT):
        assert not is_session_key(wrong.decode())
    assert not is_session_key("dse_" + "é" * 43)


def test_the_same_token_in_two_headers_is_one() -> None:
    assert find(("dd-api-key", JWT), ("authorization", b"Bearer " + JWT)).tokens == (JWT,)


def test_placeholders_are_told_from_tokens() -> None:
    presented = find(("dd-api-key", b"dummy"), ("authorization", b"Bearer " + JWT))
    assert presented.required() == JWT.decode()
    assert presented.placeholders == (b"dummy",)
    blob = base64.b64encode(b"user:secret")
    assert find(("authorization", b"Basic " + blob)).placeholders == (b"secret", blob)
    assert find(("authorization", b"Bearer dummy")).placeholders == (b"dummy",)
    assert find(("authorization", b"Digest a=b")).placeholders == (b"Digest a=b",)


@pytest.mark.parametrize(
    "value",
    [
        b"www.example.com",
        JWT + b"=",
        JWT + b".x",
        JWT[:-5],
        b"Bearer " + JWT + b", Bearer " + OTHER,
        JWT + b"," + JWT,
        b'Bearer "' + JWT + b'"',
        b"Bearer Bearer " + JWT,
        b"Token " + JWT,
        b"Bearer\t" + JWT,
        JWT + b"\xff",
        b"\xc3\xa9" + JWT,
        basic(JWT, b""),
        basic(b"x", b"y:" + JWT),
        b"Basic !!!",
        b"Basic " + JWT,
        b"Bearer " + base64.b64encode(JWT),
        KEY[:-1],
    ],
)
def test_what_is_no_token(value: bytes) -> None:
    presented = find(("authorization", value))
    assert presented.token is None
    with pytest.raises(IdentityError) as caught:
        presented.required()
    assert caught.value.reason == "identity.malformed"
    assert "dd-api-key, authorization" in str(caught.value)
    assert JWT.decode() not in str(caught.value)


@pytest.mark.parametrize("value", [None, b"", b" ", b"Bearer", b"Bearer ", b"Basic"])
def test_nothing_presented(value: bytes | None) -> None:
    presented = find() if value is None else find(("authorization", value))
    assert presented.placeholders == ()
    with pytest.raises(IdentityError, match=r"identity\.missing"):
        presented.required()


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([("authorization", JWT), ("authorization", JWT)], "duplicate_header"),
        ([("authorization", JWT), ("authorization", b"")], "duplicate_header"),
        ([("dd-api-key", b"x"), ("dd-api-key", b"x"), ("authorization", JWT)], "duplicate_header"),
        ([("dd-api-key", OTHER), ("authorization", JWT)], "conflict"),
        ([("dd-api-key", KEY), ("authorization", b"Bearer " + JWT)], "conflict"),
        ([("authorization", b"x" * 30_000)], "too_large"),
        ([("authorization", b"Bearer " + JWT + b"a" * MAX_TOKEN)], "too_large"),
        ([("authorization", basic(b"", JWT + b"a" * MAX_TOKEN))], "too_large"),
        ([("dd-api-key", b"x" * 30_000), ("authorization", JWT)], "too_large"),
    ],
)
def test_refusals(items: list[tuple[str, bytes]], reason: str) -> None:
    with pytest.raises(IdentityError) as caught:
        find(*items)
    assert caught.value.reason == f"identity.{reason}"
    assert JWT.decode() not in str(caught.value)


def test_a_name_that_is_configured_twice_is_looked_at_once() -> None:
    headers = Headers([("authorization", JWT)])
    assert find_tokens(headers, ("authorization", "authorization")).tokens == (JWT,)


def test_nothing_presented_shows_in_a_repr() -> None:
    assert "eyJ" not in repr(find(("dd-api-key", JWT)))
    assert "dummy" not in repr(find(("dd-api-key", b"dummy")))
