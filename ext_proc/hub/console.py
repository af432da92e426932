"""The hub's HTTP face: `/readyz`, `/healthz`, and what is added to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ext_proc.errors import HubError

if TYPE_CHECKING:
    from ext_proc.config.models import Console as Settings

Condition = Callable[[], Awaitable[tuple[bool, str]]]
"""(whether it holds, what to tell)."""


def application(conditions: Mapping[str, Condition], more: Sequence[Route] = ()) -> Starlette:
    """`/readyz` answers 200 once every condition holds, and 503 before; its JSON says which do.

    `{"ready": bool, "conditions": {name: {"ok": bool, "message": str}}}`. `/healthz` says that the process lives.
    """

    async def ready(_request: Request) -> Response:
        found = {name: await condition() for name, condition in conditions.items()}
        everything = all(ok for ok, _ in found.values())
        body = {
            "ready": everything,
            "conditions": {name: {"ok": ok, "message": message} for name, (ok, message) in found.items()},
        }
        return JSONResponse(body, status_code=200 if everything else 503, headers={"cache-control": "no-store"})

    async def alive(_request: Request) -> Response:
        return JSONResponse({"alive": True})

    return Starlette(routes=[Route("/readyz", ready), Route("/healthz", alive), *more])


class Console(uvicorn.Server):
    """uvicorn inside the hub's loop: no signal handlers and no log of its own."""

    def __init__(self, app: Starlette, http: type[asyncio.Protocol] | Literal["auto"] = "auto") -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=http,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.should_exit = True


def address(settings: Settings) -> str:
    """The console's address as people reach it, without a slash at its end."""
    return (settings.url or f"http://{settings.listen}").rstrip("/")


def bind(listen: str) -> socket.socket:
    """A listening socket on HOST:PORT. HubError `console.listen` when the port is taken."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise HubError(
            "console.listen",
            f"the console cannot listen on {listen}: {error.strerror}",
            remedy="Stop what listens there, or change console.listen.",
        ) from error
