"""What tests of held requests share: a client that sends them, and the desk where people decide, by its real doors."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.dataplane.stack import Stack


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got; status 0 where the connection broke."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def reason(self) -> str:
        return str(self.told["reason"])


@dataclass(slots=True)
class Job:
    """A CI job that sends requests to a gate; each on a connection of its own."""

    url: str
    token: str

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = {"dd-api-key": self.token, "content-type": "application/json", **(headers or {})}
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
                session.request(method, self.url + path, data=body, headers=sent) as answer,
            ):
                return Answer(answer.status, answer.headers, await answer.read())
        except (aiohttp.ClientError, TimeoutError):
            return Answer(0)


class Desk:
    """The approvers' API: over the hub's own socket (the operator of the machine), or over TCP with a token."""

    def __init__(self, stack: Stack) -> None:
        self._socket = Path(stack.folder) / "var" / "run" / "approvals.sock"
        self._console = f"http://127.0.0.1:{stack.console_port}"

    async def call(
        self, method: str, path: str, *, token: str | None = None, headers: Mapping[str, str] | None = None, **body: str
    ) -> tuple[int, Any]:
        """(status, JSON). With `token` over TCP, as anybody who can reach the console."""
        local = token is None
        connector = aiohttp.UnixConnector(str(self._socket)) if local else aiohttp.TCPConnector()
        sent = dict(headers or {}) | ({} if local else {"authorization": f"Bearer {token}"})
        base = "http://localhost" if local else self._console
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, base + path, json=body or None, headers=sent) as answer,
        ):
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    async def waiting(self, path: str = "", *, count: int = 1) -> list[dict[str, Any]]:
        """The open requests for `path`, oldest first, once there are `count`."""
        deadline = time.monotonic() + 20
        found: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            try:
                status, answer = await self.call("GET", "/api/approvals?state=requested")
            except aiohttp.ClientError:  # the hub is starting again
                status = 0
            if status == 200:
                found = [one for one in answer["approvals"] if not path or one["path"] == path]
                if len(found) >= count:
                    return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"{len(found)} requests wait for {path}, {count} expected: {found}")

    async def approve(self, approval_id: str, **how: Any) -> tuple[int, Any]:
        return await self.call("POST", f"/api/approvals/{approval_id}/approve", **({"comment": "go"} | how))

    async def deny(self, approval_id: str, **how: Any) -> tuple[int, Any]:
        return await self.call("POST", f"/api/approvals/{approval_id}/deny", **({"comment": "no"} | how))
