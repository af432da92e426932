"""HAR files: what tools write, and what nobody should."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from ext_proc.backtest.har import Har
from ext_proc.errors import DouaneError
from tests.unit.backtest.exchanges import CALLER

HOSTS = ["api.datadoghq.com", "127.0.0.1:15001"]


def entry(**changes: Any) -> dict[str, Any]:
    """As Chrome writes it."""
    request = {
        "method": "POST",
        "url": "https://api.datadoghq.com/api/v1/dashboard?force=true",
        "httpVersion": "http/2.0",
        "headers": [{"name": ":authority", "value": "api.datadoghq.com"}, {"name": "Content-Type", "value": "text/x"}],
        "queryString": [{"name": "force", "value": "true"}],
        "bodySize": 15,
        "postData": {"mimeType": "application/json", "text": '{"title": "é"}'},
        **changes.pop("request", {}),
    }
    response = {
        "status": 200,
        "headers": [{"name": "content-encoding", "value": "gzip"}],
        "content": {"size": 2, "mimeType": "application/json", "text": "{}"},
        **changes.pop("response", {}),
    }
    return {
        "startedDateTime": "2026-05-09T12:00:00.250+02:00",
        "time": 1,
        "request": request,
        "response": response,
        **changes,
    }


def har(tmp_path: Path, *entries: Any, text: bytes | None = None) -> Har:
    path = tmp_path / "session.har"
    path.write_bytes(text if text is not None else json.dumps({"log": {"version": "1.2", "entries": entries}}).encode())
    return Har(path, "datadog", HOSTS, CALLER)


def test_an_entry_becomes_an_exchange(tmp_path: Path) -> None:
    (found,) = har(tmp_path, entry())
    exchange = found.exchange
    assert (exchange.method, exchange.path, exchange.query) == ("POST", "/api/v1/dashboard", "force=true")
    assert (exchange.connection, exchange.authority) == ("datadog", "api.datadoghq.com")
    assert exchange.headers.items == [("host", b"api.datadoghq.com"), ("content-type", b"text/x")]
    assert exchange.received_us == 1_778_320_800_250_000
    assert found.request.body == '{"title": "é"}'.encode()
    assert (found.status, found.decision, found.caller) == (200, "allow", CALLER)
    assert found.response is not None
    assert (found.response.body, found.response.decoded) == (b"{}", True)


def test_entries_are_in_order_of_time_and_other_hosts_are_counted(tmp_path: Path) -> None:
    later = entry(startedDateTime="2026-05-09T13:00:00Z", request={"url": "http://127.0.0.1:15001/b"})
    earlier = entry(startedDateTime="2026-05-09T11:00:00Z", request={"url": "https://API.datadoghq.com:443"})
    others = [entry(request={"url": url}) for url in ("https://cdn.example/x", "data:text/html,x", "wss://a.example/")]
    found = har(tmp_path, later, earlier, *others)
    assert [(r.exchange.path, r.exchange.authority) for r in found] == [
        ("/", "api.datadoghq.com"),
        ("/b", "127.0.0.1:15001"),
    ]
    assert dict(found.others) == {"cdn.example": 1, "data:": 1, "wss:": 1}


@pytest.mark.parametrize(
    ("request_", "body", "missing"),
    [
        ({"postData": None, "bodySize": 0}, b"", ""),
        ({"postData": None, "bodySize": -1}, b"", ""),
        ({"postData": None, "bodySize": 12}, b"", "the file does not have it"),
        ({"postData": {"mimeType": "x", "text": "AAEC", "encoding": "base64"}}, b"\0\1\2", ""),
        (
            {"postData": {"mimeType": "application/x-www-form-urlencoded; charset=utf-8",
                          "params": [{"name": "a b", "value": "1&2"}, {"name": "c"}]}},
            b"a+b=1%262&c=",
            "",
        ),
        (
            {"postData": {"mimeType": "multipart/form-data", "params": [{"name": "f", "fileName": "x"}]}},
            b"",
            "the file has its parts, not the body",
        ),
    ],
)  # fmt: skip
def test_bodies(tmp_path: Path, request_: dict[str, Any], body: bytes, missing: str) -> None:
    (found,) = har(tmp_path, entry(request=request_))
    assert (found.request.body, found.request.missing) == (body, missing)


def test_a_byte_order_mark_and_binary_answers(tmp_path: Path) -> None:
    content = {"size": 2, "text": base64.b64encode(b"\xff\xfe").decode(), "encoding": "base64"}
    text = json.dumps({"log": {"entries": [entry(response={"content": content})]}}).encode()
    (found,) = har(tmp_path, text=b"\xef\xbb\xbf" + text)
    assert found.response is not None
    assert found.response.body == b"\xff\xfe"


MALFORMED: dict[str, tuple[Any, str]] = {
    "no log": (b"{}", "the file: there is no log"),
    "not an object": (b"[]", "the file: there is no log"),
    "entries": (b'{"log": {"entries": {}}}', "log: there is no entries, or it is no list"),
    "not JSON": (b"{", "this is no JSON"),
    "not UTF-8": (b"\xff{}", "it is not UTF-8"),
    "deep": (b"[" * 200_000, "nested too deep"),
    "entry": (entry() | {"request": 7}, "entry 1: there is no request"),
    "url": (entry(request={"url": 5}), "entry 1: there is no url, or it is no text"),
    "port": (entry(request={"url": "https://api.datadoghq.com:99999/"}), "entry 1: its url is none"),
    "bracket": (entry(request={"url": "https://[::1/"}), "entry 1: its url is none"),
    "spaces": (entry(request={"url": "https://api.datadoghq.com/a b\u2028"}), "entry 1: its method or url is none"),
    "method": (entry(request={"method": "GET /x"}), "entry 1: its method or url is none"),
    "status": (entry(response={"status": True}), "entry 1: there is no status, or it is no number"),
    "time": (entry(startedDateTime="yesterday"), "entry 1: its startedDateTime is no time"),
    "header": (entry(request={"headers": [{"name": "a b", "value": ""}]}), "entry 1: it has a header whose name"),
    "headers": (entry(request={"headers": {"a": "b"}}), "entry 1: there is no headers, or it is no list"),
    "value": (entry(request={"headers": [{"name": "a", "value": None}]}), "entry 1: there is no value"),
    "base64": (
        entry(request={"postData": {"text": "*", "encoding": "base64"}}),
        "entry 1: it has a body that is no base64",
    ),
    "postData": (entry(request={"postData": [1]}), "entry 1: its postData is no object"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_har_is_refused_and_nothing_of_it_is_repeated(tmp_path: Path, what: str) -> None:
    made, message = MALFORMED[what]
    with pytest.raises(DouaneError) as refused:
        har(tmp_path, text=made) if isinstance(made, bytes) else har(tmp_path, made)
    assert refused.value.reason == "har.malformed"
    assert message in refused.value.message


def test_hostile_values_are_values(tmp_path: Path) -> None:
    lone = entry(
        request={"headers": [{"name": "x", "value": "\ud800\n"}], "postData": {"text": "\udc00"}},
        startedDateTime="0001-01-01T00:00:00+23:59",
        response={"content": {"text": 5, "size": "x"}},
    )
    with pytest.raises(DouaneError, match="startedDateTime"):
        har(tmp_path, lone)
    (found,) = har(tmp_path, lone | {"startedDateTime": "1969-01-01T00:00:00Z"})
    assert found.exchange.received_us == 0
    assert found.request.body == b"?"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DouaneError) as refused:
        Har(tmp_path / "none.har", "datadog", HOSTS, None)
    assert refused.value.reason == "har.unreadable"
