"""Access tokens of OAuth 2.0: client credentials (RFC 6749, 4.4) and token exchange (RFC 8693)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote
from uuid import uuid4

import jwt

from ext_proc.config.sources import OAuth2, TokenExchange
from ext_proc.credentials.asking import Asker, seconds_field, text_field
from ext_proc.credentials.leases import GRACE_S, PAUSE_S, Lease, Leased, again
from ext_proc.credentials.source import Source, invalid
from ext_proc.errors import CredentialError

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_S = 60
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ISSUED_TOKENS = frozenset({"bearer", "n_a", "dpop"})

CALLERS = 1024
"""Callers' tokens whose exchanged ones are kept."""
_AT_ONCE = 16
"""Exchanges that a token endpoint is asked for at a time."""


class Client:
    """How a client proves itself at a token endpoint. `secret` and `key` are opened sources."""

    def __init__(self, settings: OAuth2 | TokenExchange, place: str, secret: Source | None, key: Source | None) -> None:
        self._settings = settings
        self._place = place
        self._secret = secret
        self._key = key

    async def proof(self) -> tuple[dict[str, str], dict[str, str]]:
        """(headers, form fields) to add to a request."""
        settings = self._settings
        if settings.client_id is None:
            return {}, {}
        if settings.auth == "private_key_jwt":
            assert self._key is not None
            assertion = self._assertion(settings.client_id, await self._key.read())
            return {}, {
                "client_id": settings.client_id,
                "client_assertion_type": _ASSERTION,
                "client_assertion": assertion,
            }
        if settings.auth == "none":
            return {}, {"client_id": settings.client_id}
        assert self._secret is not None
        try:
            secret = (await self._secret.read()).decode()
        except UnicodeDecodeError:
            raise invalid(self._secret.place, "is not UTF-8") from None
        if settings.auth == "post":
            return {}, {"client_id": settings.client_id, "client_secret": secret}
        pair = f"{quote(settings.client_id, safe='')}:{quote(secret, safe='')}"  # form-encoded first: RFC 6749, 2.3.1
        return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}, {}

    def known(self) -> tuple[bytes, ...]:
        sources = [source for source in (self._secret, self._key) if source is not None]
        return tuple(value for source in sources for value in source.known())

    async def warm(self) -> None:
        for source in (self._secret, self._key):
            if source is not None:
                await source.warm()

    def _assertion(self, client_id: str, key: bytes) -> str:
        now = int(time.time())
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": self._settings.assertion_audience or self._settings.token_url,
            "iat": now,
            "exp": now + _ASSERTION_S,
            "jti": str(uuid4()),
        }
        headers = {"kid": self._settings.key_id} if self._settings.key_id else None
        try:
            return jwt.encode(claims, key, algorithm=self._settings.algorithm, headers=headers)
        except (ValueError, TypeError, jwt.PyJWTError):
            raise invalid(self._place, f"has a private key that cannot sign with {self._settings.algorithm}") from None


class TokenEndpoint:
    """Asks for tokens and revokes them."""

    def __init__(self, settings: OAuth2 | TokenExchange, place: str, client: Client) -> None:
        self.place = place
        self.client = client
        self._settings = settings
        self._ask = Asker(place, settings.timeout.total_seconds(), settings.ca_file)

    async def token(self, grant: Mapping[str, str | None]) -> Lease:
        settings = self._settings
        headers, proof = await self.client.proof()
        asked = {
            "scope": settings.scope,
            "audience": settings.audience,
            "resource": settings.resource,
            **grant,
            **proof,
        }
        form = {name: value for name, value in asked.items() if value is not None}
        answer = await self._ask.json("POST", settings.token_url, headers=headers, form=form)
        token = text_field(answer, "access_token")
        if token is None:
            raise invalid(self.place, "answers without an access_token")
        kind = answer.get("token_type", "bearer")
        if not isinstance(kind, str) or kind.lower() not in _ISSUED_TOKENS:
            raise invalid(self.place, "answers a token of a type that is not known here")
        lifetime = seconds_field(answer, "expires_in")
        others = tuple(
            value for name in ("refresh_token", "id_token") if (value := text_field(answer, name)) is not None
        )
        return Lease(
            token,
            settings.lifetime.total_seconds() if lifetime is None else lifetime,
            secrets=others,
            handle=token if settings.revoke_url is not None else None,
        )

    async def revoke(self, lease: Lease) -> None:
        """RFC 7009. Nothing to do without a revocation endpoint."""
        if self._settings.revoke_url is None:
            return
        headers, proof = await self.client.proof()
        form = {"token": lease.value.decode(), "token_type_hint": "access_token", **proof}
        answer = await self._ask.answer("POST", self._settings.revoke_url, headers=headers, form=form)
        if not 200 <= answer.status < 300:
            self._ask.read(answer)


class ClientCredentials:
    """Mints tokens for the client itself."""

    def __init__(self, settings: OAuth2, secret: Source | None, key: Source | None) -> None:
        self.place = f"oauth2 {settings.token_url}"
        self.timeout = settings.timeout.total_seconds()
        self._endpoint = TokenEndpoint(settings, self.place, Client(settings, self.place, secret, key))

    async def mint(self, held: Lease | None) -> Lease:  # noqa: ARG002
        return await self._endpoint.token({"grant_type": "client_credentials"})

    async def revoke(self, lease: Lease) -> None:
        await self._endpoint.revoke(lease)

    def known(self) -> tuple[bytes, ...]:
        return self._endpoint.client.known()


class _Exchange:
    """Mints tokens for one subject token."""

    def __init__(
        self,
        settings: TokenExchange,
        endpoint: TokenEndpoint,
        subject: Callable[[], Awaitable[bytes]],
        turns: asyncio.Semaphore,
    ) -> None:
        self.place = endpoint.place
        self.timeout = settings.timeout.total_seconds()
        self._settings = settings
        self._endpoint = endpoint
        self._subject = subject
        self._turns = turns

    async def mint(self, held: Lease | None) -> Lease:  # noqa: ARG002
        subject = await self._subject()
        async with self._turns:
            return await self._endpoint.token(
                {
                    "grant_type": _EXCHANGE,
                    "subject_token": subject.strip().decode("ascii", "replace"),
                    "subject_token_type": self._settings.subject_token_type,
                    "requested_token_type": self._settings.requested_token_type,
                }
            )

    async def revoke(self, lease: Lease) -> None:
        await self._endpoint.revoke(lease)

    def known(self) -> tuple[bytes, ...]:
        return self._endpoint.client.known()


def workload_exchange(settings: TokenExchange, secret: Source | None, key: Source | None, workload: Source) -> Leased:
    """The source that exchanges the gate's own token."""
    place = f"token_exchange {settings.token_url}"
    endpoint = TokenEndpoint(settings, place, Client(settings, place, secret, key))
    return Leased(_Exchange(settings, endpoint, workload.read, asyncio.Semaphore()))


class CallerExchange:
    """The source that exchanges each caller's own token; what it got is kept for that token alone, by its digest.

    Where the endpoint is away, no other caller asks it for a second.
    """

    per_caller = True
    generation: tuple[str, object] | None = None

    def __init__(self, settings: TokenExchange, secret: Source | None, key: Source | None) -> None:
        self.place = f"token_exchange {settings.token_url}"
        self._settings = settings
        self._endpoint = TokenEndpoint(settings, self.place, Client(settings, self.place, secret, key))
        self._kept: OrderedDict[bytes, Leased] = OrderedDict()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._leaving: dict[asyncio.Task[None], Leased] = {}
        self._away: CredentialError | None = None
        self._away_until = float("-inf")

    async def read(self, token: bytes | None = None) -> bytes:
        if token is None:
            raise CredentialError(
                "credential.no_token",
                f"{self.place} exchanges the caller's own token, and the request was made with a session key",
                remedy="Send the OIDC token itself.",
                http_status=403,
            )
        digest = hashlib.sha256(token).digest()
        kept = self._kept.get(digest)
        if kept is None:
            kept = self._keep(digest, token)
        self._kept.move_to_end(digest)
        if self._away is not None and time.monotonic() < self._away_until and not kept.serves:
            raise again(self._away)
        try:
            return await kept.read()
        except CredentialError as fault:
            if fault.retryable:
                self._away, self._away_until = fault, time.monotonic() + PAUSE_S
            raise

    async def warm(self) -> None:
        await self._endpoint.client.warm()

    def known(self) -> tuple[bytes, ...]:
        return self._endpoint.client.known()

    async def close(self) -> None:
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*(kept.close() for kept in (*self._kept.values(), *self._leaving.values())))
        self._kept.clear()

    def _keep(self, digest: bytes, token: bytes) -> Leased:
        async def subject() -> bytes:
            return token

        kept = self._kept[digest] = Leased(_Exchange(self._settings, self._endpoint, subject, self._turns))
        if len(self._kept) > CALLERS:
            _, oldest = self._kept.popitem(last=False)
            task = asyncio.get_running_loop().create_task(_later(oldest))
            self._leaving[task] = oldest
            task.add_done_callback(self._leaving.pop)
        return kept


async def _later(leaving: Leased) -> None:
    """Others pushed it out, and can do so at will: requests that carry its value must not end with that."""
    await asyncio.sleep(GRACE_S)
    await leaving.close()
