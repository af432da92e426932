"""A handler that ends early, in each way and at each phase, in a real worker behind the real Envoy.

Before the verdict the client is refused and the upstream sees nothing; later the connection is cut, and no byte passes
that is not in the journal.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_proc.pb import journal_pb2
from tests.dataplane.early_ends import BODY, CHUNKS, WAYS, dechunked, gate, kinds, refusal
from tests.issuer import LoopbackIssuer

pytestmark = pytest.mark.dataplane


async def test_every_early_end(tmp_path: Path, issuer: LoopbackIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(tmp_path, issuer, monkeypatch) as running:
        servicer, upstream = running.servicer, running.upstream
        whole = await running.ask("/all/well", BODY)
        assert whole.startswith(b"HTTP/1.1 200")
        assert all(chunk in whole for chunk in CHUNKS)
        assert whole.endswith(b"x-sum: 1\r\n\r\n")
        assert kinds(await running.ended()) == "opened part verdict response_head part part part part trailers closed"
        upstream.seen.clear()

        refused: list[int] = []
        for how in ["returns", *WAYS]:
            for phase, nth in [("request_headers", 0), ("request_body", 0), ("request_body", 2)]:
                servicer.phase, servicer.nth, servicer.how = phase, nth, how
                case = f"{how} at {phase} {nth}"
                expected = (403, "gate.no_verdict") if how == "returns" else (503, "gate.unavailable")
                assert refusal(await running.ask("/before/verdict", BODY)) == expected, case
                assert upstream.seen == [], case
                assert upstream.aborted == 0, case
                refused.append(expected[0])
        events = await running.ended(len(refused))
        assert [(e.access.path, e.access.status) for e in events] == [("/before/verdict", n) for n in refused]

        for how in WAYS:
            servicer.phase, servicer.nth, servicer.how = "request_body", 2, how
            case = f"{how} in the middle of a body that is passed on"
            answer = await running.ask("/mid/body", BODY, port=running.streaming_port)
            assert refusal(answer) == (503, "gate.unavailable"), case
            assert upstream.seen == [], f"{case}: it looks complete to the upstream"
            events = await running.ended()
            assert kinds(events).startswith("opened verdict part"), case
            assert events[-1].closed.outcome == "", case

            servicer.phase, servicer.nth = "response_headers", 0
            case = f"{how} at the response's head"
            assert refusal(await running.ask("/at/answer", BODY)) == (503, "gate.unavailable"), case
            assert kinds(await running.ended()).startswith("opened part verdict closed"), case

            for phase, nth in [("response_body", 0), ("response_body", 2), ("response_trailers", 0)]:
                servicer.phase, servicer.nth = phase, nth
                case = f"{how} at {phase} {nth}"
                got = await running.ask("/mid/answer", BODY)
                events = await running.ended()
                assert got.startswith(b"HTTP/1.1 200"), case
                assert not got.endswith(b"0\r\n\r\n"), f"{case}: a cut answer looks whole"
                assert b"x-sum" not in got.partition(b"\r\n\r\n")[2], case
                recorded = b"".join(e.part.data for e in events if e.part.direction == journal_pb2.RESPONSE)
                passed = dechunked(got.partition(b"\r\n\r\n")[2])
                assert recorded == b"".join(CHUNKS[:nth] if phase == "response_body" else CHUNKS), case
                assert passed == recorded, case
                assert kinds(events).endswith("closed"), case
            upstream.seen.clear()
