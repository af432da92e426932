"""Application keys of a Datadog service account, made for a while and deleted (Datadog's API, v2).

Datadog's keys do not expire. A key's name therefore says when its time is over, `PREFIX-GATE-END-RANDOM`, so that any
process of the gate can delete what one left behind that crashed, and never one that is still in use.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time

from ext_proc.config.sources import Datadog
from ext_proc.credentials.asking import Asker, text_field
from ext_proc.credentials.leases import GRACE_S, Lease
from ext_proc.credentials.source import Source, invalid, read_together
from ext_proc.errors import CredentialError

log = logging.getLogger("douane.credentials")

_KEYS = "/api/v2/service_accounts/{}/application_keys"
_PAGE = 100
_PAGES = 10
_SPARE_S = 2 * GRACE_S
"""How long after its end a leftover is left alone: a living process deletes its own by then."""


class ApplicationKeys:
    """Mints keys that can do what `scopes` say, deletes them, and each time also expired ones of this gate."""

    def __init__(self, settings: Datadog, gate: str, api_key: Source, app_key: Source) -> None:
        self.place = f"datadog service account {settings.service_account}"
        self.timeout = settings.timeout.total_seconds()
        self._settings = settings
        self._lifetime = settings.lifetime.total_seconds()
        self._url = (settings.api_url or f"https://api.{settings.site}").rstrip("/") + _KEYS.format(
            settings.service_account
        )
        self._keys = (api_key, app_key)
        self._ask = Asker(self.place, self.timeout, settings.ca_file)
        self._name = f"{settings.prefix}-{gate}-"
        self._ours = re.compile(re.escape(self._name) + r"(\d{10,12})-[0-9a-f]{16}")
        self._sweeping: asyncio.Task[None] | None = None

    async def mint(self, held: Lease | None) -> Lease:  # noqa: ARG002
        end = int(time.time() + self._lifetime)
        attributes = {
            "name": f"{self._name}{end}-{secrets.token_hex(8)}",
            "scopes": list(self._settings.scopes),
        }
        headers = await self._headers()
        answer = await self._ask.json(
            "POST",
            self._url,
            headers=headers,
            document={"data": {"type": "application_keys", "attributes": attributes}},
        )
        key, key_id = text_field(answer, "data", "attributes", "key"), text_field(answer, "data", "id")
        if key is None or key_id is None:
            raise invalid(self.place, "answers without a key")
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep(headers))
        return Lease(key, self._lifetime, handle=key_id.decode())

    async def revoke(self, lease: Lease) -> None:
        await self._delete(str(lease.handle), await self._headers())

    def known(self) -> tuple[bytes, ...]:
        return tuple(value for source in self._keys for value in source.known())

    async def _headers(self) -> dict[str, str]:
        api_key, app_key = await read_together(self._keys)
        try:
            return {"dd-api-key": api_key.decode("ascii"), "dd-application-key": app_key.decode("ascii")}
        except UnicodeDecodeError:
            raise invalid(self.place, "is given keys that are not ASCII") from None

    async def _delete(self, key_id: str, headers: dict[str, str]) -> None:
        if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", key_id):
            raise invalid(self.place, "names a key that cannot be one")
        answer = await self._ask.answer("DELETE", f"{self._url}/{key_id}", headers=headers)
        if answer.status != 404:  # somebody was quicker
            self._ask.read(answer)

    async def _sweep(self, headers: dict[str, str]) -> None:
        """Delete what processes of this gate left behind."""
        try:
            for key_id in await self._leftovers(headers):
                await self._delete(key_id, headers)
                log.info("%s: a leftover key of this gate is deleted", self.place)
        except CredentialError as fault:
            log.warning("leftover keys cannot be deleted: %s", fault.message)
        finally:
            self._sweeping = None

    async def _leftovers(self, headers: dict[str, str]) -> list[str]:
        over = time.time() - _SPARE_S
        found: list[str] = []
        for page in range(_PAGES):
            query = f"?page%5Bsize%5D={_PAGE}&page%5Bnumber%5D={page}&filter={self._name}"
            keys = (await self._ask.json("GET", self._url + query, headers=headers)).get("data")
            if not isinstance(keys, list):
                raise invalid(self.place, "answers no list of keys")
            for key in keys:
                name = text_field(key, "attributes", "name") if isinstance(key, dict) else None
                key_id = text_field(key, "id") if isinstance(key, dict) else None
                match = self._ours.fullmatch(name.decode()) if name else None
                if match and key_id and int(match[1]) < over:
                    found.append(key_id.decode())
            if len(keys) < _PAGE:
                break
        return found
