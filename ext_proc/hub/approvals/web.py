"""What keeps a browser from deciding for the person who uses it."""

from __future__ import annotations

import ipaddress
import sqlite3
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ext_proc.config.addresses import is_loopback, split_listen
from ext_proc.errors import ApprovalError, DouaneError

SAFE = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Headers of every answer."""

PAGE = {
    **SAFE,
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
}
"""Headers of a page: it may style itself, and nothing else."""


Handler = Callable[[Request], Awaitable[Response]]


def guarded(handler: Handler, origins: Origins) -> Handler:
    """The handler behind `origins`; what is raised is answered as JSON: `{"reason", "message", "remedy"}`."""

    async def answer(request: Request) -> Response:
        try:
            origins.check_name(request)
            origins.check_page(request)
            return await handler(request)
        except DouaneError as error:
            return _refusal(error)
        except sqlite3.Error:
            return _refusal(
                ApprovalError("hub.disk", "the hub's disk cannot be used now", http_status=503, retryable=True)
            )

    return answer


def _refusal(error: DouaneError) -> Response:
    body = {"reason": error.reason, "message": error.message, "remedy": error.remedy}
    headers = dict(SAFE)
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body, status_code=error.http_status, headers=headers)


class Origins:
    """By which names this console may be called, and from which pages. `url` is its configured address, if any.

    A foreign name that leads to this machine (DNS rebinding) is refused, and so is every request that a page of
    another origin makes.
    """

    def __init__(self, listen: str | None, url: str | None) -> None:
        """`listen` is None on a socket that browsers cannot reach."""
        own = urlsplit(url) if url else None
        self._origins = {f"{own.scheme}://{own.netloc}".lower()} if own else set()
        self._names = {own.hostname} if own and own.hostname else set()
        self._anything = listen is None
        self._loopback_only = True
        if listen is not None:
            host, _ = split_listen(listen)
            self._loopback_only = is_loopback(host)
            self._origins |= {f"http://{listen}".lower()}

    def check_name(self, request: Request) -> None:
        """ApprovalError `approval.host`: a foreign name leads here."""
        if not self._anything and not self._known(request.headers.get("host", "")):
            raise ApprovalError(
                "approval.host",
                "this hub is not called by that name",
                remedy="Use the address in console.listen, or set console.url.",
                http_status=421,
            )

    def check_page(self, request: Request) -> None:
        """ApprovalError `approval.cross_site`: a page of another origin asks."""
        origin = request.headers.get("origin")
        if (origin is not None and origin.lower() not in self._origins) or request.headers.get(
            "sec-fetch-site", "none"
        ) not in ("none", "same-origin"):
            raise ApprovalError("approval.cross_site", "another site's page may not ask this hub", http_status=403)

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names or is_loopback(name):
            return True
        if self._loopback_only:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return not self._names  # behind a name of which nothing is configured
        return True
