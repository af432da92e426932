"""An OIDC issuer on loopback (PyPI: oidc-provider-mock), and the code flow that gets an ID token from it.

On GitHub a job asks its runner for the token instead; what comes back is the same: a JWT that the issuer signed.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import urllib3


def command(port: int, subject: str, claims: Mapping[str, object], lifetime_s: int = 3600) -> list[str]:
    """What to run: an issuer on 127.0.0.1:`port` that knows one subject, whose ID tokens carry these claims."""
    return [
        str(Path(sys.executable).with_name("oidc-provider-mock")),
        f"--port={port}",
        f"--token-max-age={lifetime_s}",
        "--user-claims",
        json.dumps({"sub": subject, **claims}),
    ]


def id_token(issuer: str, subject: str, audience: str) -> str:
    """An ID token for `subject`, by the authorization code flow (OpenID Connect Core, 3.1)."""
    http = urllib3.PoolManager(timeout=10)
    provider = http.request("GET", f"{issuer}/.well-known/openid-configuration").json()
    client = {"client_id": audience, "redirect_uri": "http://127.0.0.1/callback"}
    ask = urlencode({**client, "response_type": "code", "scope": "openid", "state": secrets.token_hex(8)})
    consent = http.urlopen(
        "POST",
        f"{provider['authorization_endpoint']}?{ask}",
        redirect=False,
        body=urlencode({"sub": subject}),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    code = parse_qs(urlsplit(consent.headers["location"]).query)["code"][0]
    form = {**client, "grant_type": "authorization_code", "code": code, "client_secret": "none-is-needed"}
    answer = http.request_encode_body("POST", provider["token_endpoint"], form, encode_multipart=False)
    return str(answer.json()["id_token"])
