"""Asking a server of someone else's: one bounded HTTPS request, without redirects and without proxy variables.

An issuer's keys and every source of credentials are asked this way. `send` blocks; `request` runs it in a thread. What
was sent and what came back is in no message here: both may hold secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import urllib3

from ext_proc.config.addresses import is_loopback

MAX_RESPONSE = 512 * 1024
"""Bytes of an answer's body."""

MOST_UNANSWERED = 64
"""Requests that one server may leave open. Who waited has long left, but a thread stays for each as long as the peer
sends a byte of its head now and then."""

_CONNECT = 3.0
_open: Counter[str] = Counter()  # by server
_opening = threading.Lock()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = field(repr=False)


class WebError(Exception):
    """No answer, or none that may be taken. The message is for the operator and holds no secret."""


class WebTimeout(WebError):  # noqa: N818 (a kind of WebError)
    """The answer did not come, or did not end, in time."""


class WebTooLarge(WebError):  # noqa: N818 (a kind of WebError)
    """The answer is larger than MAX_RESPONSE."""


def is_allowed_url(url: str) -> bool:
    """https, or plain http on loopback, without credentials in it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.password is not None:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def send(
    method: str,
    url: str,
    *,
    deadline: float,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    ca_file: str | None = None,
) -> Answer:
    """The answer, whatever its status: a redirect is one, too, and is not followed. `deadline` is in the time of
    `time.monotonic`. WebError where there is no answer within the bounds."""
    if not is_allowed_url(url):
        raise WebError(f"{url[:200]!r} is neither https nor http on loopback")
    if time.monotonic() >= deadline:
        raise WebTimeout(f"there was no time left to ask {url}")
    try:
        context = _context(ca_file, Path(ca_file).stat().st_mtime_ns if ca_file is not None else 0)
    except (OSError, ssl.SSLError) as error:
        raise WebError(f"the CA bundle {ca_file} cannot be used: {error}") from None
    fields = {"accept": "application/json", "user-agent": "douane", **(headers or {})}
    try:
        with urllib3.PoolManager(ssl_context=context, retries=False) as pool:
            response = pool.request(
                method,
                url,
                headers=fields,
                body=body,
                timeout=_timeout(deadline),
                redirect=False,
                preload_content=False,
            )
            try:
                return Answer(response.status, _read(response, url, deadline))
            finally:
                response.close()
    except urllib3.exceptions.NewConnectionError as error:  # to urllib3 a kind of time-out, refused as it may be
        raise WebError(f"{url}: {_why(error)}") from None
    except (urllib3.exceptions.TimeoutError, TimeoutError):
        raise WebTimeout(f"{url} did not answer in time") from None
    except urllib3.exceptions.HTTPError as error:
        raise WebError(f"{url}: {_why(error)}") from None


async def request(
    method: str,
    url: str,
    *,
    timeout: float,  # noqa: ASYNC109 (also bounds the thread, which cannot be cancelled)
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    ca_file: str | None = None,
) -> Answer:
    """`send` without blocking, within `timeout` seconds. WebError as there."""
    deadline = time.monotonic() + timeout
    server = urlsplit(url).netloc
    with _opening:
        if _open[server] >= MOST_UNANSWERED:
            raise WebError(f"{server} has left {MOST_UNANSWERED} requests open")
        _open[server] += 1
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Answer] = loop.create_future()

    def settle(answer: Answer | None, error: Exception | None) -> None:
        if answered.done():
            return
        if answer is not None:
            answered.set_result(answer)
        else:
            answered.set_exception(error or WebError("no answer"))

    def ask() -> None:
        answer, error = None, None
        try:
            answer = send(method, url, deadline=deadline, headers=headers, body=body, ca_file=ca_file)
        except Exception as raised:
            error = raised
        finally:
            with _opening:
                _open[server] -= 1
                if not _open[server]:
                    del _open[server]
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, answer, error)

    # A daemon, so that a name service that hangs does not hold up the end of the process.
    threading.Thread(target=ask, name="web", daemon=True).start()
    try:
        async with asyncio.timeout(timeout):
            return await answered
    except TimeoutError:  # a name that does not resolve has no bound of its own
        raise WebTimeout(f"{url} did not answer within {timeout:g} s") from None


@lru_cache(maxsize=32)
def _context(ca_file: str | None, _changed: int) -> ssl.SSLContext:
    """Kept, since to read a bundle of public roots takes 20 ms."""
    return ssl.create_default_context(cafile=ca_file)


def _timeout(deadline: float) -> urllib3.Timeout:
    left = max(deadline - time.monotonic(), 0.001)
    return urllib3.Timeout(connect=min(_CONNECT, left), read=left)


def _read(response: urllib3.BaseHTTPResponse, url: str, deadline: float) -> bytes:
    """The body within its bounds. Piecewise, as a trickling peer keeps every single read within its own timeout."""
    body = bytearray()
    while chunk := response.read1(16384):
        body += chunk
        if len(body) > MAX_RESPONSE:
            raise WebTooLarge(f"{url} answered more than {MAX_RESPONSE >> 10} KiB")
        if time.monotonic() > deadline:
            raise WebTimeout(f"{url} did not end its answer in time")
    return bytes(body)


def _why(error: urllib3.exceptions.HTTPError) -> str:
    """urllib3 names the connection's object in some messages; what people need is behind it."""
    if isinstance(error, urllib3.exceptions.ProtocolError | urllib3.exceptions.DecodeError):
        # these quote what was answered, and a peer may answer with what it was sent
        return "its answer is broken off, or is no HTTP"
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message})"
    if isinstance(cause, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return str(error).rpartition(": ")[2] or type(error).__name__
