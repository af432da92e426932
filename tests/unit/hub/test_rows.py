"""Row by row against a reader of RowBinary of its own; tests/clickhouse holds the types against ClickHouse."""

from __future__ import annotations

from hashlib import sha256
from uuid import UUID

import pytest

from ext_proc.hub import rows
from ext_proc.hub.assembler import Assembler
from ext_proc.hub.attempts import Finished, Gate, JournalKey
from ext_proc.hub.chain import GENESIS, Chains, Head
from ext_proc.pb import journal_pb2 as pb
from tests.journals import START_US, Attempt

GATE = Gate("local:0", "ci")


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def size(self) -> int:
        value = shift = 0
        while True:
            byte = self.number(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def string(self) -> bytes:
        return self.take(self.size())

    def uuid(self) -> UUID:
        return UUID(int=self.number(8) << 64 | self.number(8))

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(self.string(), self.string()) for _ in range(self.size())]

    def masks(self) -> list[tuple[object, ...]]:
        return [
            (
                self.string(),
                self.number(4),
                self.number(8),
                self.number(8),
                self.number(8),
                self.string(),
                self.string(),
            )
            for _ in range(self.size())
        ]


READ = {
    **dict.fromkeys(rows.EXCHANGES, Reader.string),
    **dict.fromkeys(("exchange_id", "session_id"), Reader.uuid),
    **dict.fromkeys(("record_version", "req_form", "resp_form"), lambda r: r.number(1)),
    **dict.fromkeys(("ts", "seq", "duration_us", "req_body_size", "resp_body_size"), lambda r: r.number(8)),
    **dict.fromkeys(("req_headers", "req_trailers", "resp_headers", "resp_trailers"), Reader.headers),
    **dict.fromkeys(("req_body_sha256", "resp_body_sha256", "record_hash"), lambda r: r.take(32)),
    "status": lambda r: r.number(2),
    "masked": Reader.masks,
    "approved_by": lambda r: [r.string() for _ in range(r.size())],
    "rules": lambda r: [tuple(r.string() for _ in range(5)) for _ in range(r.size())],
}


def finished(events: list[pb.Event]) -> Finished:
    assembler = Assembler()
    journal = JournalKey(GATE, 0, "j")
    for number, event in enumerate(events):
        assembler.feed(journal, number, 1, event)
    assembler.watermark(GATE, 0, 1, START_US * 2, START_US)
    assembler.settle(START_US)
    [found] = assembler.take()[0]
    return found


def row(events: list[pb.Event], chains: Chains | None = None) -> dict[str, object]:
    def never(*_: object) -> bytes:
        raise AssertionError

    data = rows.exchange(finished(events), chains or Chains("hub", {}), read=never, add_part=never, limit=1 << 20)
    reader = Reader(data)
    found = {name: READ[name](reader) for name in rows.EXCHANGES}
    assert reader.at == len(data)
    return found


def test_a_complete_exchange():
    attempt = Attempt()
    found = row(attempt.complete(b"abc", b"d" * 300, headers=[("x", b"\xff" * 200)]))
    assert found["exchange_id"] == attempt.exchange_id
    assert found["ts"] == START_US
    assert (found["chain_id"], found["seq"]) == (b"hub/local:0/ci", 1)
    assert found["session_id"] == UUID(bytes=b"s" * 16)
    assert found["req_headers"] == [(b"x", b"\xff" * 200)]
    assert (found["req_body"], found["resp_body"]) == (b"abc", b"d" * 300)
    assert found["req_body_sha256"] == sha256(b"abc").digest()
    assert (found["resp_body_size"], found["status"], found["outcome"]) == (300, 200, b"complete")
    assert (found["decision"], found["policy"], found["duration_us"]) == (b"allow", b"infra-main", 1234)


def test_masks_of_every_place_are_listed():
    attempt = Attempt()
    opened, head, end = attempt.opened(), attempt.head(), attempt.trailers(pb.RESPONSE, [])
    for message, place in (
        (opened.opened, "path"),
        (head.response_head, "resp_headers"),
        (end.trailers, "resp_trailers"),
    ):
        message.masks.add(place=place, index=1, start=2, length=3, original_length=4, detector="d", fingerprint="f")
    part = attempt.part(pb.REQUEST, b"x", masks=[pb.Mask(place="req_body", start=1 << 40)])
    found = row([opened, part, head, end, attempt.closed()])
    assert found["masked"] == [
        (b"path", 1, 2, 3, 4, b"d", b"f"),
        (b"req_body", 0, 1 << 40, 0, 0, b"", b""),
        (b"resp_headers", 1, 2, 3, 4, b"d", b"f"),
        (b"resp_trailers", 1, 2, 3, 4, b"d", b"f"),
    ]


def test_a_denial_keeps_its_reason_and_what_the_client_was_told():
    attempt = Attempt()
    verdict = attempt.verdict("deny", "policy.denied", message="no iframes", policy="no-iframes")
    found = row([attempt.opened(), verdict, attempt.closed("denied")])
    assert (found["decision"], found["reason"]) == (b"deny", b"policy.denied")
    assert (found["message"], found["policy"], found["outcome"]) == (b"no iframes", b"no-iframes", b"denied")


def test_without_a_verdict_nothing_passed():
    attempt = Attempt()
    found = row([attempt.opened(), attempt.closed("denied", "identity.expired")])
    assert (found["decision"], found["reason"]) == (b"deny", b"identity.expired")
    assert found["session_id"] == UUID(int=0)


def test_a_refusal_of_envoy_alone_is_a_row():
    attempt = Attempt()
    access = attempt.access(
        "denied", "request_overall_timeout", status=408, connection="datadog", method="PUT", host="h", path="/p",
        query="q", started_us=START_US - 5, duration_us=77,
    )  # fmt: skip
    found = row([access])
    assert (found["ts"], found["duration_us"], found["status"]) == (START_US - 5, 77, 408)
    assert (found["connection"], found["method"], found["path"]) == (b"datadog", b"PUT", b"/p")
    assert (found["decision"], found["reason"]) == (b"deny", b"request_overall_timeout")
    assert (found["outcome"], found["code_details"]) == (b"denied", b"request_overall_timeout")


def test_an_aborted_exchange_says_how_it_ended():
    attempt = Attempt()
    events = [
        attempt.opened(),
        attempt.verdict(),
        attempt.closed(""),
        attempt.access("upstream_reset", "reset", status=503),
    ]
    events[2].closed.duration_us = 0
    events[3].access.duration_us = 99
    found = row(events)
    assert (found["outcome"], found["status"], found["code_details"]) == (b"upstream_reset", 503, b"reset")
    assert (found["decision"], found["duration_us"]) == (b"allow", 99)


def test_a_workload_alone_is_the_run():
    attempt = Attempt()
    workload = pb.Identity(issuer="k8s", subject="sa", claims_json="{}", session_id=b"w" * 16, session_label="pod")
    verdict = attempt.event(verdict=pb.Verdict(decision="allow", workload=workload))
    found = row([attempt.opened(), verdict, attempt.closed()])
    assert (found["session_id"], found["session_label"]) == (UUID(bytes=b"w" * 16), b"pod")
    assert (found["issuer"], found["workload_issuer"], found["workload_claims"]) == (b"", b"k8s", b"{}")


@pytest.mark.parametrize("at_us", [-1, -(1 << 62), (1 << 63) - 1])
def test_no_clock_makes_a_row_that_clickhouse_refuses(at_us):
    attempt = Attempt(at_us=0)
    opened = attempt.opened()
    opened.at_us = at_us
    found = row([opened, attempt.head(status=4_000_000_000), attempt.closed()])
    assert 0 <= found["ts"] <= 4_102_444_800_000_000
    assert found["status"] == 65535


def test_what_held_it_and_who_approved_it():
    attempt = Attempt()
    hit = pb.RuleHit(
        policy="deletes", digest="d1", effect="hold", mode="enforce", values_json='{"request.method":"DELETE"}'
    )
    held = attempt.event(verdict=pb.Verdict(decision="hold", approval_id="a-1", policy="deletes", hits=[hit]))
    allowed = attempt.event(verdict=pb.Verdict(decision="allow", policy="main", approved_by=["oidc:alice", "oidc:bob"]))
    flagged = pb.RuleHit(policy="large", effect="flag", mode="observe", values_json="{}")
    answer = attempt.event(response_verdict=pb.ResponseVerdict(decision="pass", hits=[flagged]))
    found = row([attempt.opened(), held, allowed, attempt.head(), answer, attempt.closed()])
    assert (found["decision"], found["approval_id"], found["policy"]) == (b"allow", b"a-1", b"main")
    assert found["approved_by"] == [b"oidc:alice", b"oidc:bob"]
    assert found["rules"] == [
        (b"deletes", b"d1", b"hold", b"enforce", b'{"request.method":"DELETE"}'),
        (b"large", b"", b"flag", b"observe", b"{}"),
    ]
    assert found["response_decision"] == b"pass"


def test_every_row_is_chained_to_the_one_before():
    chains = Chains("hub", {"hub/local:0/ci": Head(41, b"h" * 32)})
    first, second = row(Attempt().complete(), chains), row(Attempt().complete(), chains)
    assert (first["seq"], second["seq"]) == (42, 43)
    assert chains.changed() == {"hub/local:0/ci": Head(43, second["record_hash"])}
    assert chains.changed() == {}


def test_the_hash_covers_the_columns_it_says_and_bodies_by_their_hash():
    chains = Chains("hub", {})
    data = rows.exchange(
        finished(Attempt().complete(b"body", b"x")), chains, read=lambda _: b"", add_part=lambda _: None, limit=0
    )
    reader = Reader(data)
    for name in rows.HASHED[rows.RECORD_VERSION]:
        READ[name](reader)
    assert data[-32:] == sha256(GENESIS + data[: reader.at]).digest()
    assert b"\x04body" not in data[: reader.at]
    assert data[reader.at :].startswith(b"\x04body\x01x\x00\x00")
