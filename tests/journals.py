"""Events of exchanges as a worker writes them, for tests of what stands behind the journal."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

from ext_proc.pb import journal_pb2 as pb
from ext_proc.spool import frames

START_US = 1_790_000_000_000_000
"""When the exchanges of tests begin, unless they say otherwise."""


class Attempt:
    """One ext_proc stream. Each method gives the next event; time goes on by a millisecond with each."""

    def __init__(self, exchange_id: UUID | None = None, number: int = 1, at_us: int = START_US) -> None:
        self.exchange_id = exchange_id or uuid4()
        self.number = number
        self.at_us = at_us

    def event(self, **kind: object) -> pb.Event:
        event = pb.Event(exchange_id=self.exchange_id.bytes, attempt=self.number, at_us=self.at_us, **kind)  # type: ignore[arg-type]
        self.at_us += 1000
        return event

    def opened(
        self, path: str = "/api/v1/dashboard", headers: Sequence[tuple[str, bytes]] = (), **more: object
    ) -> pb.Event:
        fields = {
            "connection": "datadog", "method": "POST", "scheme": "http", "host": "api.example.com", "query": "a=1",
            "source_address": "127.0.0.1:4711", "protocol": "HTTP/1.1", "config_digest": "d" * 64,
        } | more  # fmt: skip
        return self.event(opened=pb.Opened(path=path, headers=_headers(headers), **fields))  # type: ignore[arg-type]

    def verdict(
        self, decision: str = "allow", reason: str = "", session: bytes = b"s" * 16, **more: object
    ) -> pb.Event:
        caller = pb.Identity(
            issuer="github", subject="repo:acme/infra", claims_json='{"run_id":"1"}', session_id=session,
            session_label="acme/infra run 1",
        )  # fmt: skip
        fields = {"policy": "infra-main", "credential": "dd-api-key", "caller": caller} | more
        return self.event(verdict=pb.Verdict(decision=decision, reason=reason, **fields))  # type: ignore[arg-type]

    def part(self, direction: int, data: bytes, form: int = pb.Part.AS_SENT, masks: Sequence[pb.Mask] = ()) -> pb.Event:
        return self.event(part=pb.Part(direction=direction, data=data, form=form, masks=masks))  # type: ignore[arg-type]

    def head(self, status: int = 200, headers: Sequence[tuple[str, bytes]] = (), **more: object) -> pb.Event:
        return self.event(response_head=pb.ResponseHead(status=status, headers=_headers(headers), **more))  # type: ignore[arg-type]

    def trailers(self, direction: int, trailers: Sequence[tuple[str, bytes]]) -> pb.Event:
        return self.event(trailers=pb.Trailers(direction=direction, trailers=_headers(trailers)))  # type: ignore[arg-type]

    def closed(self, outcome: str = "complete", reason: str = "") -> pb.Event:
        return self.event(closed=pb.Closed(outcome=outcome, reason=reason, duration_us=1234))

    def access(self, outcome: str, details: str = "", **more: object) -> pb.Event:
        return self.event(access=pb.Access(outcome=outcome, details=details, **more))  # type: ignore[arg-type]

    def complete(self, request: bytes = b"", response: bytes = b"", **opened: object) -> list[pb.Event]:
        """A whole exchange that went well."""
        events = [self.opened(**opened)]  # type: ignore[arg-type]
        if request:
            events.append(self.part(pb.REQUEST, request))
        events += [self.verdict(), self.head(headers=[("content-type", b"application/json")])]
        if response:
            events.append(self.part(pb.RESPONSE, response))
        return [*events, self.closed()]


def framed(events: Sequence[pb.Event]) -> bytes:
    """As they lie in a journal."""
    return b"".join(frames.encode(event.SerializeToString()) for event in events)


def _headers(items: Sequence[tuple[str, bytes]]) -> list[pb.Header]:
    return [pb.Header(name=name, value=value) for name, value in items]
