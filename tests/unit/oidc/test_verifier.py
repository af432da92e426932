import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from ext_proc.config import Issuer
from ext_proc.errors import ConfigError, IdentityError
from ext_proc.oidc import KeySets, Verifier
from ext_proc.oidc.verifier import REMEMBERED
from tests.unit.oidc import tokens as t

NOW = int(time.time())
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.mark.parametrize(
    "token",
    [
        t.sign(),
        t.sign(key=t.EC, algorithm="ES256", kid="ec"),
        t.sign(key=t.ED, algorithm="EdDSA", kid="ed"),
        t.sign(t.claims(aud=["x", "douane"])),
        t.sign(t.claims(aud="other")),
        t.sign(t.claims(nbf=NOW - 600)),
        t.sign(t.claims(nbf=None, iat=None, jti=None)),
        t.sign(t.claims(exp=NOW + 21_600.5)),
        t.sign(t.claims(jti=7)),
        t.sign(typ="at+jwt"),
        t.sign(typ=7),
        # Keys and places for keys in the token are not looked at, whatever they say.
        t.sign(jwk=t.jwk(t.OTHER, "rsa"), jku="http://127.0.0.1:1/", x5u="http://127.0.0.1:1/", x5c=["x"], x5t="x"),
        # No key id, and only one key that RS256 is for.
        t.sign_raw({"alg": "RS256"}, t.claims()),
    ],
)
async def test_good_tokens(token: str) -> None:
    verifier = t.make_verifier(t.FakeIssuer(), algorithms=("RS256", "ES256", "EdDSA"), clock=lambda: NOW)
    name, claims = await verifier.verify(token)
    assert name == "github"
    assert claims["sub"] == "repo:octo/repo:ref:refs/heads/main"


@pytest.mark.parametrize("shift", [{"exp": -20}, {"nbf": 20, "iat": 20}])
async def test_clocks_may_differ_by_the_leeway(shift: dict[str, int]) -> None:
    """The token is made now: one made when tests are collected is older than the leeway when its turn comes."""
    now = int(time.time())
    verifier = t.make_verifier(t.FakeIssuer(), clock=lambda: now)
    assert await verifier.verify(t.sign(t.claims(**{name: now + by for name, by in shift.items()})))


def with_signature(signed: str, signature: bytes) -> str:
    return f"{signed}.{t.b64(signature)}"


def key_confusion(algorithm: str, digest: Callable[..., Any]) -> str:
    signed = f"{t.segment({'alg': algorithm, 'kid': 'rsa'})}.{t.segment(t.claims())}"
    return with_signature(signed, hmac.new(t.public_pem(), signed.encode(), digest).digest())


def respelled() -> str:
    """The same bytes with other unused bits in a part's last character: a lenient decoder reads the same token."""
    header, body, signature = t.sign().split(".")
    assert len(signature) % 4 == 2  # 256 bytes: four bits of the last character are unused
    return f"{header}.{body}.{signature[:-1]}{ALPHABET[ALPHABET.index(signature[-1]) ^ 1]}"


def swapped(n: int, value: str) -> str:
    parts = t.sign().split(".")
    parts[n] = value
    return ".".join(parts)


RAW = {"alg": "RS256", "kid": "rsa"}
BAD: dict[str, tuple[str, str]] = {
    # The form
    "empty": ("", "malformed"),
    "garbage": ("not a token", "malformed"),
    "dots": ("..", "malformed"),
    "two parts": (t.sign().rpartition(".")[0], "malformed"),
    "four parts": (t.sign() + ".x", "malformed"),
    "encrypted (JWE)": (".".join(["eyJhbGciOiJSU0EtT0FFUCJ9", "a", "b", "c", "d"]), "malformed"),
    "huge": (t.sign(t.claims(pad="x" * 20_000)), "too_large"),
    "padded": (t.sign() + "==", "malformed"),
    "second spelling of the signature": (respelled(), "malformed"),
    "standard alphabet": (swapped(2, "+/" * 8), "malformed"),
    "impossible length": (swapped(2, "AAAAA"), "malformed"),
    "blank before": (" " + t.sign(), "malformed"),
    "blank after": (t.sign() + " ", "malformed"),
    "line break after": (t.sign() + "\n", "malformed"),
    "line break within": (t.sign()[:40] + "\n" + t.sign()[40:], "malformed"),
    "null byte": (t.sign() + "\0", "malformed"),
    "not ASCII": (swapped(1, "é"), "malformed"),
    "fullwidth": (swapped(2, "\uff21" * 4), "malformed"),
    "lone surrogate": (swapped(1, "\udc80"), "malformed"),
    # The header
    "header not JSON": (swapped(0, t.segment(b"{alg: RS256}")), "malformed"),
    "header a list": (swapped(0, t.segment(["RS256"])), "malformed"),
    "header with a name twice": (t.sign_raw(b'{"alg":"none","alg":"RS256","kid":"rsa"}', t.claims()), "malformed"),
    "header nested": (t.sign_raw(b'{"alg":"RS256","x":' + b"[" * 40 + b"]" * 40 + b"}", t.claims()), "malformed"),
    "header in UTF-16": (t.sign_raw(json.dumps(RAW).encode("utf-16"), t.claims()), "malformed"),
    "no alg": (t.sign_raw({"kid": "rsa"}, t.claims()), "malformed"),
    "alg a number": (t.sign_raw({"alg": 256, "kid": "rsa"}, t.claims()), "malformed"),
    "crit": (t.sign_raw({**RAW, "crit": ["exp"]}, t.claims()), "malformed"),
    "crit, empty": (t.sign_raw({**RAW, "crit": []}, t.claims()), "malformed"),
    "unencoded payload (RFC 7797)": (t.sign_raw({**RAW, "b64": False, "crit": ["b64"]}, t.claims()), "malformed"),
    "kid a number": (t.sign_raw({"alg": "RS256", "kid": 1}, t.claims()), "malformed"),
    "kid null": (t.sign_raw({"alg": "RS256", "kid": None}, t.claims()), "malformed"),
    "kid a list": (t.sign_raw({"alg": "RS256", "kid": ["rsa"]}, t.claims()), "malformed"),
    "kid long": (t.sign_raw({"alg": "RS256", "kid": "r" * 600}, t.claims()), "malformed"),
    # The algorithm and the key
    "alg none": (f"{t.segment({'alg': 'none'})}.{t.segment(t.claims())}.", "algorithm"),
    "alg None": (f"{t.segment({'alg': 'NoNe'})}.{t.segment(t.claims())}.", "algorithm"),
    "alg none, with a signature": (t.sign_raw({"alg": "none", "kid": "rsa"}, t.claims()), "algorithm"),
    "alg empty": (t.sign_raw({"alg": "", "kid": "rsa"}, t.claims()), "algorithm"),
    "HS256 with the public key as the secret": (key_confusion("HS256", hashlib.sha256), "algorithm"),
    "HS512 with the public key as the secret": (key_confusion("HS512", hashlib.sha512), "algorithm"),
    "algorithm in lower case": (t.sign_raw({"alg": "rs256", "kid": "rsa"}, t.claims()), "algorithm"),
    "algorithm that this issuer does not have": (t.sign(algorithm="PS256"), "algorithm"),
    "ES256 with an RSA key's id": (t.sign(key=t.EC, algorithm="ES256"), "unknown_key"),
    "RS256 with an EC key's id": (t.sign(kid="ec"), "unknown_key"),
    "unknown kid": (t.sign(kid="nobody"), "unknown_key"),
    "kid of a symmetric key": (t.sign(kid="oct"), "unknown_key"),
    "kid of an encryption key": (t.sign(key=t.OTHER, kid="encrypt"), "unknown_key"),
    "kid as a path": (t.sign(kid="../../dev/null"), "unknown_key"),
    "kid as SQL": (t.sign(kid="' UNION SELECT 'x"), "unknown_key"),
    "signed by another key": (t.sign(key=t.OTHER), "bad_signature"),
    "signed by the key it brings": (t.sign(key=t.OTHER, jwk=t.jwk(t.OTHER, "rsa")), "bad_signature"),
    "no signature": (swapped(2, ""), "bad_signature"),
    "short signature": (swapped(2, "AAAA"), "bad_signature"),
    "claims changed": (swapped(1, t.segment(t.claims(repository_id="75"))), "bad_signature"),
    # The claims
    "claims not JSON": (t.sign_raw(RAW, b"claims"), "malformed"),
    "claims a string": (t.sign_raw(RAW, "claims"), "malformed"),
    "claims with a name twice": (
        t.sign_raw(RAW, json.dumps(t.claims()).encode()[:-1] + b', "repository_id": "74"}'),
        "malformed",
    ),
    "claims with NaN": (t.sign_raw(RAW, json.dumps(t.claims(exp=float("nan"))).encode()), "malformed"),
    "unknown issuer": (t.sign(t.claims(iss="https://evil.example")), "unknown_issuer"),
    "issuer with a slash more": (t.sign(t.claims(iss=t.ISSUER + "/")), "unknown_issuer"),
    "issuer in capitals": (t.sign(t.claims(iss=t.ISSUER.upper())), "unknown_issuer"),
    "issuer's name for its URL": (t.sign(t.claims(iss="github")), "unknown_issuer"),
    "issuer a list": (t.sign_raw(RAW, t.claims(iss=[t.ISSUER])), "claims"),
    "no issuer": (t.sign(t.claims(iss=None)), "claims"),
    "no subject": (t.sign(t.claims(sub=None)), "claims"),
    "subject empty": (t.sign(t.claims(sub="")), "claims"),
    "subject a number": (t.sign_raw(RAW, t.claims(sub=7)), "claims"),
    "no audience": (t.sign(t.claims(aud=None)), "claims"),
    "audience empty": (t.sign(t.claims(aud=[])), "claims"),
    "audience an object": (t.sign(t.claims(aud={"douane": 1})), "claims"),
    "audience with a number": (t.sign(t.claims(aud=["douane", 1])), "claims"),
    "wrong audience": (t.sign(t.claims(aud="https://github.com/octo")), "audience"),
    "audience as a part": (t.sign(t.claims(aud="douane2")), "audience"),
    "wrong audiences": (t.sign(t.claims(aud=["a", "b"])), "audience"),
    "expired": (t.sign(t.claims(exp=NOW - 60)), "expired"),
    "expired in 1970": (t.sign(t.claims(exp=0)), "expired"),
    "no expiry": (t.sign(t.claims(exp=None)), "claims"),
    "expiry a string": (t.sign_raw(RAW, t.claims(exp=str(NOW + 21_600))), "claims"),
    "expiry a string, past": (t.sign_raw(RAW, t.claims(exp="0")), "claims"),
    "expiry true": (t.sign_raw(RAW, t.claims(exp=True)), "claims"),
    "expiry null": (t.sign_raw(RAW, {**t.claims(), "exp": None}), "claims"),
    "expiry never": (t.sign_raw(RAW, t.claims(exp=10**400)), "claims"),
    "expiry infinite": (
        t.sign_raw(RAW, json.dumps(t.claims(exp=1)).encode().replace(b'"exp": 1', b'"exp": 1e999')),
        "claims",
    ),
    "expiry negative": (t.sign_raw(RAW, t.claims(exp=-1)), "claims"),
    "not yet valid": (t.sign(t.claims(nbf=NOW + 21_600)), "not_yet_valid"),
    "issued in the future": (t.sign(t.claims(iat=NOW + 21_600)), "not_yet_valid"),
    "nbf a string": (t.sign_raw(RAW, t.claims(nbf="0")), "claims"),
    "iat a list": (t.sign_raw(RAW, t.claims(iat=[1])), "claims"),
}


@pytest.mark.parametrize(("token", "reason"), BAD.values(), ids=BAD.keys())
async def test_bad_tokens(token: str, reason: str, verifier: Verifier) -> None:
    for _ in range(2):  # nothing bad is remembered as good
        with pytest.raises(IdentityError) as caught:
            await verifier.verify(token)
        assert caught.value.reason == f"identity.{reason}"
        assert caught.value.http_status == 401
        assert caught.value.message
        signature = token.rpartition(".")[2]
        assert len(signature) < 20 or signature not in str(caught.value)


async def test_a_token_without_kid_needs_a_single_key(issuer: t.FakeIssuer) -> None:
    issuer.jwks = {"keys": [t.jwk(t.RSA, "a"), t.jwk(t.OTHER, "b")]}
    with pytest.raises(IdentityError) as caught:
        await t.make_verifier(issuer).verify(t.sign_raw({"alg": "RS256"}, t.claims()))
    assert caught.value.reason == "identity.unknown_key"


async def test_a_key_for_one_algorithm_serves_no_other(issuer: t.FakeIssuer) -> None:
    with pytest.raises(IdentityError) as caught:
        await t.make_verifier(issuer, algorithms=("RS256", "RS512")).verify(t.sign(algorithm="RS512"))
    assert caught.value.reason == "identity.unknown_key"


async def test_keys_that_share_an_id_are_all_tried(issuer: t.FakeIssuer) -> None:
    issuer.jwks = {"keys": [t.jwk(t.OTHER, "rsa"), t.jwk(t.RSA, "rsa")]}
    assert (await t.make_verifier(issuer).verify(t.sign()))[0] == "github"


async def test_a_verified_token_is_remembered_until_it_expires(issuer: t.FakeIssuer) -> None:
    clock = t.Clock(time.time())
    verifier = t.make_verifier(issuer, clock=clock)
    token = t.sign(t.claims(exp=int(clock.now) + 300))
    _, claims = await verifier.verify(token)
    assert (await verifier.verify(token))[1] is claims
    clock.now += 300 + 28
    assert (await verifier.verify(token))[1] is claims
    clock.now += 2
    with pytest.raises(IdentityError, match=r"identity\.expired"):
        await verifier.verify(token)


async def test_a_remembered_token_does_not_outlive_its_key(issuer: t.FakeIssuer) -> None:
    clock = t.Clock(0)
    keysets = KeySets(fetch=issuer.fetch, clock=clock, cooldown=10)
    verifier = t.make_verifier(issuer, keysets=keysets)
    token = t.sign()
    await verifier.verify(token)
    issuer.jwks = {"keys": [t.jwk(t.OTHER, "new")]}
    clock.now = 11
    await verifier.verify(t.sign(key=t.OTHER, kid="new"))
    with pytest.raises(IdentityError, match=r"identity\.unknown_key"):
        await verifier.verify(token)


async def test_a_remembered_token_is_not_served_by_keys_that_are_too_old(issuer: t.FakeIssuer) -> None:
    clock = t.Clock(0)
    verifier = t.make_verifier(issuer, keysets=KeySets(fetch=issuer.fetch, clock=clock), max_stale="1h")
    token = t.sign()
    await verifier.verify(token)
    issuer.fault = OSError("away")
    clock.now = 3601
    with pytest.raises(IdentityError, match=r"identity\.issuer_unavailable"):
        await verifier.verify(token)


async def test_what_is_remembered_is_bounded(issuer: t.FakeIssuer) -> None:
    verifier = t.make_verifier(issuer, algorithms=("EdDSA",))
    for n in range(REMEMBERED + 10):
        await verifier.verify(t.sign(t.claims(n=n), key=t.ED, algorithm="EdDSA", kid="ed"))
    assert len(verifier._remembered) == REMEMBERED


async def test_the_same_token_means_another_thing_to_another_configuration(issuer: t.FakeIssuer) -> None:
    keysets = KeySets(fetch=issuer.fetch)
    token = t.sign()
    await t.make_verifier(issuer, keysets=keysets).verify(token)
    with pytest.raises(IdentityError, match=r"identity\.audience"):
        await t.make_verifier(issuer, keysets=keysets, audience="else").verify(token)
    assert issuer.asked == 1


@pytest.mark.parametrize("url", ["http://token.example", "ftp://token.example", "https://user@token.example", "x", ""])
def test_keys_come_over_https_or_loopback(url: str) -> None:
    for changes in ({"issuer": url}, {"issuer": t.ISSUER, "jwks_uri": url or "http://x"}):
        with pytest.raises(ConfigError, match=r"issuers\.a"):
            Verifier({"a": Issuer.model_validate({"audience": "x", **changes})}, KeySets())


def test_an_issuer_whose_keys_are_given_need_not_be_reachable() -> None:
    Verifier(
        {
            "a": Issuer(issuer="http://gitlab.localdev:3000", audience="x", jwks_uri="https://gitlab.example/keys"),
            "b": Issuer(issuer="http://[::1]:8080", audience="x"),
            "c": Issuer(issuer="http://localhost:8080/", audience="x"),
        },
        KeySets(),
    )


async def test_many_requests_with_one_token_ask_the_issuer_once(issuer: t.FakeIssuer) -> None:
    verifier = t.make_verifier(issuer)
    await asyncio.gather(*(verifier.verify(t.sign(t.claims(n=n))) for n in range(50)))
    assert issuer.asked == 1


@pytest.fixture
def issuer() -> t.FakeIssuer:
    return t.FakeIssuer()


@pytest.fixture
def verifier(issuer: t.FakeIssuer) -> Verifier:
    return t.make_verifier(issuer)
