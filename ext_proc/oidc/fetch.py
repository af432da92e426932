"""Getting an issuer's keys: OpenID Connect Discovery 1.0, section 4, and the JWKS it names. Blocking."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ext_proc import web
from ext_proc.oidc.keys import Key, parse_jwks
from ext_proc.rules.strict_json import StrictJsonError
from ext_proc.rules.strict_json import parse as parse_json
from ext_proc.web import is_allowed_url

DEADLINE = 10.0
"""Seconds for discovery and keys together."""


class Source(NamedTuple):
    """Where an issuer's keys come from; equal sources share their keys across reloads."""

    issuer: str
    jwks_uri: str | None
    ca_file: str | None


class FetchError(Exception):
    """The keys could not be had; the message is for the operator."""


def discovery_url(issuer: str) -> str:
    return f"{issuer.removesuffix('/')}/.well-known/openid-configuration"


def fetch_keys(source: Source) -> tuple[Key, ...]:
    """The issuer's usable signature keys, perhaps none. FetchError where it is away or does not answer as it must."""
    deadline = time.monotonic() + DEADLINE
    uri = source.jwks_uri or _discover(source, deadline)
    if not is_allowed_url(uri):
        raise FetchError(f"{uri[:200]!r} is neither https nor http on loopback")
    try:
        return parse_jwks(_get_json(uri, source, deadline))
    except ValueError as error:
        raise FetchError(f"{uri}: {error}") from None


def _discover(source: Source, deadline: float) -> str:
    url = discovery_url(source.issuer)
    if not is_allowed_url(url):
        raise FetchError(f"{url[:200]!r} is neither https nor http on loopback")
    document = _get_json(url, source, deadline)
    if not isinstance(document, dict) or document.get("issuer") != source.issuer:
        named = document.get("issuer") if isinstance(document, dict) else None
        raise FetchError(f"{url} speaks for the issuer {str(named)[:200]!r}, not {source.issuer!r}")
    uri = document.get("jwks_uri")
    if not isinstance(uri, str):
        raise FetchError(f"{url} names no jwks_uri")
    return uri


def _get_json(url: str, source: Source, deadline: float) -> Any:
    try:
        answer = web.send("GET", url, deadline=deadline, ca_file=source.ca_file)
    except web.WebTimeout:
        raise FetchError(f"{url} took more than {DEADLINE:g} s") from None
    except web.WebError as error:
        raise FetchError(str(error)) from None
    if answer.status != 200:
        raise FetchError(f"{url} answered {answer.status}")
    try:
        return parse_json(answer.body)
    except StrictJsonError as error:
        raise FetchError(f"{url}: {error}") from None
