"""What a credential becomes in a request, and what no value may hold."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field

from ext_proc.config import Credential
from ext_proc.errors import ConfigError, CredentialError

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Injection:
    """One credential, ready to be put in a request: in `header` or in the query parameter `query`, never in both.

    `value` is the whole header value (`Bearer x`), or the query parameter's value before percent-encoding; `secret` is
    the value as its source gave it, for masking. Neither is ever in a repr.
    """

    label: str
    header: str | None
    query: str | None
    value: bytes = field(repr=False)
    secret: bytes = field(repr=False)
    own: bool = False
    """Whether it belongs to this exchange's caller alone."""


def check_place(credential: Credential) -> None:
    """ConfigError `config.value` where no value could make a valid field."""
    user = credential.basic
    if user is not None and (":" in user or _CONTROL.search(user.encode())):
        raise ConfigError(
            "config.value",
            f"the Basic user name of the credential {credential.label} has a colon or a control character",
            remedy="RFC 7617 allows neither.",
        )


def inject(credential: Credential, secret: bytes, source: str, *, own: bool = False) -> Injection:
    """Form the value. CredentialError `credential.invalid` (502) where the secret could not stand in a header."""
    why = _unusable(secret)
    if why:
        raise CredentialError(
            "credential.invalid",
            f"the value of the credential {credential.label} from {source} {why}",
            remedy="Correct it at its source.",
            http_status=502,
        )
    if credential.bearer:
        value = b"Bearer " + secret
    elif credential.basic is not None:
        value = b"Basic " + base64.b64encode(credential.basic.encode() + b":" + secret)
    else:
        value = secret
    if credential.query is not None:
        return Injection(credential.label, None, credential.query, value, secret, own)
    return Injection(credential.label, credential.header or "authorization", None, value, secret, own)


def _unusable(secret: bytes) -> str:
    if not secret:
        return "is empty"
    if _CONTROL.search(secret):
        return "holds a line break or another control character"
    if secret != secret.strip(b" "):
        return "begins or ends with a blank"
    return ""
