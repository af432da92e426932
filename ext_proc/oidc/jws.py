"""A JWT taken apart, nothing of it verified (RFC 7515, RFC 7519): only what says which key to ask for."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from ext_proc.errors import IdentityError
from ext_proc.oidc.presented import MAX_TOKEN
from ext_proc.rules.strict_json import StrictJsonError
from ext_proc.rules.strict_json import parse as parse_json

_MAX_DEPTH = 16
_MAX_KID = 512
_LATEST = 1 << 53


@dataclass(frozen=True, slots=True)
class Unverified:
    """`alg`, `kid` and the claims as the token has them. `jku`, `jwk`, `x5u`, `x5c` and `typ` are never looked at."""

    algorithm: str
    kid: str | None
    claims: dict[str, Any] = field(repr=False)


def take_apart(token: str) -> Unverified:
    """IdentityError `identity.too_large`, `identity.malformed`, or `identity.claims` for claims of the wrong type."""
    if len(token) > MAX_TOKEN:
        raise IdentityError("identity.too_large", f"the token is larger than {MAX_TOKEN >> 10} KiB")
    parts = token.split(".")
    if len(parts) != 3:
        raise malformed("it has not three parts")
    header = _object(parts[0], "header")
    claims = _object(parts[1], "claims")
    _decode(parts[2], "signature")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        raise malformed("its header names no algorithm")
    if "kid" in header and not (isinstance(kid, str) and len(kid) <= _MAX_KID):
        raise malformed("its key id is not a short string")
    if "crit" in header:
        raise malformed("its header demands extensions (`crit`), of which none is supported")
    _check_types(claims)
    return Unverified(algorithm, kid, claims)


def malformed(why: str) -> IdentityError:
    return IdentityError("identity.malformed", f"the token is malformed: {why}", remedy="Send it as it was issued.")


def wrong_claims(why: str) -> IdentityError:
    return IdentityError("identity.claims", f"the token's claims cannot be used: {why}", remedy="See its issuer.")


def _decode(part: str, name: str) -> bytes:
    """Base64url without padding, in its one canonical form: a token has no second spelling."""
    try:
        data = base64.b64decode(part.encode("ascii") + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise malformed(f"its {name} is not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise malformed(f"its {name} is not canonical base64url")
    return data


def _object(part: str, name: str) -> dict[str, Any]:
    try:
        value = parse_json(_decode(part, name), max_depth=_MAX_DEPTH)
    except StrictJsonError as error:
        raise malformed(f"its {name} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise malformed(f"its {name} is not a JSON object")
    return value


def _check_types(claims: dict[str, Any]) -> None:
    """The claims that decide must have their one type; libraries read `"exp": "0"` in different ways."""
    for name in ("iss", "sub"):
        value = claims.get(name)
        if not (isinstance(value, str) and value):
            raise wrong_claims(f"`{name}` is not a string" if name in claims else f"`{name}` is missing")
    audience = claims.get("aud")
    listed = audience if isinstance(audience, list) else [audience]
    if not listed or not all(isinstance(one, str) and one for one in listed):
        raise wrong_claims("`aud` is not a string or a list of strings" if "aud" in claims else "`aud` is missing")
    for name in ("exp", "nbf", "iat"):
        if name not in claims:
            if name == "exp":
                raise wrong_claims("`exp` is missing")
            continue
        value = claims[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < _LATEST:  # NaN and Infinity are out, too
            raise wrong_claims(f"`{name}` is not a time in seconds")
