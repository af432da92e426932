"""Getting an issuer's keys: OpenID Connect Discovery 1.0, section 4, and the JWKS it names. Blocking."""

from __future__ import annotations

import ipaddress
import ssl
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import urllib3

from ext_proc.oidc.keys import Key, parse_jwks
from ext_proc.rules.strict_json import StrictJsonError
from ext_proc.rules.strict_json import parse as parse_json

DEADLINE = 10.0
"""Seconds for discovery and keys together."""
MAX_RESPONSE = 512 * 1024

_CONNECT, _READ = 3.0, 5.0


class Source(NamedTuple):
    """Where an issuer's keys come from; equal sources share their keys across reloads."""

    issuer: str
    jwks_uri: str | None
    ca_file: str | None


class FetchError(Exception):
    """The keys could not be had; the message is for the operator."""


def is_allowed_url(url: str) -> bool:
    """https, or plain http on loopback, without credentials in it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.password is not None:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def discovery_url(issuer: str) -> str:
    return f"{issuer.removesuffix('/')}/.well-known/openid-configuration"


def fetch_keys(source: Source) -> tuple[Key, ...]:
    """The issuer's usable signature keys, perhaps none. FetchError where it is away or does not answer as it must."""
    deadline = time.monotonic() + DEADLINE
    try:
        context = ssl.create_default_context(cafile=source.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise FetchError(f"the CA bundle {source.ca_file} cannot be used: {error}") from None
    with urllib3.PoolManager(ssl_context=context, retries=False) as pool:
        uri = source.jwks_uri or _discover(pool, source.issuer, deadline)
        if not is_allowed_url(uri):
            raise FetchError(f"{uri[:200]!r} is neither https nor http on loopback")
        try:
            return parse_jwks(_get_json(pool, uri, deadline))
        except ValueError as error:
            raise FetchError(f"{uri}: {error}") from None


def _discover(pool: urllib3.PoolManager, issuer: str, deadline: float) -> str:
    url = discovery_url(issuer)
    if not is_allowed_url(url):
        raise FetchError(f"{url[:200]!r} is neither https nor http on loopback")
    document = _get_json(pool, url, deadline)
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        named = document.get("issuer") if isinstance(document, dict) else None
        raise FetchError(f"{url} speaks for the issuer {str(named)[:200]!r}, not {issuer!r}")
    uri = document.get("jwks_uri")
    if not isinstance(uri, str):
        raise FetchError(f"{url} names no jwks_uri")
    return uri


def _get_json(pool: urllib3.PoolManager, url: str, deadline: float) -> Any:
    try:
        response = pool.request(
            "GET",
            url,
            headers={"accept": "application/json", "user-agent": "douane"},
            timeout=urllib3.Timeout(connect=_CONNECT, read=_READ),
            redirect=False,
            preload_content=False,
        )
        try:
            if response.status != 200:
                raise FetchError(f"{url} answered {response.status}")
            return parse_json(_read(response, url, deadline))
        finally:
            response.close()
    except urllib3.exceptions.HTTPError as error:
        raise FetchError(f"{url}: {error}") from None
    except StrictJsonError as error:
        raise FetchError(f"{url}: {error}") from None


def _read(response: urllib3.BaseHTTPResponse, url: str, deadline: float) -> bytes:
    """The body within its bounds. Piecewise, as a trickling peer keeps every single read within its own timeout."""
    body = bytearray()
    while chunk := response.read1(16384):
        body += chunk
        if len(body) > MAX_RESPONSE:
            raise FetchError(f"{url} answered more than {MAX_RESPONSE >> 10} KiB")
        if time.monotonic() > deadline:
            raise FetchError(f"{url} took more than {DEADLINE:g} s")
    return bytes(body)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
