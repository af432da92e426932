"""Credentials in a worker's life: fetched before anyone asks, kept over reloads, given back when nothing needs them."""

from __future__ import annotations

from typing import Any

import pytest

from ext_proc.pb.envoy_ext_proc_pb2 import ProcessingResponse
from tests.contract.credentials.peer import Asked, Peer, Reply
from tests.playbook.conftest import Playbook


class Tokens:
    def __init__(self) -> None:
        self.live: list[str] = []
        self.issued = 0

    def __call__(self, asked: Asked) -> Reply:
        if asked.path == "/revoke":
            self.live.remove(asked.body.decode().partition("token=")[2].partition("&")[0])
            return 200, None
        self.issued += 1
        self.live.append(f"t0ken-of-the-upstream-{self.issued}")
        return 200, {"access_token": self.live[-1], "token_type": "Bearer", "expires_in": 600}


def of(url: str, **settings: Any) -> dict[str, Any]:
    source = {
        "token_url": f"{url}/token",
        "revoke_url": f"{url}/revoke",
        "client_id": "gate",
        "client_secret": {"env": "DOUANE_TEST_API_KEY"},
        **settings,
    }
    return {"datadog": {"credentials": [{"bearer": True, "from": {"oauth2": source}}]}}


def put(answer: ProcessingResponse) -> dict[str, str]:
    options = answer.request_headers.response.header_mutation.set_headers
    return {option.header.key: option.header.raw_value.decode() for option in options}


async def test_over_reloads_and_to_the_end(playbook: Playbook) -> None:
    tokens = Tokens()
    with Peer(tokens) as peer:
        playbook.apply(connections=of(peer.url))
        await playbook.runtime.warm()
        first = tokens.live[0]
        assert ("authorization", first.encode()) in next(
            iter(playbook.runtime.current.connections.values())
        ).credentials.known(), "masked before anyone asked for it"
        (answer,) = await playbook.stream().on(playbook.head())
        assert put(answer)["authorization"] == f"Bearer {first}"
        playbook.apply(connections=of(peer.url), grants=[])
        await playbook.runtime.warm()
        assert tokens.live == [first], "another rule is no reason for another token"
        for scope in ("one", "two"):
            playbook.apply(connections=of(peer.url, scope=scope))
            await playbook.runtime.warm()
        assert len(tokens.live) == 2
        assert first not in tokens.live, "no configuration that may still be in use names it"
        await playbook.runtime.close()
        assert tokens.live == []


async def test_a_source_that_is_down_forwards_nothing(playbook: Playbook, caplog: pytest.LogCaptureFixture) -> None:
    playbook.apply(connections=of("http://127.0.0.1:9"))
    await playbook.runtime.warm()
    assert "credential.unavailable" in caplog.text
    (answer,) = await playbook.stream().on(playbook.head())
    assert answer.immediate_response.status.code == 503
    assert b"credential.unavailable" in answer.immediate_response.body
