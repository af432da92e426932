from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ext_proc.oidc.keys import MAX_KEYS, parse_jwks, select
from tests.unit.oidc import tokens as t


def usable(item: Any) -> int:
    return len(parse_jwks({"keys": [item]}))


def test_keys_that_can_serve() -> None:
    for item in (
        t.jwk(t.RSA, "a"),
        t.jwk(t.RSA, None),
        t.jwk(t.RSA, "a", use="sig", alg="RS512", key_ops=["verify"], x5c=["x"], extra={"a": 1}),
        t.jwk(t.EC, "a"),
        t.jwk(t.ED, "a"),
    ):
        assert usable(item) == 1


@pytest.mark.parametrize(
    "item",
    [
        None,
        "key",
        [],
        {},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "a"},
        {"kty": "RSA", "kid": "a"},
        {"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "kid": "a", "n": "!", "e": 7},
        {"kty": "EC", "kid": "a", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "kid": "a", "crv": "P-256", "x": "A" * 43, "y": "A" * 43},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
        {"kty": "PQ", "kid": "a"},
        t.jwk(t.RSA, "a", use="enc"),
        t.jwk(t.RSA, "a", use=["sig"]),
        t.jwk(t.RSA, "a", key_ops=["sign"]),
        t.jwk(t.RSA, "a", key_ops="verify"),
        t.jwk(t.RSA, "a", d="AQAB"),
        {**t.jwk(t.RSA, "a"), "kid": 7},
        t.jwk(t.RSA, "a", alg=["RS256"]),
        t.jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024), "small"),
    ],
)
def test_keys_that_cannot_are_left_out(item: Any) -> None:
    assert usable(item) == 0
    assert len(parse_jwks({"keys": [item, t.jwk(t.EC, "good")]})) == 1


@pytest.mark.parametrize("document", [None, [], {}, {"keys": {}}, {"keys": [{}] * (MAX_KEYS + 1)}])
def test_what_is_no_key_set(document: Any) -> None:
    with pytest.raises(ValueError, match="it "):
        parse_jwks(document)


def test_a_key_fits_the_algorithms_of_its_kind_only() -> None:
    p384 = ec.generate_private_key(ec.SECP384R1())
    keys = parse_jwks({"keys": [t.jwk(t.RSA, "r"), t.jwk(t.EC, "e"), t.jwk(t.ED, "d"), t.jwk(p384, "3")]})
    fits = {
        a: [key.kid for key in keys if key.fits(a)]
        for a in ("RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA", "none", "HS256", "")
    }
    assert fits == {
        "RS256": ["r"],
        "PS512": ["r"],
        "ES256": ["e"],
        "ES384": ["3"],
        "ES512": [],
        "EdDSA": ["d"],
        "none": [],
        "HS256": [],
        "": [],
    }


def test_selection() -> None:
    keys = parse_jwks({"keys": [t.jwk(t.RSA, "a"), t.jwk(t.OTHER, None), t.jwk(t.EC, "a")]})
    assert [k.kind for k in select(keys, "a", "RS256")] == [("RSA", "")]
    assert [k.kind for k in select(keys, "a", "ES256")] == [("EC", "P-256")]
    assert select(keys, "b", "RS256") == ()
    assert select(keys, None, "RS256") == ()  # two fit; which one it was is not for us to guess
    assert len(select(keys, None, "ES256")) == 1
