"""Verifying a caller's token. The numbered steps:

1. It is a JWT in compact form, at most 16 KiB, canonical base64url, strict JSON, without `crit`; `iss`, `sub`, `aud`
   and `exp` are there, and times are numbers.
2. Its `iss` is, byte for byte, that of a configured issuer.
3. Its `alg` is one that this issuer is configured for. `none` and HS* cannot be configured.
4. A key of that issuer (never one from the token) has the token's `kid` and is of the kind that `alg` is for.
5. The signature, issuer, audience and times hold, with every check written out (PyJWT).
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jwt

from ext_proc.config import Issuer
from ext_proc.errors import ConfigError, IdentityError
from ext_proc.exchange import SignedClaims
from ext_proc.oidc.fetch import discovery_url
from ext_proc.oidc.jws import Unverified, malformed, take_apart, wrong_claims
from ext_proc.oidc.keysets import KeySets
from ext_proc.web import is_allowed_url

REMEMBERED = 1024
_REQUIRED = ["exp", "iss", "aud", "sub"]


@dataclass(frozen=True, slots=True)
class _Verified:
    issuer: str
    claims: SignedClaims
    generation: int


class Verifier:
    """Verifies tokens against the issuers of one configuration. ConfigError for an issuer whose keys nobody may fetch.

    A token once verified is remembered: it is not verified again until it expires or its issuer's keys change.
    """

    def __init__(
        self, issuers: Mapping[str, Issuer], keysets: KeySets, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._issuers = dict(issuers)
        self._names: dict[str, str] = {}
        for name, issuer in issuers.items():
            url = issuer.jwks_uri or discovery_url(issuer.issuer)
            if not is_allowed_url(url):
                raise ConfigError(
                    "config.plain_http", f"issuers.{name}: {url} is neither https nor on loopback", remedy="Use https."
                )
            self._names.setdefault(issuer.issuer, name)
        self._keysets = keysets
        self._clock = clock
        self._remembered: OrderedDict[bytes, _Verified] = OrderedDict()

    async def verify(self, token: str) -> tuple[str, SignedClaims]:
        """(issuer's name in douane.yaml, claims). IdentityError otherwise: 401, or 503 where the issuer is away.

        The claims are shared between calls: never change them.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._remembered.get(digest)
        if known is not None:
            issuer = self._issuers[known.issuer]
            if self._keysets.generation(issuer) == known.generation:
                self._check_times(known.claims, issuer)
                self._remembered.move_to_end(digest)
                return known.issuer, known.claims
        name, claims = await self._verify(token)
        generation = self._keysets.generation(self._issuers[name])
        if generation is not None:
            self._remembered[digest] = _Verified(name, claims, generation)
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return name, claims

    async def _verify(self, token: str) -> tuple[str, SignedClaims]:
        unverified = take_apart(token)  # 1
        name = self._names.get(unverified.claims["iss"])  # 2
        if name is None:
            raise IdentityError(
                "identity.unknown_issuer",
                f"the issuer {_shown(unverified.claims['iss'])} is not configured",
                remedy="Add it under `issuers`, exactly as in the token's `iss`.",
            )
        issuer = self._issuers[name]
        if unverified.algorithm not in issuer.algorithms:  # 3
            raise IdentityError(
                "identity.algorithm",
                f"the signature algorithm {_shown(unverified.algorithm)} is not accepted for the issuer {name}",
                remedy=f"Accepted: {', '.join(issuer.algorithms)}.",
            )
        self._check_times(unverified.claims, issuer)
        return name, await self._check_signature(token, unverified, name, issuer)

    async def _check_signature(self, token: str, unverified: Unverified, name: str, issuer: Issuer) -> SignedClaims:
        keys = await self._keysets.keys(issuer, unverified.kid, unverified.algorithm)  # 4
        if not keys:
            raise IdentityError(
                "identity.unknown_key",
                f"the issuer {name} has no key {_shown(unverified.kid or '(unnamed)')} for {unverified.algorithm}",
                remedy="Get a fresh token.",
            )
        for key in keys:
            try:
                claims = jwt.decode(  # 5
                    token,
                    key=key.public,
                    algorithms=[unverified.algorithm],
                    audience=issuer.audience,
                    issuer=issuer.issuer,
                    leeway=issuer.leeway,
                    options={
                        "require": _REQUIRED,
                        "verify_signature": True,
                        "verify_exp": True,
                        "verify_nbf": True,
                        "verify_iat": True,
                        "verify_aud": True,
                        "verify_iss": True,
                        "verify_sub": True,
                        "verify_jti": False,
                        "strict_aud": False,
                    },
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError as error:
                raise _refused(error, issuer, name) from None
            return SignedClaims(claims)
        raise IdentityError(
            "identity.bad_signature", "the token's signature is wrong", remedy="Send it as it was issued."
        )

    def _check_times(self, claims: Mapping[str, object], issuer: Issuer) -> None:
        now, leeway = self._clock(), issuer.leeway.total_seconds()
        exp, nbf, iat = claims["exp"], claims.get("nbf", 0), claims.get("iat", 0)
        assert isinstance(exp, int | float)
        assert isinstance(nbf, int | float)
        assert isinstance(iat, int | float)
        if exp <= now - leeway:
            raise _expired()
        if max(nbf, iat) > now + leeway:
            raise _not_yet_valid()


def _refused(error: jwt.PyJWTError, issuer: Issuer, name: str) -> IdentityError:
    match error:
        case jwt.ExpiredSignatureError():
            return _expired()
        case jwt.ImmatureSignatureError():
            return _not_yet_valid()
        case jwt.InvalidAudienceError():
            accepted = (issuer.audience,) if isinstance(issuer.audience, str) else issuer.audience
            return IdentityError(
                "identity.audience",
                f"the token was not made for an audience of the issuer {name}",
                remedy=f"Ask the issuer for a token with the audience {' or '.join(accepted)}.",
            )
        case jwt.MissingRequiredClaimError() | jwt.InvalidIssuerError():
            return wrong_claims(str(error))
        case _:
            return malformed(type(error).__name__)


def _expired() -> IdentityError:
    return IdentityError(
        "identity.expired", "the token has expired", remedy="Get a fresh one, or a session key: POST /.douane/session."
    )


def _not_yet_valid() -> IdentityError:
    return IdentityError(
        "identity.not_yet_valid", "the token is not valid yet", remedy="Compare the clocks of the issuer and the gate."
    )


def _shown(text: str) -> str:
    """A token's own text, made safe for a message."""
    return repr("".join(c if c.isprintable() else "?" for c in text[:120]))
