"""A server that a source asks, on loopback: its answers are functions, and any of them can be made to fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass
class Asked:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


Reply = tuple[int, Any]
"""Status, and a document (or bytes as they are)."""


class Peer:
    """`with Peer(answer) as peer:` serves `peer.url`. `fault` answers in the place of everything else."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.asked: list[Asked] = []
        self.fault: str | None = None
        self.delay = 0.0
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self) -> None:
                body = self.sent = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, body)
                peer.asked.append(asked)
                time.sleep(peer.delay)
                try:
                    FAULTS[peer.fault](self) if peer.fault else self.reply(*answer(asked))
                except OSError:
                    self.close_connection = True

            do_GET = do_POST = do_PUT = do_DELETE = serve  # noqa: N815 (http.server's names)

            def reply(self, status: int, document: Any, **headers: str) -> None:
                body = document if isinstance(document, bytes) else json.dumps(document).encode()
                body = b"" if document is None else body
                self.send_response(status)
                self.send_header("content-type", "application/json")
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _trickle(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    for _ in range(50):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def _hang_up(handler: Any) -> None:
    handler.connection.close()
    raise OSError


def _echo(handler: Any) -> None:
    """What it was sent, where an answer would begin: clients quote such lines in what they report."""
    handler.wfile.write(b" ".join(value.encode() for value in handler.headers.values()) + handler.sent + b"\r\n\r\n")
    handler.close_connection = True


FAULTS: dict[str | None, Callable[[Any], None]] = {
    "503": lambda h: h.reply(503, {"error": "s3cret down"}),
    "429": lambda h: h.reply(429, {"error": "s3cret slow down"}),
    "401": lambda h: h.reply(401, {"error": "invalid_client", "error_description": "s3cret is wrong"}),
    "redirect": lambda h: h.reply(302, None, location="http://127.0.0.1:1/elsewhere"),
    "garbage": lambda h: h.reply(200, b"<html>s3cret"),
    "array": lambda h: h.reply(200, ["s3cret"]),
    "twice": lambda h: h.reply(200, b'{"a": 1, "a": 2}'),
    "nothing": lambda h: h.reply(200, {}),
    "huge": lambda h: h.reply(200, b" " * (600 << 10)),
    "silent": lambda h: time.sleep(1.0),
    "trickle": _trickle,
    "hangs up": _hang_up,
    "echoes": _echo,
}
