"""The load generator and upstream where Go is missing: the commands of bench/load/main.go, slower.

Envoy alone outruns it, so that row then shows this program's limit; the report says so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from urllib.parse import urlsplit


def dashboard(size: int) -> bytes:
    """`size` bytes of JSON that look like a dashboard's definition."""
    head, tail = '{"title":"bench","layout_type":"ordered","widgets":[', '],"description":"'
    widgets: list[str] = []
    room = size - len(head) - len(tail) - 2
    while True:
        n = len(widgets)
        query = f'[{{"q":"avg:system.cpu.user{{host:web-{n:06d}}} by {{host}}","display_type":"line"}}]'
        widget = f'{{"definition":{{"type":"timeseries","title":"CPU of web-{n:06d}","requests":{query}}}}}'
        if (room := room - len(widget) - 1) < 0:
            break
        widgets.append(widget)
    text = head + ",".join(widgets) + tail
    return (text + "words and spaces " * size)[: size - 2].encode() + b'"}'


async def _message(reader: asyncio.StreamReader) -> tuple[str, int]:
    """Reads a head and its body; the first line, and the body's length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in head[1:])}
    if "chunked" not in fields.get("transfer-encoding", ""):
        return head[0], len(await reader.readexactly(int(fields.get("content-length", "0"))))
    total = 0
    while size := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(size + 2)
        total += size
    await reader.readexactly(2)
    return head[0], total


async def serve() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers: dict[str, bytes] = {}
        try:
            while True:
                first, _ = await _message(reader)
                if first not in answers:
                    body = dashboard(int(first.split()[1].rpartition("/")[2]))
                    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                    answers[first] = head.encode() + body
                writer.write(answers[first])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def run(options: argparse.Namespace) -> None:
    target = urlsplit(options.url)
    body = dashboard(options.size)
    lines = [
        f"POST /bytes/{options.size} HTTP/1.1",
        f"host: {target.netloc}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *options.header,
    ]
    request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    latencies: list[float] = []
    errors: Counter[str] = Counter()
    answered = 0
    begin = time.monotonic() + float(options.warmup.removesuffix("s"))
    seconds = float(options.duration.removesuffix("s"))
    end = begin + seconds

    async def drive() -> None:
        nonlocal answered
        while time.monotonic() < end:
            try:
                reader, writer = await asyncio.open_connection(target.hostname, target.port, limit=1 << 20)
            except OSError as error:
                errors[f"connect: {error}"] += 1
                await asyncio.sleep(0.01)
                continue
            while (start := time.monotonic()) < end:
                writer.write(request)
                try:
                    first, length = await asyncio.wait_for(_message(reader), 20)
                except (OSError, asyncio.IncompleteReadError):
                    errors["no answer"] += 1
                    break
                if " 200 " not in first or length != options.size:
                    errors[f"{first} {length} bytes"] += 1
                    break
                answered += 1
                if start >= begin and (now := time.monotonic()) < end:
                    latencies.append((now - start) * 1000)
            writer.close()

    await asyncio.gather(*(drive() for _ in range(options.connections)))
    latencies.sort()
    count = len(latencies)
    result = {
        "requests": count,
        "all": answered,
        "seconds": seconds,
        "requests_per_second": count / seconds,
        "p50_ms": latencies[count // 2] if count else 0,
        "p99_ms": latencies[count * 99 // 100] if count else 0,
        "errors": errors,
        "connections": options.connections,
        "size": options.size,
    }
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.load")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve")
    load = commands.add_parser("run")
    load.add_argument("-url", required=True)
    load.add_argument("-size", type=int, default=1024)
    load.add_argument("-connections", type=int, default=1)
    load.add_argument("-warmup", default="1s")
    load.add_argument("-duration", default="5s")
    load.add_argument("-header", action="append", default=[])
    options = parser.parse_args()
    asyncio.run(serve() if options.command == "serve" else run(options))


if __name__ == "__main__":
    main()
