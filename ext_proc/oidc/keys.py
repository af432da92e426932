"""Public keys of an issuer: which of a JWKS (RFC 7517, 7518) are usable, and for which algorithm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWTError
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

MAX_KEYS = 100
_MIN_RSA_BITS = 2048
_MAX_RSA_BITS = 8192
"""A larger key would make each verification slow enough to stall a worker."""

# The kind of key each algorithm is for: (kty, curve). One kind for one algorithm, so that a key cannot be confused.
_KINDS: dict[str, tuple[str, str]] = {
    **{f"{family}{bits}": ("RSA", "") for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", ""),
}


@dataclass(frozen=True, slots=True)
class Key:
    """One public key. `algorithm` is None where the issuer does not say."""

    kid: str | None
    kind: tuple[str, str]
    algorithm: str | None
    public: PublicKey = field(repr=False)

    def fits(self, algorithm: str) -> bool:
        return self.algorithm in (None, algorithm) and _KINDS.get(algorithm) == self.kind


def parse_jwks(document: Any) -> tuple[Key, ...]:
    """The usable keys. ValueError where it is no JWKS; keys that cannot serve are left out, as RFC 7517 demands.

    Left out: symmetric and private ones, those for encryption, RSA under 2048 bits, unknown types and curves.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it is not a JWKS: it has no list `keys`")
    if len(listed) > MAX_KEYS:
        raise ValueError(f"it lists more than {MAX_KEYS} keys")
    return tuple(key for item in listed if (key := _parse(item)) is not None)


def select(keys: Iterable[Key], kid: str | None, algorithm: str) -> tuple[Key, ...]:
    """The keys that may have signed: those of the token's key id, or, where it names none, the only one that fits."""
    fitting = tuple(key for key in keys if key.fits(algorithm))
    if kid is not None:
        return tuple(key for key in fitting if key.kid == kid)
    return fitting if len(fitting) == 1 else ()


def _parse(item: Any) -> Key | None:
    if not isinstance(item, dict) or "d" in item or "k" in item or item.get("use", "sig") != "sig":
        return None
    operations, kid, algorithm = item.get("key_ops", ["verify"]), item.get("kid"), item.get("alg")
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if not isinstance(kid, str | None) or not isinstance(algorithm, str | None):
        return None
    try:
        kind, public = _material(item)
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return None if public is None else Key(kid, kind, algorithm, public)


def _material(item: dict[str, Any]) -> tuple[tuple[str, str], PublicKey | None]:
    match item.get("kty"):
        case "RSA":
            rsa = RSAAlgorithm.from_jwk(item)
            usable = isinstance(rsa, RSAPublicKey) and _MIN_RSA_BITS <= rsa.key_size <= _MAX_RSA_BITS
            return ("RSA", ""), rsa if usable and isinstance(rsa, RSAPublicKey) else None
        case "EC":
            ec = ECAlgorithm.from_jwk(item)
            return ("EC", item["crv"]), ec if isinstance(ec, EllipticCurvePublicKey) else None
        case "OKP":
            okp = OKPAlgorithm.from_jwk(item)
            return ("OKP", ""), okp if isinstance(okp, Ed25519PublicKey | Ed448PublicKey) else None
        case _:
            return ("", ""), None
