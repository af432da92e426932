"""What the failure tests share: an upstream that remembers every request, a driver that knows what it got, and what
the ledger must hold of both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from yarl import URL

from ext_proc.supervisor import probes
from tests.dataplane import wire
from tests.dataplane.ledger import Ledger, Row
from tests.dataplane.stack import Stack, descendants

CONNECTIONS = 16
DEADLINE_S = 30.0
"""No exchange may take longer: what takes longer hangs."""
SETTLED_S = 45.0
"""Exchanges without an end of their own are settled ten seconds after it, by what every worker has said since."""
UNAVAILABLE = {"gate.unavailable", "gate.no_verdict", "upstream.reset", "upstream.unreachable"}
"""What Envoy answers where a process behind it died."""


# --- the upstream ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Witness:
    """Every path that reached the upstream, from the moment its head did."""

    url: str = ""
    seen: Counter[str] = field(default_factory=Counter)
    strange: list[str] = field(default_factory=list)
    """Paths whose body was not theirs."""


@contextlib.asynccontextmanager
async def witness() -> AsyncIterator[Witness]:
    """Answers each request with `answer_to(path)`, after a small delay; one in fifty is slow, one in four comes in two
    pieces. What is random depends on the path alone."""
    witness = Witness()

    async def script(request: wire.Wire) -> bool:
        path = request.target
        witness.seen[path] += 1
        body = await request.body()
        if path.encode() not in body:
            witness.strange.append(path)
        chance = random.Random(path)
        await asyncio.sleep(0.25 if chance.random() < 0.02 else chance.uniform(0, 0.005))
        data = wire.answer(body=answer_to(path), headers=[("content-type", "application/json")])
        if chance.random() < 0.25:
            await request.send(data[:700])
            await asyncio.sleep(chance.uniform(0, 0.01))
            await request.send(data[700:])
        else:
            await request.send(data)
        return True

    async with wire.raw(script) as upstream:
        witness.url = upstream.url
        yield witness


def question_of(path: str) -> bytes:
    return json.dumps({"marker": path, "text": "q" * 400}).encode()


def answer_to(path: str) -> bytes:
    return json.dumps({"text": "a" * 900, "marker": path}).encode()


# --- the driver ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client got: a whole answer, or (status 0) an error that it noticed."""

    status: int
    body: bytes = b""
    error: str = ""

    @property
    def reason(self) -> str:
        return str(json.loads(self.body)["reason"])


@dataclass(slots=True)
class Drive:
    """Sends exchanges on `CONNECTIONS` connections, one path each."""

    stack: Stack
    token: str
    answers: dict[str, Answer] = field(default_factory=dict)

    async def run(self, name: str, count: int, *, midway: Callable[[], Awaitable[object]] | None = None) -> None:
        """POST /NAME/0.. /NAME/COUNT-1; `midway` is called, beside the traffic, when a third is answered."""
        paths = iter([f"/{name}/{n}" for n in range(count)])
        before, started = len(self.answers), asyncio.Event()
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        async with asyncio.TaskGroup() as group:

            async def work() -> None:
                async with aiohttp.ClientSession(timeout=timeout) as session:  # a connection of its own
                    for path in paths:
                        self.answers[path] = await self._exchange(session, path)
                        if len(self.answers) - before >= count // 3:
                            started.set()

            async def meddle(action: Callable[[], Awaitable[object]]) -> None:
                await started.wait()
                await action()

            for _ in range(CONNECTIONS):
                group.create_task(work())
            if midway is not None:
                group.create_task(meddle(midway))

    async def _exchange(self, session: aiohttp.ClientSession, path: str) -> Answer:
        try:
            async with session.post(
                URL(self.stack.url + path), data=question_of(path), headers={"dd-api-key": self.token}
            ) as got:
                return Answer(got.status, await got.read())
        except aiohttp.ClientConnectorError as error:
            await listening(self.stack.port)  # nobody is there: no use in failing the rest at once
            return Answer(0, error=type(error).__name__)
        except aiohttp.ClientError as error:
            return Answer(0, error=type(error).__name__)

    @property
    def whole(self) -> set[str]:
        """Paths whose client got the upstream's answer."""
        return {path for path, answer in self.answers.items() if answer.status == 200}

    def check_answers(self, reasons: Iterable[str] = UNAVAILABLE) -> Counter[str]:
        """Each client got the answer, a refusal that says why, or an error. How often each came."""
        found: Counter[str] = Counter()
        for path, answer in self.answers.items():
            if answer.status == 200:
                assert answer.body == answer_to(path), f"{path}: a 200 that is not the upstream's answer"
                found["200"] += 1
            elif answer.status:
                assert answer.reason in set(reasons), f"{path}: {answer}"
                found[answer.reason] += 1
            else:
                found[answer.error] += 1
        return found


async def listening(port: int, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not await probes.accepts(f"127.0.0.1:{port}"):  # noqa: ASYNC110 (another process's state has no event)
            await asyncio.sleep(0.05)


# --- the ledger ------------------------------------------------------------------------------------------------------


async def settle(stack: Stack, ledger: Ledger, name: str) -> None:
    """Return when everything that ended before this call has its row: what Envoy refuses by itself gets one only when
    every worker has reported ten seconds beyond it."""
    path = f"/{name}/settled%2Fby-now"
    async with aiohttp.ClientSession() as session, session.get(URL(stack.url + path, encoded=True)) as got:
        assert got.status == 400, await got.text()
    await asyncio.to_thread(ledger.row, path, timeout=SETTLED_S)


def check_ledger(ledger: Ledger, name: str, drive: Drive, witness: Witness) -> Counter[str]:
    """What holds whoever died: how often each outcome came. Call when it is settled."""
    rows = ledger.query(
        "SELECT path, decision, outcome, status, toString(exchange_id) AS id, base64Encode(req_body) AS question,"
        " base64Encode(resp_body) AS answer FROM douane.exchanges WHERE startsWith(path, {prefix:String})"
        " AND method = 'POST'",
        prefix=f"/{name}/",
    )
    seen = {path for path in witness.seen if path.startswith(f"/{name}/")}
    by_path: dict[str, Row] = {row["path"]: row for row in rows}
    doubled = [path for path, n in Counter(row["path"] for row in rows).items() if n > 1]
    assert doubled == [], "exchanges with more than one row"
    assert len({row["id"] for row in rows}) == len(rows)
    assert max((witness.seen[path] for path in seen), default=1) == 1, "requests that reached the upstream twice"
    assert sorted(seen - by_path.keys()) == [], "requests that reached the upstream and have no record"
    assert sorted(drive.whole - seen) == []
    assert witness.strange == []
    for path in drive.whole:
        row = by_path[path]
        assert (row["outcome"], row["status"], row["decision"]) == ("complete", 200, "allow"), row
        assert row["question"] == base64(question_of(path))
        assert row["answer"] == base64(answer_to(path))
    for path in seen - drive.whole:
        row = by_path[path]
        assert row["decision"] == "allow", f"{path} reached the upstream: {row}"
        assert row["outcome"] in {"complete", "client_gone", "upstream_reset", "timed_out", "unknown"}, row
    return Counter(row["outcome"] for row in rows)


def base64(data: bytes) -> str:
    from base64 import b64encode

    return b64encode(data).decode()


# --- processes -------------------------------------------------------------------------------------------------------


def kill(stack: Stack, role: str) -> int:
    """SIGKILL to one process of that role; its id."""
    pid = stack.pids()[role][0]
    os.kill(pid, signal.SIGKILL)
    return pid


def alive(pid: int) -> bool:
    """False for a zombie too: it holds nothing any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def everybody(stack: Stack) -> list[int]:
    return [stack.process.pid, *descendants(stack.process.pid)]
