"""Installation tokens of a GitHub App (GitHub's REST API, version 2022-11-28)."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import jwt

from ext_proc.config.sources import GithubApp
from ext_proc.credentials.asking import Asker, text_field
from ext_proc.credentials.leases import Lease
from ext_proc.credentials.source import Source, invalid

_VERSION = "2022-11-28"
# GitHub takes an App's JWT for ten minutes at most, and asks to allow for clocks that differ by a minute.
_BACKDATED_S, _VALID_S = 60, 540


class InstallationTokens:
    """Mints installation tokens, narrowed as configured, and revokes them. They live an hour."""

    def __init__(self, settings: GithubApp, key: Source) -> None:
        self.place = f"github_app {settings.app_id}"
        self.timeout = settings.timeout.total_seconds()
        self._settings = settings
        self._key = key
        self._api = settings.api_url.rstrip("/")
        self._ask = Asker(self.place, self.timeout, settings.ca_file)
        self._installation = settings.installation_id

    async def mint(self, held: Lease | None) -> Lease:  # noqa: ARG002
        headers = _headers(self._jwt(await self._key.read()))
        looked_up = self._installation is None
        if self._installation is None:
            self._installation = await self._look_up(headers)
        asked = {
            "repositories": list(self._settings.repositories),
            "permissions": dict(self._settings.permissions),
        }
        began = time.time()
        url = f"{self._api}/app/installations/{self._installation}/access_tokens"
        answer = await self._ask.answer(
            "POST", url, headers=headers, document={name: value for name, value in asked.items() if value}
        )
        if answer.status == 404 and self._settings.installation_id is None and not looked_up:
            self._installation = None  # installed anew since: look it up the next time
        document = self._ask.read(answer)
        token = text_field(document, "token")
        if token is None:
            raise invalid(self.place, "answers without a token")
        return Lease(token, self._expiry(document.get("expires_at")) - began, handle=token)

    async def revoke(self, lease: Lease) -> None:
        await self._ask.json("DELETE", f"{self._api}/installation/token", headers=_headers(lease.value.decode()))

    def known(self) -> tuple[bytes, ...]:
        return self._key.known()

    async def _look_up(self, headers: dict[str, str]) -> int:
        settings = self._settings
        if settings.repository is not None:
            paths = [f"/repos/{settings.repository}/installation"]
        else:
            paths = [f"/orgs/{settings.owner}/installation", f"/users/{settings.owner}/installation"]
        for n, path in enumerate(paths, 1):
            answer = await self._ask.answer("GET", self._api + path, headers=headers)
            if answer.status == 404 and n < len(paths):
                continue
            found = self._ask.read(answer).get("id")
            if isinstance(found, int):
                return found
        raise invalid(self.place, "answers an installation without an id")

    def _jwt(self, key: bytes) -> str:
        now = int(time.time())
        claims = {"iss": str(self._settings.app_id), "iat": now - _BACKDATED_S, "exp": now + _VALID_S}
        try:
            return jwt.encode(claims, key, algorithm="RS256")
        except (ValueError, TypeError, jwt.PyJWTError):
            raise invalid(self._key.place, "is no RSA private key in PEM") from None

    def _expiry(self, text: object) -> float:
        try:
            moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        except ValueError:
            moment = None
        if moment is None:
            raise invalid(self.place, "answers without a time when the token expires")
        return moment.astimezone(UTC).timestamp()


def _headers(token: str) -> dict[str, str]:
    return {
        "authorization": f"Bearer {token}",
        "accept": "application/vnd.github+json",
        "x-github-api-version": _VERSION,
    }
