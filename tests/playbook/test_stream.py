"""Phases in, answers and journal out: each promise of the data path, without Envoy."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import Any

import pytest

from ext_proc import codec
from ext_proc.approvals import Shown
from ext_proc.errors import Cut, HubError
from ext_proc.exchange import Headers
from ext_proc.pb.envoy_ext_proc_pb2 import ProcessingResponse
from ext_proc.stages.approval import ApprovalStage
from ext_proc.stream import Stream
from tests.dataplane.stack import API_KEY, APP_KEY, PLACEHOLDER
from tests.playbook.conftest import Playbook

OK = codec.ResponseHead(200, Headers([("content-type", b"application/json")]), "via_upstream", "127.0.0.1:9", False)


def reason(answers: list[ProcessingResponse]) -> str:
    """The reason of the one refusal among the answers."""
    (answer,) = answers
    assert answer.WhichOneof("response") == "immediate_response"
    return str(json.loads(answer.immediate_response.body)["reason"])


def put(answer: ProcessingResponse) -> dict[str, bytes]:
    return {o.header.key: o.header.raw_value for o in answer.request_headers.response.header_mutation.set_headers}


def streamed(answers: list[ProcessingResponse]) -> bytes:
    return b"".join(a.request_body.response.body_mutation.streamed_response.body for a in answers)


async def test_a_get_is_recorded_before_its_head_goes_on(playbook: Playbook) -> None:
    stream = playbook.stream()
    (answer,) = await stream.on(playbook.head(query="a=1"))
    assert playbook.kinds() == ["opened", "verdict"]
    assert put(answer) == {"dd-api-key": API_KEY.encode(), "dd-application-key": APP_KEY.encode()}
    assert set(answer.request_headers.response.header_mutation.remove_headers) >= {"dd-api-key", "dd-application-key"}
    assert answer.dynamic_metadata.fields["gate"].struct_value.fields["verdict"].string_value == "allow"


async def test_the_whole_exchange(playbook: Playbook) -> None:
    stream = playbook.stream()
    assert await stream.on(playbook.head("POST", last=False)) == []
    answers = await stream.on(codec.Body("request", b'{"title":"x"}', last=True))
    assert streamed(answers[1:]) == b'{"title":"x"}'
    assert answers[-1].request_body.response.body_mutation.streamed_response.end_of_stream
    await stream.on(OK)
    (chunk,) = await stream.on(codec.Body("response", b'{"id":"abc"}', last=True))
    assert chunk.WhichOneof("response") == "response_body"
    assert stream.done
    assert playbook.kinds() == ["opened", "part", "verdict", "response_head", "part", "closed"]
    assert playbook.events()[-1].closed.outcome == "complete"


async def test_nothing_secret_is_in_the_journal(playbook: Playbook) -> None:
    stream = playbook.stream()
    await stream.on(playbook.head("POST", last=False, query=f"k={PLACEHOLDER}"))
    await stream.on(codec.Body("request", f'{{"t":"{playbook.token}"}}'.encode(), last=True))
    await stream.on(OK)
    (chunk,) = await stream.on(codec.Body("response", f'{{"you sent":"{API_KEY}"}}'.encode(), last=True))
    assert API_KEY.encode() not in chunk.response_body.response.body_mutation.body, "the client must not see it either"
    assert len(chunk.response_body.response.body_mutation.body) == len(f'{{"you sent":"{API_KEY}"}}')
    written = playbook.spool.read(0, 1 << 30)
    for secret in (playbook.token, API_KEY, APP_KEY, PLACEHOLDER):
        assert secret.encode() not in written
    assert {m.detector for e in playbook.events() for m in e.opened.masks} >= {"token", "placeholder"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"token": ""}, "identity.missing"),
        ({"token": "not.a.token"}, "identity.malformed"),
        ({"headers": [("dd-api-key", b"x")]}, "identity.duplicate_header"),
        ({"method": "TRACE"}, "request.method"),
        ({"headers": [("x-http-method-override", b"DELETE")]}, "request.method_override"),
        ({"query": "%5fmethod=delete"}, "request.method_override"),
        ({"path": "/.douane/other"}, "request.reserved_path"),
        ({"path": "/a%00b"}, "request.path"),
    ],
)
async def test_a_refusal_is_recorded_and_final(playbook: Playbook, change: dict[str, object], expected: str) -> None:
    stream = playbook.stream()
    assert reason(await stream.on(playbook.head(**change))) == expected  # type: ignore[arg-type]
    assert stream.done
    assert playbook.kinds() == ["opened", "verdict", "response_head", "part", "closed"]
    events = playbook.events()
    assert (events[1].verdict.decision, events[1].verdict.reason) == ("deny", expected)
    assert events[-1].closed.outcome == "denied"
    assert events[2].response_head.status >= 400


async def test_no_grant_no_request(playbook: Playbook) -> None:
    playbook.apply(grants=[])
    stream = playbook.stream()
    await stream.on(playbook.head("POST", last=False))
    assert reason(await stream.on(codec.Body("request", b"what it tried", last=True))) == "grant.none"
    assert playbook.kinds()[:3] == ["opened", "part", "verdict"], "the attempt is recorded with its body"


async def test_a_policy_reads_the_body_even_compressed(playbook: Playbook) -> None:
    rule = {"name": "no-iframes", "effect": "deny", "when": "find(request.json, 'type').exists(t, t == 'iframe')"}
    playbook.apply(policies=[rule])
    body = json.dumps({"widgets": [{"definition": {"type": "iframe"}}]}).encode()
    for sent, headers in ((body, []), (gzip.compress(body), [("content-encoding", b"gzip")])):
        stream = playbook.stream()
        await stream.on(playbook.head("POST", last=False, headers=headers))
        assert reason(await stream.on(codec.Body("request", sent, last=True))) == "policy.denied"
    stream = playbook.stream()
    await stream.on(playbook.head("POST", last=False))
    assert reason(await stream.on(codec.Body("request", b"not json", last=True))) == "policy.uninspectable"
    stream = playbook.stream()
    await stream.on(playbook.head("POST", last=False, headers=[("content-encoding", b"br")]))
    answers = await stream.on(codec.Body("request", b'{"plain": "JSON that claims to be coded"}', last=True))
    assert reason(answers) == "policy.uninspectable"


async def test_a_large_body_is_decided_on_its_head_unless_a_rule_needs_it(playbook: Playbook) -> None:
    playbook.apply(connections={"datadog": {"max_inspect": 10}})
    stream = playbook.stream()
    assert await stream.on(playbook.head("POST", last=False)) == []
    answers = await stream.on(codec.Body("request", b"x" * 11, last=False))
    assert streamed(answers) + streamed(await stream.on(codec.Body("request", b"y", last=True))) == b"x" * 11 + b"y"
    playbook.apply(
        connections={"datadog": {"max_inspect": 10}},
        policies=[{"name": "p", "effect": "deny", "when": "request.json.a == 1"}],
    )
    stream = playbook.stream()
    await stream.on(playbook.head("POST", last=False))
    assert reason(await stream.on(codec.Body("request", b"x" * 11, last=False))) == "policy.uninspectable"


async def test_upgrades_are_answered_at_once(playbook: Playbook) -> None:
    stream = playbook.stream()
    (answer,) = await stream.on(playbook.head(last=False, headers=[("upgrade", b"websocket")]))
    assert answer.WhichOneof("response") == "request_headers"
    (passed,) = await stream.on(codec.Body("request", b"\x81\x05hello", last=False))
    assert passed.request_body.response.body_mutation.streamed_response.body == b"\x81\x05hello"


async def test_an_undecodable_request_is_refused_before_anything_goes_on(playbook: Playbook) -> None:
    stream = playbook.stream()
    await stream.on(playbook.head("POST", last=False, headers=[("content-encoding", b"gzip")]))
    assert reason(await stream.on(codec.Body("request", b"not gzip", last=True))) == "body.undecodable"


async def test_an_unknown_response_coding_is_refused_while_it_can_be(playbook: Playbook) -> None:
    stream = playbook.stream()
    await stream.on(playbook.head())
    coded = codec.ResponseHead(200, Headers([("content-encoding", b"compress")]), "via_upstream", "", False)
    assert reason(await stream.on(coded)) == "body.undecodable"
    assert playbook.events()[-1].closed.outcome == "denied"


async def test_a_corrupt_response_is_refused_which_cuts_it_where_its_head_has_left(playbook: Playbook) -> None:
    stream = playbook.stream()
    await stream.on(playbook.head())
    await stream.on(codec.ResponseHead(200, Headers([("content-encoding", b"gzip")]), "via_upstream", "", False))
    assert reason(await stream.on(codec.Body("response", b"not gzip at all", last=True))) == "body.undecodable"
    assert (stream.done, playbook.events()[-1].closed.outcome) == (True, "denied")


async def test_a_secret_split_across_chunks_waits_and_is_masked(playbook: Playbook) -> None:
    stream = playbook.stream()
    await stream.on(playbook.head())
    await stream.on(OK)
    secret = "ghp_" + "a1B2c3D4e5F6" * 3
    first, second = f'{{"v":"{secret[:20]}'.encode(), f'{secret[20:]}"}}'.encode()
    assert await stream.on(codec.Body("response", first, last=False)) == []
    assert stream.waiting
    answers = await stream.on(codec.Body("response", second, last=True))
    assert len(answers) == 2, "both chunks are acknowledged, each as it came"
    assert secret[:20].encode() not in playbook.spool.read(0, 1 << 30)
    assert any(m.detector.startswith("github") for e in playbook.events() for m in e.part.masks)


async def test_a_pause_does_not_hold_the_client_up(playbook: Playbook) -> None:
    stream = playbook.stream()
    await stream.on(playbook.head())
    await stream.on(OK)
    await stream.on(codec.Body("response", b"unfinished", last=False))
    assert len(await stream.on_idle()) == 1
    assert not stream.waiting
    await stream.on(codec.Body("response", b" word", last=True))
    parts = b"".join(e.part.data for e in playbook.events() if e.WhichOneof("event") == "part")
    assert parts == b"unfinished word"


async def test_response_trailers_end_the_exchange(playbook: Playbook) -> None:
    stream = playbook.stream()
    await stream.on(playbook.head())
    await stream.on(OK)
    await stream.on(codec.Body("response", b"tail", last=False))
    answers = await stream.on(codec.Trailers("response", Headers([("grpc-status", b"0")])))
    assert [a.WhichOneof("response") for a in answers] == ["response_body", "response_trailers"]
    assert stream.done
    assert playbook.kinds()[-2:] == ["trailers", "closed"]


async def test_the_watermark_waits_for_an_awaited_body(playbook: Playbook) -> None:
    began = playbook.spool.watermark_us
    stream = playbook.stream()
    head = replace(head := playbook.head("POST", last=False), exchange=replace(head.exchange, received_us=began))
    await stream.on(head)
    await stream.on(codec.Body("request", b"{", last=False))
    assert playbook.spool.watermark_us == began
    await stream.on(codec.Body("request", b"}", last=True))
    assert playbook.events()[0].at_us == began
    assert playbook.spool.watermark_us > began


async def test_a_credential_in_head_or_trailers_is_blanked_for_the_client(playbook: Playbook) -> None:
    stream = playbook.stream()
    await stream.on(playbook.head())
    echoed = Headers([("x-key", API_KEY.encode()), ("x-key", b"other"), ("x-fine", b"1")])
    (head,) = await stream.on(codec.ResponseHead(200, echoed, "via_upstream", "", False))
    mutation = head.response_headers.response.header_mutation
    blank = b"*" * len(API_KEY)
    assert list(mutation.remove_headers) == ["x-key"]
    assert [o.header.raw_value for o in mutation.set_headers] == [blank, b"other"]
    (trailers,) = await stream.on(codec.Trailers("response", Headers([("x-debug", APP_KEY.encode())])))
    assert [o.header.raw_value for o in trailers.response_trailers.header_mutation.set_headers] == [b"*" * len(APP_KEY)]


async def test_compressed_frames_are_not_agreed_on(playbook: Playbook) -> None:
    headers = [("upgrade", b"websocket"), ("sec-websocket-extensions", b"permessage-deflate")]
    (answer,) = await playbook.stream().on(playbook.head(last=False, headers=headers))
    assert "sec-websocket-extensions" in answer.request_headers.response.header_mutation.remove_headers


async def test_an_http1_client_that_has_all_it_was_promised_may_leave(playbook: Playbook) -> None:
    """Envoy says that a body ends after its last byte has passed: the end is recorded with that byte."""
    for protocol, closed in (("HTTP/1.1", True), ("HTTP/2", False)):
        stream = playbook.stream()
        head = playbook.head()
        await stream.on(replace(head, exchange=replace(head.exchange, protocol=protocol)))
        await stream.on(replace(OK, headers=Headers([("content-type", b"text/plain"), ("content-length", b"10")])))
        await stream.on(codec.Body("response", b"12345", last=False))
        assert playbook.kinds()[-1] == "response_head"
        answers = await stream.on(codec.Body("response", b"67890", last=False))
        assert (playbook.kinds()[-1] == "closed") is closed
        assert not stream.done
        assert len(answers) == (2 if closed else 0), "nothing of it waits for more"
        stream.on_abort("gate.cancelled")
        assert [e.closed.outcome for e in playbook.events() if e.HasField("closed")][-1] == (
            "complete" if closed else ""
        )

    stream = playbook.stream()
    head = playbook.head()
    await stream.on(replace(head, exchange=replace(head.exchange, protocol="HTTP/1.1")))
    await stream.on(replace(OK, headers=Headers([("content-length", b"2")])))
    await stream.on(codec.Body("response", b"ab", last=False))
    with pytest.raises(Cut):
        await stream.on(codec.Body("response", b"c", last=True))


async def test_an_abort_leaves_the_outcome_to_the_access_log(playbook: Playbook) -> None:
    stream = playbook.stream()
    await stream.on(playbook.head())
    await stream.on(OK)
    await stream.on(codec.Body("response", b"half of a wor", last=False))
    stream.on_abort("gate.cancelled")
    last = playbook.events()[-1].closed
    assert (last.outcome, last.reason) == ("", "gate.cancelled")
    parts = b"".join(e.part.data for e in playbook.events() if e.WhichOneof("event") == "part")
    assert parts == b"half of a wor", "what was held is written too"


async def test_an_upstream_that_fails_is_told_apart(playbook: Playbook) -> None:
    for details, outcome in (
        ("upstream_reset_before_response_started{connection_failure}", "upstream_reset"),
        ("response_timeout", "timed_out"),
    ):
        stream = playbook.stream()
        await stream.on(playbook.head())
        await stream.on(codec.ResponseHead(503, Headers(), details, "", True))
        assert playbook.events()[-1].closed.outcome == outcome


async def test_a_changed_upstream_never_gets_the_credential_by_an_old_route(playbook: Playbook) -> None:
    old = playbook.head()
    playbook.apply(connections={"datadog": {"upstream": "http://127.0.0.1:10"}})
    playbook.apply(connections={"datadog": {"upstream": "http://127.0.0.1:11"}})
    assert reason(await playbook.stream().on(old)) == "config.unknown_route"


async def test_session_keys_need_the_hub(playbook: Playbook) -> None:
    assert reason(await playbook.stream().on(playbook.head("POST", "/.douane/session"))) == "hub.unavailable"


async def test_a_credential_that_is_away_forwards_nothing(playbook: Playbook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOUANE_TEST_API_KEY")
    playbook.apply()
    assert reason(await playbook.stream().on(playbook.head())) == "credential.unavailable"


async def test_awaited_bodies_are_bounded_together(playbook: Playbook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hundred clients that each kept a megabyte back took 800 MB of two workers."""
    monkeypatch.setattr("ext_proc.stream.MOST_AWAITED", 10)
    slow, gone, next_one = playbook.stream(), playbook.stream(), playbook.stream()
    for stream in (slow, gone, next_one):
        assert await stream.on(playbook.head("POST", last=False)) == []
    assert await slow.on(codec.Body("request", b"12345", last=False)) == []
    assert await gone.on(codec.Body("request", b"12345", last=False)) == []
    answers = await next_one.on(codec.Body("request", b"1", last=False))
    assert [a.WhichOneof("response") for a in answers[:1]] == ["request_headers"], (
        "decided on its head, as a body that is too large to be awaited"
    )
    gone.on_abort("the client left")
    assert streamed((await slow.on(codec.Body("request", b"6", last=True)))[1:]) == b"123456"
    assert Stream._awaited == 0


async def test_trailers_say_nothing_that_the_head_may_not(playbook: Playbook) -> None:
    stream = playbook.stream()
    await stream.on(playbook.head("POST", last=False))
    await stream.on(codec.Body("request", b"1", last=False))
    names = ["dd-api-key", "dd_api_key", "authorization", "x-http-method-override", "x-checksum"]
    *_, answer = await stream.on(codec.Trailers("request", Headers([(n, b"x") for n in names])))
    assert set(answer.request_trailers.header_mutation.remove_headers) == set(names) - {"x-checksum"}
    (sent,) = [event.trailers.trailers for event in playbook.events() if event.WhichOneof("event") == "trailers"]
    assert [field.name for field in sent] == names, "recorded as the client sent them"


@pytest.mark.parametrize(
    "change",
    [
        {"headers": [("x_http_method_override", b"DELETE")]},
        {"headers": [("x-http_method-override", b"DELETE")]},
        {"query": "a=1;_method=DELETE"},
        {"query": "+_method=DELETE"},
    ],
)
async def test_no_spelling_of_an_override_passes(playbook: Playbook, change: dict[str, Any]) -> None:
    assert reason(await playbook.stream().on(playbook.head(**change))) == "request.method_override"


_FORM, _PARTS = b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("kind", "body", "refused"),
    [
        (_FORM, b"_method=DELETE", True),
        (_FORM, b"a=1&%5Fm%65thod=put", True),
        (_FORM, b"a=1;+_METHOD=DELETE&b=2", True),
        (_FORM + b"; charset=utf-8", b"_method", True),
        (b"", b"_method=DELETE", True),
        (_PARTS, b'--b\r\nContent-Disposition: form-data; name="_method"\r\n\r\nDELETE\r\n--b--', True),
        (_PARTS, b"--b\r\ncontent-disposition:form-data; x=y; name=_method\r\n\r\nDELETE\r\n--b--", True),
        (_FORM, b"payment_method=card&a=_method&_method[]=x&_methods=1", False),
        (_PARTS, b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n<input name="_method">\r\n--b--', False),
        (b"application/json", b'{"a": "x&_method=DELETE"}', False),
    ],
)
async def test_a_form_does_not_override_the_method(playbook: Playbook, kind: bytes, body: bytes, refused: bool) -> None:
    for method, expected in (("POST", refused), ("PUT", False)):
        stream = playbook.stream()
        headers = [("content-type", kind)] if kind else []
        await stream.on(playbook.head(method, last=False, headers=headers))
        answers = await stream.on(codec.Body("request", body, last=True))
        assert (bool(answers[0].immediate_response.body) and reason(answers) == "request.method_override") is expected


async def test_a_credential_in_the_name_of_a_field_stops_the_answer(playbook: Playbook) -> None:
    stream = playbook.stream()
    await stream.on(playbook.head())
    (answer,) = await stream.on(replace(OK, headers=Headers([(f"x-{API_KEY}", b"1")])))
    assert reason([answer]) == "response.credential_echo"
    assert API_KEY.encode() not in playbook.spool.read(0, 1 << 30)


async def test_the_credential_is_the_only_parameter_of_its_name(playbook: Playbook) -> None:
    source = {"query": "api_key", "from": {"env": "DOUANE_TEST_API_KEY"}}
    playbook.apply(connections={"datadog": {"credentials": [source]}})
    query = "a=1;api_key=x&b&&api_key=x&API_KEY=x&api%5Fkey=x&api_key[]=x&api.key=x&+api_key=x&api_key%00=x&api_keys=2"
    (answer,) = await playbook.stream().on(playbook.head(query=query))
    assert put(answer)[":path"] == f"/api/v1/dashboard?a=1&b&&api_keys=2&api_key={API_KEY}".encode()


async def test_compressed_grpc_messages_are_refused_like_any_other_unknown_coding(playbook: Playbook) -> None:
    grpc = [("content-type", b"application/grpc"), ("grpc-accept-encoding", b"gzip")]
    stream = playbook.stream()
    (answer,) = await stream.on(playbook.head("POST", last=False, headers=[*grpc, ("grpc-encoding", b"gzip")]))
    assert "grpc-accept-encoding" in answer.request_headers.response.header_mutation.remove_headers
    assert reason(await stream.on(codec.Body("request", b"\1\0\0\0\1x", last=True))) == "body.undecodable"
    stream = playbook.stream()
    await stream.on(playbook.head("POST", last=False, headers=[*grpc, ("grpc-encoding", b"identity")]))
    assert streamed(await stream.on(codec.Body("request", b"\0\0\0\0\1x", last=True))) == b"\0\0\0\0\1x"
    coded = Headers([("content-type", b"application/grpc"), ("grpc-encoding", b"gzip")])
    assert reason(await stream.on(replace(OK, headers=coded))) == "body.undecodable"


async def test_one_token_does_not_prove_both_the_caller_and_the_workload(playbook: Playbook) -> None:
    (playbook.folder / "pod").write_text(playbook.token)
    playbook.apply(gate={"workload_token_file": "./pod"}, connections={"datadog": {"identity": {"require": "both"}}})
    assert reason(await playbook.stream().on(playbook.head())) == "identity.same"
    assert reason(await playbook.stream().on(playbook.head(token=""))) == "identity.missing"


async def test_approvers_are_shown_trailers_and_how_much_they_cannot_see(
    playbook: Playbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Shown] = []

    async def no_hub(_stage: ApprovalStage, _request: Any, _body: bytes, _trailers: Headers, shown: Shown) -> None:
        held.append(shown)
        raise HubError("hub.unavailable", "the hub is away")

    monkeypatch.setattr(ApprovalStage, "open", no_hub)
    playbook.apply(
        recording={"seal_key": {"env": "DOUANE_TEST_API_KEY"}},
        connections={"datadog": {"undecodable": "seal"}},
        policies=[{"name": "all", "effect": "hold", "when": "true", "approvers": ["local"]}],
    )
    for body in (b"{}", b"not gzip at all", gzip.compress(bytes(1000))[:-4]):
        stream = playbook.stream()
        coding = [] if body == b"{}" else [("content-encoding", b"gzip")]
        assert await stream.on(playbook.head("POST", last=False, headers=coding)) == []
        assert await stream.on(codec.Body("request", body, False)) == []
        trailers = Headers([("x-scope", b"all"), ("x-token", playbook.token.encode())])
        await stream.on(codec.Trailers("request", trailers))
        shown = held.pop()
        assert dict(shown.headers)["x-scope (trailer)"] == b"all"
        assert dict(shown.headers)["x-token (trailer)"].startswith(b"[MASKED:")
        assert (shown.body, shown.body_size) == (b"{}" if body == b"{}" else b"", len(body))
