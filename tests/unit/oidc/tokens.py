"""Keys and tokens for the unit tests: real RSA and EC keys, signed by PyJWT or by hand, no sockets."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ext_proc.config import Issuer
from ext_proc.oidc import KeySets, Verifier
from ext_proc.oidc.fetch import Source
from ext_proc.oidc.keys import Key, parse_jwks

ISSUER = "https://token.example"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def segment(value: Any) -> str:
    return b64(value if isinstance(value, bytes) else json.dumps(value).encode())


def public_pem() -> bytes:
    return RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def jwk(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    algorithm = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    serialize = next(a for kind, a in algorithm.items() if isinstance(key, kind))
    document: dict[str, Any] = serialize.to_jwk(key.public_key(), as_dict=True)
    document.pop("key_ops", None)
    return {**document, **({} if kid is None else {"kid": kid}), **more}


JWKS = {
    "keys": [
        jwk(RSA, "rsa", use="sig", alg="RS256"),
        jwk(EC, "ec"),
        jwk(ED, "ed"),
        jwk(OTHER, "encrypt", use="enc"),
        {"kty": "oct", "kid": "oct", "k": b64(b"secret" * 8)},
    ]
}


def claims(**changes: Any) -> dict[str, Any]:
    """GitHub's shape; a change to None removes the claim."""
    now = int(time.time())
    full = {
        "iss": ISSUER,
        "aud": "douane",
        "sub": "repo:octo/repo:ref:refs/heads/main",
        "repository": "octo/repo",
        "repository_id": "74",
        "run_id": "1234",
        "run_attempt": "1",
        "iat": now,
        "nbf": now - 300,
        "exp": now + 21_600,  # tokens made when tests are collected must outlast the whole run
    } | changes
    return {name: value for name, value in full.items() if value is not None}


def sign(body: dict[str, Any] | None = None, *, key: Any = RSA, algorithm: str = "RS256", **header: Any) -> str:
    return jwt.encode(claims() if body is None else body, key, algorithm=algorithm, headers={"kid": "rsa", **header})


def sign_raw(header: Any, body: Any) -> str:
    """A token with any header and claims, bytes included, that RSA really signed."""
    signed = f"{segment(header)}.{segment(body)}"
    algorithm = jwt.get_algorithm_by_name("RS256")
    return f"{signed}.{b64(algorithm.sign(signed.encode(), RSA))}"


class FakeIssuer:
    """Counts what is asked of it, and may be away."""

    def __init__(self) -> None:
        self.jwks: Any = JWKS
        self.asked = 0
        self.fault: Exception | None = None

    def fetch(self, _: Source) -> tuple[Key, ...]:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return parse_jwks(self.jwks)


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make_verifier(
    issuer: FakeIssuer, *, clock: Callable[[], float] = time.time, keysets: KeySets | None = None, **changes: Any
) -> Verifier:
    settings = Issuer.model_validate({"issuer": ISSUER, "audience": ("other", "douane"), **changes})
    return Verifier({"github": settings}, keysets or KeySets(fetch=issuer.fetch), clock=clock)
