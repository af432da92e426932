"""Responses that are looked into before the client has any of them: what is collected, decided, recorded, answered."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from typing import Any

import pytest

from ext_proc import codec
from ext_proc.exchange import Headers
from ext_proc.pb import journal_pb2
from ext_proc.pb.envoy_ext_proc_pb2 import ProcessingResponse
from ext_proc.response.inspected import InspectedResponse
from ext_proc.stream import Stream
from tests.dataplane.stack import API_KEY
from tests.playbook.conftest import Playbook

SECRET = "ghp_" + "a1B2c3D4e5F6" * 3
TEXT = ("content-type", b"text/plain")
CLIENT = {"masking": {"response": "client", "json": ["$.user.email"], "headers": ["x-internal"]}}


def head(*headers: tuple[str, bytes], status: int = 200, last: bool = False) -> codec.ResponseHead:
    fields = (
        headers if any(n == "content-type" for n, _ in headers) else (("content-type", b"application/json"), *headers)
    )
    return codec.ResponseHead(status, Headers(fields), "via_upstream", "127.0.0.1:9", last)


async def asked(playbook: Playbook, method: str = "GET", **options: Any) -> Stream:
    stream = playbook.stream()
    await stream.on(playbook.head(method, **options))
    return stream


async def answered(
    stream: Stream, answer: codec.ResponseHead, *body: bytes, trailers: Headers | None = None
) -> list[ProcessingResponse]:
    """Everything that Envoy is told for this response, its body in these pieces."""
    answers = await stream.on(answer)
    for piece in body:
        answers += await stream.on(codec.Body("response", piece, False))
    if trailers is not None:
        answers += await stream.on(codec.Trailers("response", trailers))
    elif not answer.last:
        answers += await stream.on(codec.Body("response", b"", True))
    return answers


def passed(answers: Sequence[ProcessingResponse]) -> bytes:
    pieces = [a.response_body.response.body_mutation.streamed_response for a in answers if a.HasField("response_body")]
    assert all(not piece.end_of_stream for piece in pieces[:-1])
    return b"".join(piece.body for piece in pieces)


def changed(answers: Sequence[ProcessingResponse]) -> tuple[dict[str, bytes], set[str]]:
    """The head's fields that were set, and those that were removed."""
    (mutation,) = [a.response_headers.response.header_mutation for a in answers if a.HasField("response_headers")]
    given = {option.header.key: option.header.raw_value for option in mutation.set_headers}
    return given, set(mutation.remove_headers) - set(given)


def refusal(answers: Sequence[ProcessingResponse]) -> tuple[int, str]:
    (answer,) = answers
    return answer.immediate_response.status.code, json.loads(answer.immediate_response.body)["reason"]


def recorded(playbook: Playbook, since: int = 0) -> bytes:
    """The response's body as the journal has it, from the event of this number on."""
    found = [e.part for e in playbook.events()[since:] if e.HasField("part")]
    parts = [part for part in found if part.direction == journal_pb2.RESPONSE]
    return b"".join(part.data for part in parts)


async def test_nothing_passes_before_all_was_seen_and_recorded(playbook: Playbook) -> None:
    playbook.apply(**CLIENT)
    stream = await asked(playbook)
    body = json.dumps({"id": 7, "text": "nothing to hide"}).encode()
    assert await stream.on(head(("content-length", b"%d" % len(body)), ("etag", b'"7"'))) == []
    assert await stream.on(codec.Body("response", body[:10], False)) == []
    assert await stream.on(codec.Body("response", body[10:], False)) == []
    assert playbook.kinds() == ["opened", "verdict"]
    answers = await stream.on(codec.Body("response", b"", True))
    assert playbook.kinds() == ["opened", "verdict", "response_head", "part", "closed"]
    assert passed(answers) == body
    assert answers[0].response_headers.response.ByteSize() == 0, "nothing of the head changes"
    assert answers[-1].response_body.response.body_mutation.streamed_response.end_of_stream
    assert stream.done


async def test_the_client_is_spared_what_the_ledger_is(playbook: Playbook) -> None:
    playbook.apply(**CLIENT)
    stream = await asked(playbook)
    body = json.dumps({"user": {"email": "a@example.com", "name": "A"}, "token": SECRET, "n": 1}).encode()
    fields = [
        ("content-length", b"%d" % len(body)),
        *(("etag", b'"7"'), ("digest", b"x"), ("content-md5", b"x"), ("accept-ranges", b"bytes"), ("x-plain", b"y")),
        *(("x-internal", b"hidden"), ("x-also", SECRET.encode())),
    ]
    answers = await answered(
        stream, head(*fields), body, trailers=Headers([("repr-digest", b"z"), ("x-t", SECRET.encode())])
    )
    seen = json.loads(passed(answers))
    assert seen == {"user": {"email": "[MASKED:json]", "name": "A"}, "token": seen["token"], "n": 1}
    assert seen["token"].startswith("[MASKED:")
    assert seen["token"].count(":") == 1, "a fingerprint would let the client try guesses"
    given, removed = changed(answers)
    assert given["content-length"] == b"%d" % len(passed(answers))
    assert given["x-internal"] == b"[MASKED:header]"
    assert SECRET.encode() not in given["x-also"]
    assert removed == {"etag", "digest", "content-md5", "accept-ranges"}
    trailers = answers[-1].response_trailers.header_mutation
    assert "repr-digest" in trailers.remove_headers
    assert SECRET.encode() not in trailers.set_headers[0].header.raw_value
    written = playbook.spool.read(0, 1 << 30)
    assert SECRET.encode() not in written
    assert b"a@example.com" not in written
    assert [e.response_verdict.decision for e in playbook.events() if e.HasField("response_verdict")] == ["mask"]


@pytest.mark.parametrize("told", [True, False])
async def test_a_compressed_body_stays_as_it_is_or_becomes_identity(playbook: Playbook, told: bool) -> None:
    playbook.apply(**CLIENT)
    for body, changes in ((b'{"a": 1}', False), (b'{"a": "%b"}' % SECRET.encode(), True)):
        wire = gzip.compress(body)
        length = [("content-length", b"%d" % len(wire))] if told else []
        stream = await asked(playbook)
        answers = await answered(stream, head(("content-encoding", b"gzip"), *length), wire[:11], wire[11:])
        given, removed = changed(answers)
        if not changes:
            assert (passed(answers), given, removed) == (wire, {}, set())
            continue
        assert json.loads(passed(answers))["a"].startswith("[MASKED:")
        assert removed == {"content-encoding"}
        assert given == ({"content-length": b"%d" % len(passed(answers))} if told else {})


async def test_a_credential_in_a_compressed_body_is_masked_where_it_would_be_refused_else(playbook: Playbook) -> None:
    playbook.apply(**CLIENT)
    stream = await asked(playbook)
    wire = gzip.compress(json.dumps({"you sent": API_KEY}).encode())
    answers = await answered(stream, head(("content-encoding", b"gzip")), wire)
    assert json.loads(passed(answers)) == {"you sent": "[MASKED:credential:dd-api-key]"}
    assert API_KEY.encode() not in playbook.spool.read(0, 1 << 30)


@pytest.mark.parametrize(
    ("status", "method"), [(200, "HEAD"), (204, "GET"), (304, "GET"), (200, "GET")], ids=["HEAD", "204", "304", "empty"]
)
async def test_a_response_without_a_body_is_its_head(playbook: Playbook, status: int, method: str) -> None:
    playbook.apply(**CLIENT)
    stream = await asked(playbook, method)
    answers = await answered(stream, head(("content-length", b"1234"), ("x-internal", b"s"), status=status, last=True))
    assert [a.WhichOneof("response") for a in answers] == ["response_headers"]
    assert changed(answers) == ({"x-internal": b"[MASKED:header]"}, set()), "the length is that of a GET"
    assert stream.done
    assert playbook.events()[-1].closed.outcome == "complete"


async def test_an_empty_body_with_trailers(playbook: Playbook) -> None:
    playbook.apply(**CLIENT)
    stream = await asked(playbook)
    answers = await answered(stream, head(), trailers=Headers([("x-t", b"1")]))
    assert [a.WhichOneof("response") for a in answers] == ["response_headers", "response_trailers"]
    assert stream.done


async def test_too_large_is_withheld_whether_told_or_not(playbook: Playbook) -> None:
    playbook.apply(**CLIENT, connections={"datadog": {"max_inspect_response": 100}})
    bomb = gzip.compress(b" " * 101)
    arrived = []
    for answer, pieces in (
        (head(TEXT, ("content-length", b"101")), []),
        (head(TEXT), [b"x" * 60, b"y" * 41]),
        (head(TEXT, ("content-encoding", b"gzip")), [bomb]),
    ):
        since = len(playbook.events())
        stream = await asked(playbook)
        answers = await stream.on(answer)
        for piece in pieces:
            answers += await stream.on(codec.Body("response", piece, False))
        if not answers:
            answers = await stream.on(codec.Body("response", b"", True))
        assert refusal(answers) == (502, "response.too_large")
        assert stream.done
        verdict, closed = playbook.events()[-2:]
        assert (verdict.response_verdict.decision, verdict.response_verdict.reason) == (
            "withhold",
            "response.too_large",
        )
        assert (closed.closed.outcome, closed.closed.reason) == ("denied", "response.too_large")
        arrived.append(recorded(playbook, since))
    assert arrived == [b"", b"x" * 60 + b"y" * 41, bomb], "what arrived is in the ledger"
    assert InspectedResponse._held == 0


async def test_what_is_held_is_bounded_together(playbook: Playbook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ext_proc.response.inspected.MOST_HELD", 10)
    playbook.apply(**CLIENT)
    first, second, third = [await asked(playbook) for _ in range(3)]
    for stream in (first, second):
        assert await stream.on(head()) == []
        assert await stream.on(codec.Body("response", b"12345", False)) == []
    assert await third.on(head()) == []
    assert refusal(await third.on(codec.Body("response", b"1", False))) == (503, "gate.overloaded")
    second.on_abort("the client left")
    assert passed(await first.on(codec.Body("response", b"6", True))) == b"123456"
    assert InspectedResponse._held == 0


async def test_an_abort_records_what_arrived(playbook: Playbook) -> None:
    playbook.apply(**CLIENT)
    stream = await asked(playbook)
    await stream.on(head(TEXT))
    await stream.on(codec.Body("response", b'{"half": "%b", "of' % SECRET.encode(), False))
    stream.on_abort("gate.cancelled")
    assert b'"of' in recorded(playbook)
    assert SECRET.encode() not in recorded(playbook)
    assert (playbook.kinds()[-1], playbook.events()[-1].closed.outcome) == ("closed", "")


async def test_what_cannot_be_decoded_cannot_be_masked(playbook: Playbook) -> None:
    playbook.apply(**CLIENT)
    for coding, wire in ((b"gzip", b"not gzip at all"), (b"compress", b"x")):
        stream = await asked(playbook)
        assert refusal(await answered(stream, head(("content-encoding", coding)), wire)) == (502, "body.undecodable")
    playbook.apply(
        **CLIENT,
        recording={"seal_key": {"env": "DOUANE_TEST_API_KEY"}},
        connections={"datadog": {"undecodable": "seal"}},
    )
    stream = await asked(playbook)
    answers = await answered(stream, head(("content-encoding", b"gzip")), b"not gzip at all")
    assert refusal(answers) == (502, "policy.uninspectable")
    assert playbook.events()[-3].part.form == journal_pb2.Part.SEALED, "the ledger has it, sealed"
    assert InspectedResponse._held == 0


async def test_parts_are_not_asked_for_and_not_taken(playbook: Playbook) -> None:
    """Half a secret in each of two parts would be seen by nobody."""
    playbook.apply(**CLIENT)
    stream = playbook.stream()
    (asks,) = await stream.on(playbook.head(headers=[("range", b"bytes=0-9")]))
    assert "range" in asks.request_headers.response.header_mutation.remove_headers
    for answer in (head(status=206), head(("content-range", b"bytes 0-9/20"))):
        stream = await asked(playbook)
        assert refusal(await answered(stream, answer, b"gh" * 5)) == (502, "policy.uninspectable")
        assert recorded(playbook).endswith(b"gh" * 5)


async def test_server_sent_events_are_masked_as_they_come(playbook: Playbook) -> None:
    playbook.apply(**CLIENT)
    stream = await asked(playbook)
    events = head(("content-type", b"text/event-stream"), ("content-length", b"99"), ("content-encoding", b"identity"))
    (answer,) = await stream.on(events)
    assert changed([answer])[1] == {"content-length", "content-encoding"}
    first = await stream.on(codec.Body("response", b"data: one\n\n", False))
    assert passed(first) == b"data: one\n\n"
    assert recorded(playbook) == b"data: one\n\n", "recorded before it passes"
    second = await stream.on(codec.Body("response", f"data: {SECRET[:20]}".encode(), False))
    third = await stream.on(codec.Body("response", f"{SECRET[20:]}\n\n".encode(), False))
    assert not stream.waiting, "what is undecided waits, for it could be half a secret"
    last = await stream.on(codec.Body("response", b"", True))
    got = passed([*second, *third, *last])
    assert got.startswith(b"data: [MASKED:github")
    assert got.endswith(b"]\n\n")
    assert stream.done


async def test_compressed_events_are_decoded(playbook: Playbook) -> None:
    playbook.apply(**CLIENT)
    stream = await asked(playbook)
    wire = gzip.compress(f"data: {SECRET}\n\n".encode())
    answers = await answered(stream, head(("content-type", b"text/event-stream"), ("content-encoding", b"gzip")), wire)
    assert changed(answers)[1] == {"content-encoding"}
    assert passed(answers).startswith(b"data: [MASKED:github")
    assert {e.part.form for e in playbook.events() if e.HasField("part")} == {journal_pb2.Part.DECODED}


@pytest.mark.parametrize("kind", ["grpc", "websocket"])
async def test_framed_streams_keep_their_lengths(playbook: Playbook, kind: str) -> None:
    playbook.apply(**CLIENT)
    if kind == "grpc":
        stream = await asked(playbook, "POST", last=False, headers=[("content-type", b"application/grpc")])
        (opened,) = await stream.on(head(("content-type", b"application/grpc")))
        frame = b"\0\0\0\0" + bytes([len(SECRET)])
    else:
        stream = await asked(playbook, last=False, headers=[("upgrade", b"websocket")])
        (opened,) = await stream.on(head(("upgrade", b"websocket"), status=101))
        frame = b"\x81" + bytes([len(SECRET)])
    assert opened.response_headers.response.ByteSize() == 0
    got = passed(await stream.on(codec.Body("response", frame + SECRET.encode() + b" ", False)))
    assert got == frame + b"*" * len(SECRET) + b" "
    if kind == "grpc":
        answers = await stream.on(codec.Trailers("response", Headers([("grpc-status", b"0")])))
        assert [a.WhichOneof("response") for a in answers] == ["response_trailers"]
        assert not stream.done, "the request goes on"
    assert SECRET.encode() not in playbook.spool.read(0, 1 << 30)


async def test_envoys_own_answer_passes(playbook: Playbook) -> None:
    playbook.apply(**CLIENT)
    stream = await asked(playbook)
    own = codec.ResponseHead(503, Headers(), "upstream_reset_before_response_started{x}", "", False)
    answers = [
        *await stream.on(own),
        *await stream.on(codec.Body("response", b'{"reason":"upstream.unreachable"}', True)),
    ]
    assert passed(answers) == b'{"reason":"upstream.unreachable"}'
    assert (stream.done, playbook.events()[-1].closed.outcome) == (True, "upstream_reset")


async def test_a_route_that_runs_otherwise_than_the_worker_believes_is_refused(playbook: Playbook) -> None:
    playbook.apply(**CLIENT)
    told = playbook.head()
    for odd in (codec.RequestHead(told.exchange, told.route, True, duplex=False),):
        (answer,) = await playbook.stream().on(odd)
        assert json.loads(answer.immediate_response.body)["reason"] == "config.unknown_route"
    plain = codec.RequestHead(told.exchange, told.route, True, duplex=True)
    playbook.apply(masking={"response": "ledger"})
    await playbook.stream().on(plain)
    assert playbook.runtime.lookup(plain.route) is not None, "the former configuration's route still has its rules"
    before = playbook.head()
    assert before.route != plain.route


async def test_what_envoy_refuses_before_a_worker_saw_it_passes_in_its_mode(playbook: Playbook) -> None:
    stream = playbook.stream()
    own = codec.ResponseHead(403, Headers(), "upgrade_failed", "", False, duplex=True)
    answers = [*await stream.on(own), *await stream.on(codec.Body("response", b"no", True))]
    assert passed(answers) == b"no"
    assert stream.done


# --- policies over responses -----------------------------------------------------------------------------------------


def rule(effect: str, when: str = "", **more: Any) -> dict[str, Any]:
    return {"name": f"a-{effect}", "effect": effect, **({"when": when} if when else {}), **more}


def verdicts(playbook: Playbook) -> list[tuple[str, str, str]]:
    found = [e.response_verdict for e in playbook.events() if e.HasField("response_verdict")]
    return [(v.decision, v.reason, ",".join(f"{h.policy}:{h.mode}" for h in v.hits)) for v in found]


async def test_what_is_flagged_passes_to_the_byte_and_is_recorded(playbook: Playbook) -> None:
    playbook.apply(policies=[rule("flag", "response.json.admin == true")])
    for body, hits in (
        (b'{"admin": true }', "a-flag:enforce"),
        (b'{"admin": false}', ""),
        (b"not JSON", "a-flag:enforce"),
    ):
        stream = await asked(playbook)
        wire = gzip.compress(body)
        answers = await answered(stream, head(("content-encoding", b"gzip"), ("etag", b"1")), wire)
        assert passed(answers) == wire
        assert changed(answers) == ({}, set())
        assert stream.done
        assert verdicts(playbook)[-1] == ("pass", "", hits)


async def test_what_is_withheld_is_in_the_ledger(playbook: Playbook) -> None:
    playbook.apply(policies=[rule("withhold", "size(response.json.users) > 1", message="no bulk exports")])
    stream = await asked(playbook)
    body = json.dumps({"users": [1, 2], "k": SECRET}).encode()
    (answer,) = await answered(stream, head(("x-of-upstream", b"1")), body)
    assert refusal([answer]) == (403, "response.withheld")
    told = json.loads(answer.immediate_response.body)
    assert told["message"] == "no bulk exports"
    assert told["exchange_id"]
    assert stream.done
    kinds = playbook.kinds()
    assert kinds[-4:] == ["response_head", "part", "response_verdict", "closed"]
    events = playbook.events()
    assert (events[-4].response_head.status, events[1].verdict.decision) == (200, "allow")
    assert b'"users": [1, 2]' in recorded(playbook)
    assert SECRET.encode() not in recorded(playbook)
    assert verdicts(playbook) == [("withhold", "response.withheld", "a-withhold:enforce")]
    assert (events[-1].closed.outcome, events[-1].closed.reason) == ("denied", "response.withheld")


async def test_a_rule_masks_its_paths_and_nothing_else(playbook: Playbook) -> None:
    playbook.apply(policies=[rule("mask", "response.status == 200", mask={"json": ["$..email"]})])
    stream = await asked(playbook)
    body = json.dumps({"user": {"Email": "a@example.com"}, "k": SECRET, "echo": API_KEY}).encode()
    answers = await answered(stream, head(("content-length", b"%d" % len(body)), ("x-k", SECRET.encode())), body)
    seen = json.loads(passed(answers))
    assert seen == {"user": {"Email": "[MASKED:json]"}, "k": SECRET, "echo": "[MASKED:credential:dd-api-key]"}
    assert changed(answers) == ({"content-length": b"%d" % len(passed(answers))}, set())
    written = playbook.spool.read(0, 1 << 30)
    assert not any(secret in written for secret in (b"a@example.com", SECRET.encode(), API_KEY.encode()))
    assert verdicts(playbook) == [("mask", "", "a-mask:enforce")]


async def test_a_mask_without_paths_gives_the_client_what_the_ledger_gets(playbook: Playbook) -> None:
    playbook.apply(policies=[rule("mask")])
    stream = await asked(playbook)
    answers = await answered(stream, head(("x-k", SECRET.encode())), json.dumps({"k": SECRET}).encode())
    assert SECRET.encode() not in passed(answers) + changed(answers)[0]["x-k"]


async def test_what_is_only_observed_changes_nothing(playbook: Playbook) -> None:
    playbook.apply(policies=[rule("withhold", mode="observe")])
    stream = await asked(playbook)
    assert passed(await answered(stream, head(), b"[1]")) == b"[1]"
    assert verdicts(playbook) == [("pass", "", "a-withhold:observe")]


@pytest.mark.parametrize("effect", ["withhold", "mask"])
async def test_what_cannot_be_judged_is_withheld(playbook: Playbook, effect: str) -> None:
    playbook.apply(
        policies=[rule(effect, "response.json.a == 1")], connections={"datadog": {"max_inspect_response": 99}}
    )
    part, events = head(status=206), head(("content-type", b"text/event-stream"))
    heavy = head(("content-length", b"100"))
    for answer, body, reason in (
        (head(), b"no JSON", "policy.uninspectable"),
        (head(), b'{"b": 1}', "policy.uninspectable"),
        (part, b'{"a": 2}', "policy.uninspectable"),
        (events, None, "policy.uninspectable"),
        (heavy, None, "response.too_large"),
    ):
        stream = await asked(playbook)
        answers = await stream.on(answer) if body is None else await answered(stream, answer, body)
        assert refusal(answers) == (502, reason)
        assert stream.done
        assert verdicts(playbook)[-1][:2] == ("withhold", reason)


async def test_a_rule_over_the_head_needs_no_body(playbook: Playbook) -> None:
    """Downloads and events go on, whatever their size, where the status alone decides."""
    playbook.apply(
        policies=[rule("withhold", "response.status >= 500"), rule("flag", "response.size > 50")],
        connections={"datadog": {"max_inspect_response": 99}},
    )
    stream = await asked(playbook)
    assert await stream.on(head(TEXT)) == []
    assert await stream.on(codec.Body("response", b"a " * 30, False)) == []
    first = await stream.on(codec.Body("response", b"b " * 30, False))
    assert playbook.kinds()[-3:] == ["response_verdict", "response_head", "part"]
    rest = await stream.on(codec.Body("response", b"c" * 1000, True))
    assert passed([*first, *rest]) == b"a " * 30 + b"b " * 30 + b"c" * 1000
    assert stream.done

    stream = await asked(playbook)
    assert refusal(await stream.on(head(TEXT, ("content-length", b"1000"), status=500))) == (403, "response.withheld")

    stream = await asked(playbook)
    (opened,) = await stream.on(head(("content-type", b"text/event-stream")))
    assert opened.HasField("response_headers")
    assert passed(await stream.on(codec.Body("response", b"data: 1\n\n", False))) == b"data: 1\n\n"


async def test_paths_cannot_be_masked_in_events(playbook: Playbook) -> None:
    playbook.apply(policies=[rule("mask", "response.status == 200", mask={"json": ["$.a"]})])
    events = head(("content-type", b"text/event-stream"))
    assert refusal(await (await asked(playbook)).on(events)) == (502, "policy.uninspectable")
    failed = head(("content-type", b"text/event-stream"), status=500)
    (opened,) = await (await asked(playbook)).on(failed)
    assert opened.HasField("response_headers"), "the rule does not match"


async def test_an_early_end_is_recorded_as_masked_as_any_rule_could_ask(playbook: Playbook) -> None:
    playbook.apply(policies=[rule("mask", "response.json.never", mask={"json": ["$.email"]})])
    stream = await asked(playbook)
    await stream.on(head())
    await stream.on(codec.Body("response", b'{"email": "a@example.com", "other": 1, ', False))
    stream.on_abort("gate.cancelled")
    assert b"a@example.com" not in playbook.spool.read(0, 1 << 30)
    assert b'"other"' in recorded(playbook)


async def test_only_requests_that_a_rule_fits_wait(playbook: Playbook) -> None:
    playbook.apply(policies=[rule("withhold", match={"requests": ["GET /secret/**"]})])
    stream = await asked(playbook)
    (answer,) = await stream.on(head(TEXT))
    assert answer.HasField("response_headers")
    first = await stream.on(codec.Body("response", b"some text and an unfinished wo", False))
    assert stream.waiting
    idle = await stream.on_idle()
    assert not stream.waiting
    last = await stream.on(codec.Body("response", b"rd", True))
    assert passed([*first, *idle, *last]) == b"some text and an unfinished word"
    assert recorded(playbook) == b"some text and an unfinished word"
    assert not verdicts(playbook)


async def test_a_policy_of_another_connection_leaves_this_ones_route_alone(playbook: Playbook) -> None:
    other = {**playbook.text["connections"]["datadog"], "listen": "127.0.0.1:15009", "hosts": []}
    playbook.apply(connections={"other": other}, policies=[rule("flag", match={"connection": "other"})], grants=[])
    routes = {c.name: c.inspected for c in playbook.runtime.current.connections.values()}
    assert routes == {"datadog": False, "other": True}
