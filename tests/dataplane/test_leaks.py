"""No secret is anywhere where Douane writes, whatever way it takes; and what is planted there is found.

Traffic carries the caller's token, its placeholder, a session key and the real keys in every place and coding that a
request and an answer have. Processes are paused one after the other, so that the spool, the hub's journals, its outbox
and ClickHouse each hold all of it when they are searched.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import http.client
import json
import os
import secrets as random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import brotli
import clickhouse_connect
import pytest
import zstandard
from clickhouse_connect.driver.client import Client

from examples.demo.leaks import find, spellings
from ext_proc.hub.store import access
from ext_proc.pb import journal_pb2
from ext_proc.spool import frames
from tests.dataplane import leaks, upstreams, wire
from tests.dataplane.background import Background
from tests.dataplane.stack import Stack, douane_up, free_ports
from tests.issuer import LoopbackIssuer

pytestmark = [pytest.mark.dataplane, pytest.mark.clickhouse, pytest.mark.slow]


@dataclass(frozen=True, slots=True)
class Scene:
    """One `douane up` with connections to an echo (`datadog`), to a wilful upstream (`raw`), and to nobody (`dead`);
    `streamed` is the echo with bodies that are not awaited."""

    stack: Stack
    token: str
    api_key: str
    app_key: str
    placeholder: str
    given: tuple[Path, ...]

    def secrets(self) -> dict[str, str]:
        known = {"real API key": self.api_key, "real application key": self.app_key, "placeholder": self.placeholder}
        return known | leaks.fragments(self.token)

    def address(self, connection: str) -> tuple[str, int]:
        host, _, port = self.stack.config["connections"][connection]["listen"].rpartition(":")
        return host, int(port)

    def fields(self, token: str = "") -> dict[str, str]:
        return {"dd-api-key": token or self.token, "dd-application-key": self.placeholder}

    def send(
        self,
        connection: str,
        method: str,
        target: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """The status and everything the client gets: fields and body. A cut connection is status 0."""
        client = http.client.HTTPConnection(*self.address(connection), timeout=20)
        with closing(client):
            try:
                client.request(method, target, body, dict(self.fields() if headers is None else headers))
                answer = client.getresponse()
                return answer.status, str(answer.headers).encode() + answer.read()
            except (http.client.HTTPException, OSError) as error:
                return 0, getattr(error, "partial", b"")

    def raw(self, connection: str, request: bytes) -> bytes:
        with socket.create_connection(self.address(connection), timeout=20) as client:
            client.sendall(request)
            return b"".join(iter(lambda: client.recv(1 << 16), b""))


def wilful(keys: list[str]) -> wire.Script:
    """An upstream that tells what it knows in pieces, in trailers, before it breaks off, and in codings."""
    said = json.dumps({"keys": keys, "coded": [base64.b64encode(k.encode()).decode() for k in keys]}).encode()
    pieces = [said[i : i + 5] for i in range(0, len(said), 5)]

    async def script(connection: wire.Wire) -> bool:
        what = connection.target.partition("?")[0].rpartition("/")[2]
        if what == "case-answer-pieces":
            return await wire.chunked(pieces, pause=0.001)(connection)
        if what == "case-answer-trailers":
            return await wire.chunked([b"{}"], trailers=[(f"x-key-{n}", k) for n, k in enumerate(keys)])(connection)
        if what == "case-answer-cut":
            await connection.body()
            await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\n" + said)
            connection.reset()
            return False
        if what == "case-answer-gzip":
            fields = [("content-encoding", "gzip"), ("content-type", "application/json")]
            return await wire.reply(wire.answer(body=gzip.compress(said), headers=fields))(connection)
        return await wire.reply(wire.answer("500 No", said, [("set-cookie", f"k={keys[0]}"), ("x-key", keys[1])]))(
            connection
        )

    return script


@pytest.fixture(scope="module")
def scene(issuer: LoopbackIssuer, servers: Background, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("up")
    api_key, app_key = (f'{name}+/="{random.token_hex(12)}~' for name in ("api", "app"))
    (folder / "keys").mkdir()
    given = folder / "keys" / "app"
    given.write_text(app_key)
    echo = servers.enter(upstreams.web())
    raw = servers.enter(wire.raw(wilful([api_key, app_key])))
    ports = free_ports(4)
    common = {
        "identity": {"headers": ["dd-api-key", "authorization"]},
        "credentials": [
            {"header": "dd-api-key", "from": {"env": "DOUANE_TEST_API_KEY"}},
            {"header": "dd-application-key", "from": {"file": "./keys/app"}},
        ],
        "scopes": {"everything": ["* /**"], "narrow": ["GET /nowhere"]},
    }
    connections = {
        "raw": {"listen": f"127.0.0.1:{ports[0]}", "upstream": raw.url},
        "dead": {"listen": f"127.0.0.1:{ports[1]}", "upstream": "http://127.0.0.1:9"},
        "streamed": {"listen": f"127.0.0.1:{ports[2]}", "upstream": echo.url, "body": "stream"},
        "narrow": {"listen": f"127.0.0.1:{ports[3]}", "upstream": echo.url},
    }
    allow = {name: ["everything"] for name in ("datadog", "raw", "dead", "streamed")} | {"narrow": ["narrow"]}
    with douane_up(
        folder,
        issuer.url,
        echo.url,
        api_key=api_key,
        connections={"datadog": common} | {name: common | each for name, each in connections.items()},
        grants=[{"name": "main", "issuer": "github", "if": "claims.repository_id == '74'", "allow": allow}],
    ) as stack:
        yield Scene(
            stack, issuer.token(expires_in=3600), api_key, app_key, f"place/holder+{random.token_hex(12)}", (given,)
        )


@contextlib.contextmanager
def paused(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def auditor(scene: Scene) -> Iterator[Client]:
    with connected(scene.stack, "auditor") as client:
        yield client


@contextlib.contextmanager
def connected(stack: Stack, user: access.User) -> Iterator[Client]:
    store = stack.config["store"]
    client = clickhouse_connect.get_client(
        host="127.0.0.1",
        port=int(store["listen"].rpartition(":")[2]),
        username=user,
        password=access.password(stack.folder / store["url"].removeprefix("embedded:"), user),
        database="douane",
    )
    with closing(client):
        yield client


# --- nothing is found ------------------------------------------------------------------------------------------------


def traffic(scene: Scene, expired: str) -> tuple[list[str], dict[str, bytes]]:
    """Every case, and what the client received in each."""
    whole = {"token": scene.token, "api": scene.api_key, "app": scene.app_key, "placeholder": scene.placeholder}
    coded = {
        name: [
            secret,
            secret.encode().hex(),
            secret.encode().hex().upper(),
            quote(secret, safe=""),
            *(base64.b64encode(b"x" * n + secret.encode()).decode() for n in range(3)),
            base64.urlsafe_b64encode(secret.encode()).decode(),
            json.dumps(secret),
        ]
        for name, secret in whole.items()
    }
    body = json.dumps(coded).encode()
    escaped = "".join(f"\\u{ord(c):04x}" for c in scene.api_key).encode()
    received: dict[str, bytes] = {}

    def case(name: str, connection: str = "datadog", path: str = "/echo", **more: Any) -> None:
        method = "POST" if more.get("body") is not None else "GET"
        query = more.pop("query", "")
        received[name] = scene.send(connection, method, f"{path}/case-{name}{query}", **more)[1]

    fields = scene.fields()
    case("plain")
    case("body", body=body, headers=fields | {"content-type": "application/json"})
    case("text", body=b'{"a": "' + escaped + b'"}', headers=fields | {"content-type": "text/plain"})
    case("streamed", "streamed", body=body)
    case("streamed-chunks", "streamed", body=iter([body[i : i + 7] for i in range(0, len(body), 7)]))
    case("query", query="?" + "&".join(f"{n}={quote(s, safe='')}" for n, s in whole.items()))
    case("query-fully", query="?q=" + "".join(f"%{ord(c):02x}" for c in scene.app_key))
    case("bearer", headers={"authorization": f"Bearer {scene.token}", "dd-application-key": scene.placeholder})
    odd = {f"x-odd-{n}": s for n, s in whole.items()} | {f"x-64-{n}": v[5] for n, v in coded.items()}
    case("headers", headers=fields | odd | {"cookie": f"a={scene.api_key}", "referer": f"https://x/?t={scene.token}"})
    for coding, encode in CODINGS.items():
        case(coding, body=encode(body), headers=fields | {"content-encoding": coding})
        case(f"streamed-{coding}", "streamed", body=encode(body), headers=fields | {"content-encoding": coding})
    case("garbage", body=b"\x1f\x8b" + body, headers=fields | {"content-encoding": "gzip"})
    case("no-token", body=body, headers={"dd-application-key": scene.placeholder})
    case("expired", body=body, headers=scene.fields(expired))
    case("forged", body=body, headers=scene.fields(scene.token[:-8] + "AAAAAAAA"))
    case("two-tokens", headers=fields | {"authorization": f"Bearer {expired}"})
    everything = "?" + "&".join(f"q={quote(form, safe='')}" for forms in coded.values() for form in forms)
    case("refused", "narrow", query=everything, body=body)
    case("dead", "dead", query=everything, body=body)
    for what in ("pieces", "trailers", "cut", "gzip", "error"):
        case(f"answer-{what}", "raw", "", query=everything)
    # Refused by Envoy itself: only its access log tells of it, and nobody knows the placeholder.
    keys = [form for name in ("api", "app") for form in coded[name]]
    case("slash", query=f"%2F?token={scene.token}&" + "&".join(f"q={quote(form, safe='')}" for form in keys))

    head = "\r\n".join(
        ["POST /case-trailers HTTP/1.1", "host: x", "connection: close", *(f"{n}: {v}" for n, v in fields.items())]
    )
    get = head.replace("POST /case-trailers", "GET /case-answer-trailers")
    received["answer-trailers-raw"] = scene.raw("raw", f"{get}\r\n\r\n".encode())
    tail = "\r\n".join(f"x-trailer-{n}: {s}" for n, s in whole.items())
    received["trailers"] = scene.raw(
        "raw", f"{head}\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n{tail}\r\n\r\n".encode()
    )
    received["websocket"] = asyncio.run(websocket(scene, whole))
    return [name for name in received if not name.endswith("-raw")], received


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


async def websocket(scene: Scene, whole: Mapping[str, str]) -> bytes:
    host, port = scene.address("datadog")
    received = []
    async with (
        aiohttp.ClientSession(headers=scene.fields()) as session,
        session.ws_connect(f"http://{host}:{port}/ws?case-websocket") as client,
    ):
        for secret in whole.values():
            await client.send_str(secret)
            received.append((await client.receive_str(timeout=10)).encode())
    return b"\n".join(received)


ENDS = {
    *(("", "complete"), ("", "upstream_reset"), ("grant.none", "denied"), ("body.undecodable", "denied")),
    *((f"identity.{why}", "denied") for why in ("missing", "expired", "bad_signature", "conflict")),
    *(("request.path", "denied"), ("response.credential_echo", "denied")),
}


def until(what: str, seconds: float, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_nothing_is_found(scene: Scene, issuer: LoopbackIssuer, auditor: Client) -> None:
    stack, pids = scene.stack, scene.stack.pids()
    expired = issuer.token(expires_in=-600)
    status, answer = scene.send("datadog", "POST", "/.douane/session")
    assert status == 200
    key = json.loads(answer[answer.index(b"{") :])["session_key"]
    assert scene.send("datadog", "GET", "/echo/case-session", headers=scene.fields(key))[0] == 200
    wanted = scene.secrets() | leaks.fragments(expired) | {"session key": key}

    def search() -> list[str]:
        return leaks.everywhere(stack.folder, wanted, given=scene.given, workers=pids["worker"])

    def on_disk(where: str, cases: list[str]) -> bool:
        found = b"".join(data for _, data in leaks.contents(stack.folder / "var" / where, ()))
        return all(f"case-{name}".encode() in found for name in cases)

    with paused(pids["store"]):
        with paused(pids["hub"]):
            cases, received = traffic(scene, expired)
            assert on_disk("spool", [name for name in cases if name != "slash"])
            assert search() == []
        until("the hub does not get the journals", 20, lambda: on_disk("hub", cases[:-1]))
        assert search() == []
        until("the hub makes no batch", 20, lambda: on_disk("hub/outbox", ["plain", "body"]))
        assert search() == []
    assert scene.send("datadog", "DELETE", "/.douane/session", headers=scene.fields(key))[0] == 200

    def missing() -> set[str]:
        asked = auditor.query("SELECT concat(path, '?', query) FROM exchanges").result_rows
        return {name for name in cases if not any(f"case-{name}" in each for (each,) in asked)}

    until("not everything becomes a row", 40, lambda: not missing())
    ends = auditor.query("SELECT reason, outcome, count() FROM exchanges GROUP BY ALL").result_rows
    assert {(reason, outcome) for reason, outcome, _ in ends} >= ENDS
    assert auditor.query("SELECT path FROM exchanges WHERE empty(masked)").result_rows == []
    assert leaks.rows(auditor, wanted) == []
    assert search() == []

    # The client may see its own token and placeholder again, and what it sent; never a key that it did not know.
    told = {name: data for name, data in received.items() if name == "plain" or name.startswith("answer")}
    assert all(data or name == "answer-cut" for name, data in told.items())
    assert b"x-key-1" in told["answer-trailers-raw"]
    real = {name: secret for name, secret in wanted.items() if name.startswith("real")}
    assert find(told.items(), real) == []


# --- what is planted is found ----------------------------------------------------------------------------------------

PLANTED = {"planted": 'k+/="plantedxyz0123'}


def test_a_key_in_any_column_is_found(scene: Scene, auditor: Client) -> None:
    secret = PLANTED["planted"]
    kinds = dict(auditor.query("SELECT concat(table, '.', name), type FROM system.columns").result_rows)
    columns = [(t, c) for t, names in leaks.string_columns(auditor).items() for c in names]
    assert {t for t, _ in columns} == {"approvals", "exchanges", "body_parts", "configs", "schema_migrations"}
    assert len(columns) > 40
    assert leaks.rows(auditor, PLANTED) == []
    with connected(scene.stack, "writer") as writer:
        for n, (table, column) in enumerate(columns):
            forms = sorted(f for f in set(spellings(secret)) if len(f) <= 32)
            form = f"unhex('{forms[n % len(forms)].hex()}')"
            values = {column: form}
            if f"{table}.ts" in kinds:
                values["ts"] = "now64(6)"  # retention drops old rows at once
            kind = kinds[f"{table}.{column}"]
            if kind.startswith("Array"):
                size = kind.count("String")
                blanks = {"String": "''", "UInt32": "0", "UInt64": "0"}
                given = [next(b for t, b in blanks.items() if t in part) for part in kind.split(",")]
                given[-1 if size > 1 else 0] = form
                values[column] = f"[({', '.join(given)})]"
            elif column in ("req_body", "resp_body"):
                values[f"{column}_sha256"] = f"SHA256({form})"
            writer.command(f"INSERT INTO {table} ({', '.join(values)}) SELECT {', '.join(values.values())}")
        for n, half in enumerate((secret[:9], secret[9:])):
            columns_of_part = f"{n}, now64(6), 'response', unhex('{half.encode().hex()}')"
            writer.command(f"INSERT INTO body_parts (n, ts, direction, data) SELECT {columns_of_part}")
    found = leaks.rows(auditor, PLANTED)
    missed = {f"planted in {table}.{column}" for table, column in columns} - set(found)
    assert missed == set()
    assert any("joined" in f for f in found)


def journal(*events: journal_pb2.Event) -> bytes:
    return b"".join(frames.encode(event.SerializeToString()) for event in events)


def body_in_two_frames(secret: bytes) -> bytes:
    pieces = secret[:5], secret[5:]
    return journal(*(journal_pb2.Event(part=journal_pb2.Part(data=piece)) for piece in pieces))


def compressed_body(secret: bytes) -> bytes:
    opened = journal_pb2.Opened(headers=[journal_pb2.Header(name="content-encoding", value=b"gzip")])
    data = gzip.compress(b"x" * 999 + secret)
    return journal(
        journal_pb2.Event(opened=opened),
        journal_pb2.Event(part=journal_pb2.Part(data=data[:20])),
        journal_pb2.Event(part=journal_pb2.Part(data=data[20:])),
    )


FILES: dict[str, Callable[[bytes], bytes]] = {
    "log": lambda secret: b"INFO " + secret + b"\n",
    "journal": lambda secret: journal(journal_pb2.Event(opened=journal_pb2.Opened(path=secret.decode()))),
    "journal, over two frames": body_in_two_frames,
    "journal, compressed": compressed_body,
}


@pytest.mark.parametrize("kind", FILES)
def test_a_key_in_a_file_is_found(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "var" / "slot-0" / ("0.journal" if "journal" in kind else "x.log")
    file.parent.mkdir(parents=True)
    file.write_bytes(FILES[kind](b"other"))
    assert leaks.everywhere(tmp_path, PLANTED) == []
    file.write_bytes(FILES[kind](PLANTED["planted"].encode()))
    assert any(file.name in found for found in leaks.everywhere(tmp_path, PLANTED))
    assert leaks.everywhere(tmp_path, PLANTED, given=[file]) == []


def test_a_key_in_a_database_is_found(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE t (a BLOB)")
        database.execute("INSERT INTO t VALUES (?)", (b"x" * 4090,))  # the next one goes over the end of a page
        assert leaks.everywhere(tmp_path, PLANTED) == []
        database.execute("INSERT INTO t VALUES (?)", (b"x" * 4055 + PLANTED["planted"].encode() + b"x" * 5000,))
        assert any("a value of t in state.sqlite" in found for found in leaks.everywhere(tmp_path, PLANTED))


@pytest.mark.parametrize("where", ["command line", "environment", "nameless file"])
def test_a_key_in_a_process_is_found(tmp_path: Path, where: str) -> None:
    secret = random.token_hex(16)  # others test on this machine too
    wait = "import sys; print(flush=True); sys.stdin.read()"
    hold = "import os, sys; os.write(os.memfd_create('m'), sys.stdin.buffer.read(32)); "
    command = [sys.executable, "-c", hold + wait if where == "nameless file" else wait]
    if where == "command line":
        command.append(secret)
    environment = {**os.environ, "X": secret} if where == "environment" else None
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(secret.encode() if where == "nameless file" else b"")
        process.stdin.flush()
        process.stdout.readline()
        found = leaks.everywhere(tmp_path, {"planted": secret})
        spared = leaks.everywhere(tmp_path, {"planted": secret}, workers=[process.pid])
        process.stdin.close()
    assert len(found) == 1
    assert found[0].startswith("planted in ")
    assert found[0].endswith(str(process.pid))
    assert spared == ([] if where == "environment" else found)
