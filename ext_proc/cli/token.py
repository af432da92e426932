"""Where a job's OIDC token comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from ext_proc.errors import IdentityError

if TYPE_CHECKING:
    from ext_proc.config import Config

_VARIABLES = ("DOUANE_ID_TOKEN", "CI_JOB_JWT_V2", "CI_JOB_JWT")
_GITHUB_URL, _GITHUB_TOKEN = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
_GITHUB = "token.actions.githubusercontent.com"


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and the environment variable it stood in, if in any."""

    value: str = field(repr=False)
    variable: str | None = None


def find_token(
    config: Config,
    environment: Mapping[str, str],
    *,
    file: Path | None = None,
    variable: str | None = None,
    audience: str | None = None,
) -> Token:
    """The first that is there: `file`, `variable`, $DOUANE_TOKEN, GitHub Actions' own endpoint, GitLab's variables.
    IdentityError identity.no_token otherwise."""
    if file is not None:
        try:
            return Token(file.read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise IdentityError(
                "identity.no_token", f"{file} cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from None
    if variable is not None:
        if not environment.get(variable):
            raise IdentityError("identity.no_token", f"${variable} is not set")
        return Token(environment[variable].strip(), variable)
    if environment.get("DOUANE_TOKEN"):
        return Token(environment["DOUANE_TOKEN"].strip(), "DOUANE_TOKEN")
    if environment.get(_GITHUB_URL) and environment.get(_GITHUB_TOKEN):
        asked = audience or _github_audience(config)
        return Token(from_github(environment[_GITHUB_URL], environment[_GITHUB_TOKEN], asked))
    for name in _VARIABLES:
        if environment.get(name):
            return Token(environment[name].strip(), name)
    raise IdentityError(
        "identity.no_token",
        "there is no OIDC token in this job",
        remedy="GitHub: give the job `permissions: id-token: write`. GitLab: declare DOUANE_ID_TOKEN under "
        "`id_tokens:`. Elsewhere: --token-file or DOUANE_TOKEN.",
    )


def from_github(url: str, bearer: str, audience: str | None) -> str:
    """Ask GitHub's runner for a token (docs.github.com, "OpenID Connect reference", methods for requesting)."""
    import urllib3

    from ext_proc.config.addresses import is_loopback

    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise IdentityError("identity.no_token", f"{_GITHUB_URL} is not https")
    full = url + (f"{'&' if parts.query else '?'}audience={quote(audience, safe='')}" if audience else "")
    try:
        answer = urllib3.request(
            "GET", full, headers={"authorization": f"bearer {bearer}"}, timeout=10, retries=2, redirect=False
        )
        value = json.loads(answer.data).get("value") if answer.status == 200 else None
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise IdentityError("identity.no_token", f"GitHub's token endpoint failed: {type(error).__name__}") from None
    if not isinstance(value, str) or not value:
        raise IdentityError(
            "identity.no_token",
            f"GitHub's token endpoint answered {answer.status} without a token",
            remedy="Give the job `permissions: id-token: write`.",
        )
    return value


def _github_audience(config: Config) -> str | None:
    for issuer in config.issuers.values():
        if urlsplit(issuer.issuer).hostname == _GITHUB:
            return issuer.audience if isinstance(issuer.audience, str) else issuer.audience[0]
    return None
