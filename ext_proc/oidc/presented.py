"""What a request presents as its caller's proof, taken from the identity headers, nothing of it verified."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ext_proc.errors import IdentityError
from ext_proc.exchange import Headers

MAX_TOKEN = 16 * 1024
"""Bytes. GitHub's tokens are about 2 KiB; Envoy takes header blocks of 60 KiB."""

# A JWS header is a JSON object, so its base64url begins with `ey` or, with a line break after the brace, `ew`.
_JWT = re.compile(rb"e[yw][A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_SESSION_KEY = re.compile(rb"dse_[A-Za-z0-9_-]{43}")
_SCHEME = re.compile(rb"(?P<scheme>bearer|basic)(?: +(?P<value>.*))?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Presented:
    """The one token a request presents, if any.

    `placeholders` are the other values in identity headers, such as the dummy API key a client insists on: ignored,
    removed before the upstream, and masked in the record. They may be short.
    """

    token: str | None = field(default=None, repr=False)
    placeholders: tuple[bytes, ...] = field(default=(), repr=False)
    headers: tuple[str, ...] = ()
    """The identity headers looked at, for messages."""

    @property
    def tokens(self) -> tuple[bytes, ...]:
        """The token as bytes, for masking; empty without one."""
        return () if self.token is None else (self.token.encode("ascii"),)

    def required(self) -> str:
        """The token; IdentityError `identity.missing`, or `identity.malformed` where there is something else."""
        if self.token is not None:
            return self.token
        names = ", ".join(self.headers)
        if self.placeholders:
            raise IdentityError(
                "identity.malformed",
                f"what is in {names} is neither an OIDC token nor a session key",
                remedy="Send the job's OIDC token there: `Bearer TOKEN`, Basic with it as the password, or bare.",
            )
        raise IdentityError(
            "identity.missing",
            "the request carries no token",
            remedy=f"Send the job's OIDC token in one of: {names}.",
        )


def is_session_key(token: str) -> bool:
    """Whether it has the form of a session key: `dse_` and 43 characters of base64url (256 bits)."""
    return _SESSION_KEY.fullmatch(token.encode("ascii", "replace")) is not None


def find_tokens(headers: Headers, names: Sequence[str]) -> Presented:
    """The token in the headers `names` (lower case): `Bearer X`, `Basic base64(user:X)` or X.

    IdentityError where a header occurs twice (`identity.duplicate_header`), is larger than a token may be
    (`identity.too_large`), or two headers hold different tokens (`identity.conflict`).
    """
    tokens: dict[bytes, str] = {}
    placeholders: dict[bytes, None] = {}
    for name in dict.fromkeys(names):
        values = headers.all(name)
        if len(values) > 1:
            raise IdentityError(
                "identity.duplicate_header",
                f"the header {name} occurs {len(values)} times",
                remedy="Send it once.",
            )
        for value in values:
            candidate, *others = _forms(value, name)
            if _JWT.fullmatch(candidate) or _SESSION_KEY.fullmatch(candidate):
                tokens.setdefault(candidate, name)
            else:
                placeholders.update((form, None) for form in (candidate, *others) if form)
    if len(tokens) > 1:
        raise IdentityError(
            "identity.conflict",
            f"the headers {' and '.join(tokens.values())} hold different tokens",
            remedy="Send one token, or the same one in each.",
        )
    token = next(iter(tokens), None)
    return Presented(None if token is None else token.decode("ascii"), tuple(placeholders), tuple(names))


def _forms(value: bytes, name: str) -> list[bytes]:
    """What of a header's value may be the token, of Basic the password; then what else to mask where it is not."""
    if len(value) > MAX_TOKEN * 4 // 3 + 256:  # base64 of a token and a user name
        raise _too_large(name)
    match = _SCHEME.fullmatch(value.strip(b" \t"))
    candidate = (match["value"] or b"") if match else value.strip(b" \t")
    found = [candidate]
    if match and match["scheme"].lower() == b"basic":
        try:
            password = base64.b64decode(candidate, validate=True).partition(b":")[2]
        except binascii.Error:
            password = b""
        found = [password, candidate]
    if len(found[0]) > MAX_TOKEN:
        raise _too_large(name)
    return found


def _too_large(name: str) -> IdentityError:
    return IdentityError(
        "identity.too_large", f"the header {name} is larger than {MAX_TOKEN >> 10} KiB", remedy="Send the token alone."
    )
