"""What the other tests configure one way, configured the other ways: places and sources of credentials, durabilities,
whose identity is required, and bodies that cannot be decoded."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from ext_proc.masking import unseal
from tests.dataplane.background import Background
from tests.dataplane.ledger import Ledger
from tests.dataplane.stack import API_KEY, APP_KEY, Stack, douane_up, free_ports
from tests.dataplane.upstreams import web
from tests.issuer import LoopbackIssuer

pytestmark = pytest.mark.dataplane

SEAL_KEY = bytes(range(32))
CONNECTIONS: dict[str, dict[str, Any]] = {
    "query": {"credentials": [{"query": "api_key", "name": "in-query", "from": {"env": "DOUANE_TEST_API_KEY"}}]},
    "basic": {"credentials": [{"basic": "robot", "from": {"file": "./app-key"}}]},
    "bearer": {"credentials": [{"bearer": True, "from": {"exec": ["cat", "app-key"], "lifetime": "1m"}}]},
    "broken": {"credentials": [{"bearer": True, "from": {"exec": ["false"]}}]},
    "both": {"credentials": [], "identity": {"headers": ["authorization"], "require": "both"}},
    "sealing": {"credentials": [], "undecodable": "seal"},
}


class Variants:
    def __init__(self, stack: Stack, token: str) -> None:
        self.ports = {
            name: connection["listen"].rpartition(":")[2] for name, connection in stack.config["connections"].items()
        }
        self.token = token
        self.ledger = Ledger(stack)

    def call(self, name: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        fields = {"authorization": f"Bearer {self.token}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[name]}{path}", body, fields)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@pytest.fixture(scope="module", params=["disk", "hub"])
def variants(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    issuer: LoopbackIssuer,
    servers: Background,
) -> Iterator[Variants]:
    folder = tmp_path_factory.mktemp(request.param)
    upstream = servers.enter(web())
    (folder / "workload-token").write_text(
        issuer.token(sub="system:serviceaccount:ci:runner", run_id="2002", repository_id="75")
    )
    (folder / "seal-key").write_text(base64.b64encode(SEAL_KEY).decode())
    connections = {
        name: {
            "listen": f"127.0.0.1:{port}",
            "upstream": upstream.url,
            "identity": {"headers": ["authorization"]},
            "scopes": {"everything": ["* /**"]},
        }
        | settings
        for (name, settings), port in zip(CONNECTIONS.items(), free_ports(len(CONNECTIONS)), strict=True)
    }
    everything = {name: ["everything"] for name in ("datadog", *CONNECTIONS)}
    grant = {"name": "all", "issuer": "github", "if": "claims.repository_id == '74'", "allow": everything}
    recording = {"durability": request.param, "seal_key": {"file": "./seal-key"}}
    gate = {"workload_token_file": "./workload-token"}
    with douane_up(
        folder, issuer.url, upstream.url, connections=connections, grants=[grant], recording=recording, gate=gate
    ) as stack:
        yield Variants(stack, issuer.token())


def echoed(body: bytes) -> tuple[str, list[tuple[str, str]]]:
    seen = json.loads(body)
    return seen["target"], [(name.lower(), value) for name, value in seen["headers"]]


def test_a_credential_in_the_query_takes_the_place_of_what_was_sent(variants: Variants) -> None:
    status, body = variants.call("query", "/echo/query?a=1&api%5Fkey=mine&b=2&api_key=other")
    assert status == 200
    target, headers = echoed(body)
    assert target == f"/echo/query?a=1&b=2&api_key={'*' * len(API_KEY)}", "there, once, and blanked in the echo"
    assert "authorization" not in dict(headers)
    row = variants.ledger.row("/echo/query")
    assert row["credential"] == "in-query"
    assert API_KEY not in json.dumps(row, default=str)


def test_a_basic_credential(variants: Variants) -> None:
    status, body = variants.call("basic", "/echo/basic")
    assert status == 200
    (value,) = [v for n, v in echoed(body)[1] if n == "authorization"]
    real = f"Basic {base64.b64encode(f'robot:{APP_KEY}'.encode()).decode()}"
    assert len(value) == len(real)
    assert value.startswith("Basic ")
    assert "****" in value, "the echo is blanked"
    assert value != real


def test_a_bearer_credential_from_a_command(variants: Variants) -> None:
    status, body = variants.call("bearer", "/echo/bearer")
    assert status == 200
    assert [v for n, v in echoed(body)[1] if n == "authorization"] == [f"Bearer {'*' * len(APP_KEY)}"]


def test_a_command_that_fails_forwards_nothing(variants: Variants) -> None:
    status, body = variants.call("broken", "/echo/broken")
    assert (status, json.loads(body)["reason"]) == (502, "credential.unavailable")
    row = variants.ledger.row("/echo/broken")
    assert (row["decision"], row["reason"], row["status"]) == ("deny", "credential.unavailable", 502)


def test_both_identities_are_proven_and_recorded(variants: Variants) -> None:
    status, _ = variants.call("both", "/echo/both")
    assert status == 200
    row = variants.ledger.row("/echo/both")
    assert row["subject"] == "repo:acme/infra:ref:refs/heads/main"
    assert row["workload_subject"] == "system:serviceaccount:ci:runner"
    status, body = variants.call("both", "/echo/alone", authorization="")
    assert (status, json.loads(body)["reason"]) == (401, "identity.missing"), "the pod's identity is no fallback"


def test_what_cannot_be_decoded_is_sealed_where_that_is_chosen(variants: Variants) -> None:
    sent = b"\x00not gzip at all\xff" * 10
    status, body = variants.call("sealing", "/echo/sealed", sent, content_encoding="gzip")
    assert status == 200
    assert base64.b64decode(json.loads(body)["body"]) == sent
    row = variants.ledger.row("/echo/sealed")
    assert row["req_form"] == "sealed"
    assert sent not in row["req_body"]
    assert unseal(SEAL_KEY, row["req_body"]) == sent
