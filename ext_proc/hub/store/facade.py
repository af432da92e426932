"""ClickHouse's HTTP interface: `/ping` and `/`, as clickhouse-connect, curl and pandas use them."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ext_proc.hub.store import request as requests
from ext_proc.hub.store.access import Passwords, User
from ext_proc.hub.store.codings import Body, Encoder, encoder, refuse_native_compression
from ext_proc.hub.store.engine import Engine
from ext_proc.hub.store.execution import Answer, Executor, Pieces
from ext_proc.hub.store.faults import QueryError
from ext_proc.hub.store.formats import content_type

log = logging.getLogger(__name__)

_BODY_LIMIT: dict[User, int] = {"writer": 256 << 20, "auditor": 1 << 20}


@dataclass(slots=True)
class Throttle:
    """Slows answers to failed logins: 0.1 s, doubled each time to 3 s, forgotten after a minute. A right password is
    never made to wait, so nobody can be locked out."""

    failures: int = 0
    last: float = 0.0

    def failed(self) -> float:
        now = time.monotonic()
        self.failures = 1 if now - self.last > 60 else min(self.failures + 1, 6)
        self.last = now
        return min(0.1 * 2.0 ** (self.failures - 1), 3.0)


class Facade:
    """The ASGI application. Each user has threads of their own, so that reading cannot hold up the writer."""

    def __init__(self, engine: Engine, executor: Executor, passwords: Passwords, warning: str = "") -> None:
        self._engine = engine
        self._executor = executor
        self._passwords = passwords
        self._warning = warning
        self._throttle = Throttle()
        self._threads: dict[User, ThreadPoolExecutor] = {
            "writer": ThreadPoolExecutor(4, thread_name_prefix="writer"),
            "auditor": ThreadPoolExecutor(4, thread_name_prefix="auditor"),
        }
        self._control = ThreadPoolExecutor(1, thread_name_prefix="control")
        self.app = Starlette(
            routes=[
                Route("/ping", self._ping, methods=["GET"]),
                Route("/", self._root, methods=["GET", "POST"]),
            ],
        )

    def close(self) -> None:
        """Wait for what runs."""
        for pool in (*self._threads.values(), self._control):
            pool.shutdown(wait=True)

    async def _ping(self, _: HttpRequest) -> Response:
        headers = {"X-Douane-Warning": self._warning} if self._warning else {}
        return PlainTextResponse("Ok.\n", headers=headers)

    async def _root(self, http: HttpRequest) -> Response:
        query_id = http.query_params.get("query_id", "")
        if not requests.QUERY_ID.fullmatch(query_id):
            query_id = ""  # it goes into a header and the log
        try:
            user = await self._user(http)
            if user is None:
                return PlainTextResponse("Ok.\n")
            return await self._query(http, user)
        except QueryError as fault:
            log.info("store query refused: code=%d name=%s query_id=%s", fault.code, fault.name, query_id)
            headers = {"X-ClickHouse-Exception-Code": str(fault.code)}
            status = fault.http_status
            if status in {401, 403} and fault.code == 516 and "authorization" not in http.headers:
                status = 401
                headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
            return PlainTextResponse(
                fault.text(self._engine.version), status, headers={**self._headers(query_id), **headers}
            )
        except ClientDisconnect:
            return Response(status_code=499)

    async def _user(self, http: HttpRequest) -> User | None:
        """Who asks; None for a bare `GET /`, a server's sign of life."""
        login = requests.login(http.headers, http.query_params)
        if login is None:
            if http.method == "GET" and not http.url.query:
                return None
            message = "default: Authentication failed: no user is given; use writer or auditor, with the password "
            raise QueryError(516, "AUTHENTICATION_FAILED", message + "from the store's folder")
        user = self._passwords.check(login.user, login.password)
        if user is None:
            await asyncio.sleep(self._throttle.failed())
            shown = login.user if login.user.isidentifier() and len(login.user) < 64 else "this user"
            message = f"{shown}: Authentication failed: password is incorrect, or there is no user with such name"
            raise QueryError(516, "AUTHENTICATION_FAILED", message)
        return user

    async def _query(self, http: HttpRequest, user: User) -> Response:
        refuse_native_compression(dict(http.query_params))
        body = Body(http.headers.get("content-encoding", ""), _BODY_LIMIT[user])
        async for chunk in http.stream():
            body.feed(chunk)
        request = requests.read(http.query_params.multi_items(), http.headers, body.bytes())
        answer = await self._run(http, user, request)
        headers = self._headers(request.query_id)
        if answer.format:
            headers["X-ClickHouse-Format"] = answer.format
        headers["X-ClickHouse-Summary"] = json.dumps({k: str(v) for k, v in {**_NO_SUMMARY, **answer.summary}.items()})
        coding = encoder(http.headers.get("accept-encoding", "")) if request.compressed else None
        if coding is not None:
            headers["Content-Encoding"] = coding[0]
        compressor = coding[1] if coding else None
        media_type = content_type(answer.format) if answer.format else None
        if answer.rest is None:
            content = answer.head
            if compressor is not None:
                content = compressor.compress(content) + compressor.flush()
            return Response(content, headers=headers, media_type=media_type)
        tag = secrets.token_hex(8)
        headers["X-ClickHouse-Exception-Tag"] = tag
        return StreamingResponse(
            self._stream(answer, answer.rest, user, compressor, tag), headers=headers, media_type=media_type
        )

    async def _stream(
        self, answer: Answer, rest: Pieces, user: User, compressor: Encoder | None, tag: str
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        threads = self._threads[user]
        try:
            piece: bytes | None = answer.head
            while piece is not None:
                out = compressor.compress(piece) if compressor else piece
                if out:
                    yield out
                try:
                    piece = await loop.run_in_executor(threads, rest.next)
                except QueryError as fault:
                    # The status has been sent; this is how ClickHouse (25.11 on) tells a client that knows the tag.
                    text = fault.text(self._engine.version)
                    end = (
                        f"\r\n__exception__\r\n{tag}\r\n{text}{len(text.encode())} {tag}\r\n__exception__\r\n".encode()
                    )
                    yield (compressor.compress(end) if compressor else end)
                    piece = None
            if compressor:
                yield compressor.flush()
        finally:
            # A client that left: the query is cancelled with its connection.
            await asyncio.shield(loop.run_in_executor(self._control, rest.close))

    async def _run(self, http: HttpRequest, user: User, request: requests.Request) -> Answer:
        """Run it in a thread; if the client leaves meanwhile, cancel what it reads."""
        loop = asyncio.get_running_loop()
        run_id = str(uuid.uuid4())
        running = loop.run_in_executor(
            self._threads[user],
            functools.partial(self._executor.run, user, request, run_id=run_id, get=http.method == "GET"),
        )
        gone = asyncio.create_task(_gone(http))
        try:
            await asyncio.wait([running, gone], return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
            if not running.done():
                await loop.run_in_executor(self._control, self._engine.cancel_read, run_id)
            return await running
        except asyncio.CancelledError:
            # The deadline of a stop: what only reads is given up, what writes is waited for in `close`.
            self._engine.cancel_read(run_id)
            raise
        finally:
            gone.cancel()

    def _headers(self, query_id: str) -> dict[str, str]:
        return {
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Timezone": "UTC",
            "X-ClickHouse-Server-Display-Name": "douane",
        }


_NO_SUMMARY = {
    "read_rows": 0, "read_bytes": 0, "written_rows": 0, "written_bytes": 0, "total_rows_to_read": 0,
    "result_rows": 0, "result_bytes": 0, "elapsed_ns": 0,
}  # fmt: skip


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
