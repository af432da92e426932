"""HashiCorp Vault and OpenBao: logging in, key/value secrets, and credentials with a lease.

A lease is a child of the token that it was asked for with, and dies with it. So it is used no longer than the token
lives; tokens and leases are renewed, and got anew where they cannot be any more. At the end leases are revoked before
the token.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ext_proc import web
from ext_proc.config.sources import Vault
from ext_proc.credentials.asking import Asker, seconds_field, text_field
from ext_proc.credentials.leases import Lease, Leased
from ext_proc.credentials.source import Source, invalid
from ext_proc.errors import CredentialError

_WORTH_RENEWING = 0.5
"""A renewal that gives less than this part of the time before is the last one: a new secret is better."""


@dataclass(frozen=True, slots=True)
class _Handle:
    """What a token (by its accessor) or a lease is known by at the server, and its first lifetime in seconds."""

    id: str
    renewable: bool
    first: float

    def again(self, held: Lease, lifetime: float) -> Lease | None:
        """The lease with the life that its renewal gave; None where that is not worth it."""
        if lifetime < self.first * _WORTH_RENEWING:
            return None
        return Lease(held.value, lifetime, held.secrets, self)


class _Server:
    """One Vault's HTTP API."""

    def __init__(self, settings: Vault, place: str) -> None:
        self._base = settings.url.rstrip("/") + "/v1/"
        self._fixed = {"x-vault-request": "true"}
        if settings.namespace is not None:
            self._fixed["x-vault-namespace"] = settings.namespace
        self._ask = Asker(place, settings.timeout.total_seconds(), settings.ca_file)

    async def answer(self, method: str, path: str, token: bytes | None = None, document: object = None) -> web.Answer:
        headers = dict(self._fixed)
        if token is not None:
            headers["x-vault-token"] = token.decode("ascii", "replace")
        return await self._ask.answer(method, self._base + quote(path), headers=headers, document=document)

    async def json(self, method: str, path: str, token: bytes | None = None, document: object = None) -> dict[str, Any]:
        return self._ask.read(await self.answer(method, path, token, document))

    def read(self, answer: web.Answer) -> dict[str, Any]:
        return self._ask.read(answer)


class Login:
    """Mints the token that everything else is asked with: by logging in, or by renewing.

    `given` is the source of a token that exists already: it is renewed where it can be, and never revoked, as it is
    not ours.
    """

    def __init__(self, settings: Vault, given: Source | None, parts: dict[str, Source]) -> None:
        self.place = f"vault {settings.url}"
        self.timeout = settings.timeout.total_seconds()
        self._auth = settings.auth
        self._given = given
        self._parts = parts
        self._server = _Server(settings, self.place)

    async def mint(self, held: Lease | None) -> Lease:
        if self._given is not None:
            return await self._take(self._given)
        renewed = await self._renew(held) if held is not None else None
        return renewed if renewed is not None else await self._login()

    async def revoke(self, lease: Lease) -> None:
        await self._server.json("POST", "auth/token/revoke-self", lease.value, {})

    def known(self) -> tuple[bytes, ...]:
        sources = (*self._parts.values(), *((self._given,) if self._given is not None else ()))
        return tuple(value for source in sources for value in source.known())

    async def _take(self, given: Source) -> Lease:
        token = await given.read()
        data = (await self._server.json("GET", "auth/token/lookup-self", token)).get("data")
        if not isinstance(data, dict):
            raise invalid(self.place, "answers a look-up without data")
        ttl = seconds_field(data, "ttl") or 0
        if data.get("renewable") is True:
            renewed = (await self._server.json("POST", "auth/token/renew-self", token, {})).get("auth")
            ttl = max(ttl, seconds_field(renewed, "lease_duration") or 0) if isinstance(renewed, dict) else ttl
        # a root token has no end; it is looked at again all the same, as it may be replaced in its file
        return Lease(token, ttl or 3600.0)

    async def _renew(self, held: Lease) -> Lease | None:
        if not isinstance(held.handle, _Handle) or not held.handle.renewable:
            return None
        try:
            auth = (await self._server.json("POST", "auth/token/renew-self", held.value, {})).get("auth")
        except CredentialError as fault:
            if fault.retryable:
                raise
            return None  # it is over
        lifetime = seconds_field(auth, "lease_duration") if isinstance(auth, dict) else None
        return held.handle.again(held, lifetime or 0)

    async def _login(self) -> Lease:
        if self._auth.approle is not None:
            path = f"auth/{self._auth.approle.mount}/login"
            document = {name: await self._text(source) for name, source in self._parts.items()}
        else:
            assert self._auth.jwt is not None
            path = f"auth/{self._auth.jwt.mount}/login"
            document = {"role": self._auth.jwt.role, "jwt": (await self._text(self._parts["jwt"])).strip()}
        auth = (await self._server.json("POST", path, document=document)).get("auth")
        token = text_field(auth, "client_token") if isinstance(auth, dict) else None
        if not isinstance(auth, dict) or token is None:
            raise invalid(self.place, "answers a login without a token")
        accessor = text_field(auth, "accessor")
        lifetime = seconds_field(auth, "lease_duration") or math.inf
        return Lease(
            token,
            lifetime,
            secrets=() if accessor is None else (accessor,),
            handle=_Handle((accessor or token).decode(), auth.get("renewable") is True, lifetime),
        )

    async def _text(self, source: Source) -> str:
        try:
            return (await source.read()).decode()
        except UnicodeDecodeError:
            raise invalid(source.place, "is not UTF-8") from None


class Secret:
    """Mints the value of one secret: reads it, renews its lease where it has one, and revokes that at the end."""

    def __init__(self, settings: Vault, login: Leased) -> None:
        self.place = f"vault {settings.url} {settings.mount}/{settings.path}"
        self.timeout = settings.timeout.total_seconds()
        self._settings = settings
        self._login = login
        self._server = _Server(settings, self.place)
        below = "data/" if settings.engine == "kv2" else ""
        self._path = f"{settings.mount.strip('/')}/{below}{settings.path.strip('/')}"

    async def mint(self, held: Lease | None) -> Lease:
        if held is not None and isinstance(held.handle, _Handle) and held.handle.renewable:
            renewed = await self._renew(held, held.handle)
            if renewed is not None:
                return renewed
        token, token_left = await self._token()
        answer = await self._server.answer("GET", self._path, token)
        if answer.status == 403:  # the token may have been revoked or replaced, or Vault set up anew
            self._login.forget()
            token, token_left = await self._token()
            answer = await self._server.answer("GET", self._path, token)
        document = self._server.read(answer)
        data = document.get("data")
        if self._settings.engine == "kv2":
            data = data.get("data") if isinstance(data, dict) else None
        if not isinstance(data, dict):
            raise invalid(self.place, "answers a secret without data")
        lease_id = text_field(document, "lease_id")
        lifetime = self._settings.lifetime.total_seconds()
        handle = None
        if self._settings.engine == "dynamic":
            lifetime = min(seconds_field(document, "lease_duration") or lifetime, token_left)
            if lease_id is not None:
                handle = _Handle(lease_id.decode(), document.get("renewable") is True, lifetime)
        texts = [value.encode() for value in data.values() if isinstance(value, str)]
        return Lease(self._value(data), lifetime, tuple(texts) + ((lease_id,) if lease_id else ()), handle)

    async def revoke(self, lease: Lease) -> None:
        assert isinstance(lease.handle, _Handle)
        token, _ = await self._token()
        await self._server.json("POST", "sys/leases/revoke", token, {"lease_id": lease.handle.id})

    def known(self) -> tuple[bytes, ...]:
        return self._login.known()

    async def _token(self) -> tuple[bytes, float]:
        """The token, and how many seconds it still serves."""
        lease, until = await self._login.lease()
        return lease.value, until - time.monotonic()

    async def _renew(self, held: Lease, handle: _Handle) -> Lease | None:
        token, token_left = await self._token()
        try:
            renewed = await self._server.json(
                "POST", "sys/leases/renew", token, {"lease_id": handle.id, "increment": math.ceil(handle.first)}
            )
        except CredentialError as fault:
            if fault.retryable:
                raise
            return None
        return handle.again(held, min(seconds_field(renewed, "lease_duration") or 0, token_left))

    def _value(self, data: dict[str, Any]) -> bytes:
        name = self._settings.field
        if name is None:
            return json.dumps(data).encode()
        value = data.get(name)
        if not isinstance(value, str):
            raise invalid(self.place, f"has no text in the field {name}")
        return value.encode()
