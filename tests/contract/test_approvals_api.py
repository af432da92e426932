"""Approvers over HTTP: a real console, a real OpenID issuer, and everyone who is no approver."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from ext_proc.config import Config
from ext_proc.config.approvals import Approvals, SignIn
from ext_proc.hub.approvals.states import State
from ext_proc.hub.console import address
from ext_proc.hub.faces import Faces
from ext_proc.hub.server import Authorities
from ext_proc.pb import hub_pb2
from tests.contract.holds import ACTORS, Gate, Held, asked, config, serving
from tests.issuer import LoopbackIssuer

CLIENT = "douane-cli"
SRE = {"groups": ["sre", "everybody"]}


@pytest.fixture(scope="module")
def provider() -> Iterator[LoopbackIssuer]:
    with LoopbackIssuer() as issuer:
        yield issuer


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="douane-") as path:
        yield Path(path)


@dataclass
class Hub:
    """A hub with its console; `api` asks it, over TCP or over the operator's socket."""

    config: Config
    authorities: Authorities
    gate: Gate
    provider: LoopbackIssuer
    tcp: aiohttp.ClientSession
    unix: aiohttp.ClientSession

    async def held(self, **changes: Any) -> tuple[Held, str]:
        held = self.gate.hold(asked(**changes))
        return held, (await held.state()).approval_id

    def token(self, name: str = "ann", **claims: Any) -> str:
        """An ID token of the approvers' provider."""
        mail = {"email": f"{name}@acme.example", "email_verified": True}
        return self.provider.id_token(**({"aud": CLIENT, "sub": f"sub-{name}", **mail, **SRE} | claims))

    async def api(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        local: bool = False,
        headers: dict[str, str] | None = None,
        body: Any = None,
    ) -> tuple[int, dict[str, Any]]:
        sent = dict(headers or {})
        if token is not None:
            sent.setdefault("authorization", f"Bearer {token}")
        if method == "POST" and body is None:
            body = {}
        session = self.unix if local else self.tcp
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("content-type", "application/json")
        async with session.request(
            method, f"http://{self.config.console.listen}{path}", headers=sent, data=data
        ) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else {"text": text}

    async def say(self, what: str, approval_id: str, token: str, **more: Any) -> tuple[int, str]:
        status, body = await self.api("POST", f"/api/approvals/{approval_id}/{what}", token=token, **more)
        return status, body.get("reason", body.get("state", ""))

    async def state(self, approval_id: str) -> State:
        return (await self.authorities.approvals.registry.find(approval_id)).approval.state


@contextlib.asynccontextmanager
async def running(folder: Path, provider: LoopbackIssuer, sign_in: SignIn | None) -> AsyncIterator[Hub]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    sections = {
        "approvals": Approvals(actors=ACTORS, sign_in=sign_in),
        "console": {"listen": listen},
        "gate": {"run_dir": str(folder / "run")},
    }
    made = config(folder, **sections)
    async with serving(folder, **sections) as authorities, Gate(folder) as gate:
        faces = Faces(made, authorities.approvals, {})
        task = asyncio.create_task(faces.run())
        connector = aiohttp.UnixConnector(path=str(folder / "run/approvals.sock"))
        try:
            async with aiohttp.ClientSession() as tcp, aiohttp.ClientSession(connector=connector) as unix:
                yield Hub(made, authorities, gate, provider, tcp, unix)
        finally:
            faces.stop()
            await task
            await faces.close()


def sign_in(provider: LoopbackIssuer, **more: Any) -> SignIn:
    return SignIn(issuer=provider.url, client_id=CLIENT, **more)


@pytest.fixture
async def hub(folder: Path, provider: LoopbackIssuer) -> AsyncIterator[Hub]:
    async with running(folder, provider, sign_in(provider)) as made:
        yield made


async def test_a_person_looks_and_decides(hub: Hub) -> None:
    held, approval_id = await hub.held(
        query="force=true",
        body=b'{"a": "\x1b[31m"}',
        body_size=14,
        hits_json='[{"policy": "deletes"}]',
        message="deletes need a person",
    )
    status, listed = await hub.api("GET", "/api/approvals", token=hub.token())
    assert status == 200
    [one] = listed["approvals"]
    assert (one["id"], one["state"], one["method"]) == (approval_id, "requested", "DELETE")
    assert one["requirements"] == [{"policy": "deletes", "approvers": ["group:sre"], "quorum": 1, "missing": 1}]
    assert listed["you"] == "oidc:ann@acme.example"
    _, full = await hub.api("GET", f"/api/approvals/{approval_id[:8]}", token=hub.token())
    assert (full["id"], full["query"], full["upstream"]) == (approval_id, "force=true", "https://api.datadoghq.com")
    assert (full["body"], full["body_size"], full["headers"]) == ('{"a": "\x1b[31m"}', 14, [["accept", "*/*"]])
    assert (full["claims"], full["acts_for"]) == ({"actor_id": "1"}, "mona@acme.example")
    assert full["rules"] == [{"policy": "deletes"}]
    assert [event["event"] for event in full["events"]] == ["requested"]
    answered = await hub.api(
        "POST", f"/api/approvals/{approval_id}/approve", token=hub.token(), body={"comment": "on my watch"}
    )
    assert (answered[0], answered[1]["state"]) == (200, "approved")
    granted = await held.until("granted")
    assert (list(granted.approved_by), granted.message) == (["oidc:ann@acme.example"], "on my watch")
    _, listed = await hub.api("GET", "/api/approvals?state=used", token=hub.token())
    assert [one["id"] for one in listed["approvals"]] == [approval_id]


async def test_no_is_said_with_its_comment(hub: Hub) -> None:
    held, approval_id = await hub.held()
    body = {"comment": "no \ud800"}
    status, answer = await hub.api("POST", f"/api/approvals/{approval_id}/deny", token=hub.token(), body=body)
    assert (status, answer["state"], answer["comment"]) == (200, "denied", "no ?")
    assert (await held.state()).message == "no ?"
    assert await hub.say("approve", approval_id, hub.token("bob")) == (409, "approval.closed")


async def test_a_get_never_decides(hub: Hub) -> None:
    _, approval_id = await hub.held()
    for local in (True, False):
        for path in ("", f"/{approval_id}", f"/{approval_id}/approve", f"/{approval_id}/deny"):
            for method in ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"):
                await hub.api(method, f"/api/approvals{path}", token=hub.token(), local=local)
        await hub.api("GET", f"/approvals/{approval_id}", token=hub.token(), local=local)
        await hub.api("POST", f"/approvals/{approval_id}", token=hub.token(), local=local)
        await hub.api("POST", f"/api/approvals/{approval_id}", token=hub.token(), local=local)
    for query in ("?approve=1", "?_method=POST"):
        await hub.api("GET", f"/api/approvals/{approval_id}/approve{query}", token=hub.token())
    override = {"x-http-method-override": "POST"}
    await hub.api("GET", f"/api/approvals/{approval_id}/approve", token=hub.token(), headers=override)
    assert await hub.state(approval_id) is State.REQUESTED


def unsigned(token: str) -> str:
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return f"{header}.{token.split('.')[1]}."


def confused(provider: LoopbackIssuer, token: str) -> str:
    """Signed with HS256, the public key as the secret."""
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(claims, provider._jwk()["n"], algorithm="HS256", headers={"kid": provider.kid})


async def test_who_is_no_approver_decides_nothing(hub: Hub) -> None:
    _, approval_id = await hub.held()
    good = hub.token()
    with LoopbackIssuer() as agents:
        who: dict[str, str | None] = {
            "nobody": None,
            "an agent of another provider": agents.token(aud=CLIENT, **SRE),
            "an agent of the same provider": hub.token(aud="douane"),
            "a GitLab job that asked for the approvers' audience": hub.token(
                project_id="20", project_path="acme/infra", pipeline_id="574", job_id="302"
            ),
            "a token for us and for others": hub.token(aud=[CLIENT, "douane"]),
            "a token given to another client": hub.token(aud=[CLIENT, "x"], azp="x"),
            "another client's, alone": hub.token(azp="agent-client"),
            "an access token": hub.token(typ="Bearer"),
            "without a signature": unsigned(good),
            "with a symmetric one": confused(hub.provider, good),
            "a changed one": good[:-6] + ("AAAAAA" if not good.endswith("AAAAAA") else "BBBBBB"),
            "expired": hub.token(expires_in=-3600),
            "not yet": hub.token(nbf=int(time.time()) + 3600),
            "an unverified address": hub.token(email_verified=False),
            "an address of unknown proof": hub.token(email_verified=None),
            "no name": hub.token(email=None),
            "a name with a control character": hub.token(email="ann@acme.example\u202e"),
            "a list for a name": hub.token(email=["ann@acme.example"]),
            "another group": hub.token(groups=["dev", "SRE", "sre "]),
            "groups as a mapping": hub.token(groups={"sre": True}),
            "a group in a string": hub.token(groups="sre,dev"),
            "garbage": "x.y.z",
        }
        for name, token in who.items():
            status, reason = await hub.say("approve", approval_id, token or "")
            assert status in (401, 403), name
            assert reason.startswith(("identity.", "approval.not_approver")), name
            status, _ = await hub.api("GET", f"/api/approvals/{approval_id}", token=token)
            assert status in (401, 403), name
            status, listed = await hub.api("GET", "/api/approvals", token=token)
            assert status in (401, 403) or listed["approvals"] == [], name
    assert await hub.state(approval_id) is State.REQUESTED
    assert await hub.say("approve", approval_id, hub.token(aud=[CLIENT, "x"], azp=CLIENT)) == (200, "approved")


async def test_other_ways_to_bring_a_token_do_not_count(hub: Hub) -> None:
    _, approval_id = await hub.held()
    path = f"/api/approvals/{approval_id}/approve"
    token = hub.token()
    for headers in (
        {"cookie": f"token={token}; authorization=Bearer {token}"},
        {"x-authorization": f"Bearer {token}"},
        {"authorization": f"Basic {base64.b64encode(f'x:{token}'.encode()).decode()}"},
        {"authorization": token},
        {"authorization": f"Bearer {token}, Bearer {token}"},
    ):
        assert (await hub.api("POST", path, headers=headers))[0] == 401
    assert (await hub.api("POST", f"{path}?access_token={token}"))[0] == 401
    assert await hub.state(approval_id) is State.REQUESTED


async def test_nobody_approves_their_own_request(hub: Hub) -> None:
    """Caller 1 acts for mona@acme.example."""
    _, approval_id = await hub.held()
    for mail in ("mona@acme.example", "Mona@Acme.Example", "MONA@ACME.EXAMPLE", "\uff4dona@acme.example"):
        assert await hub.say("approve", approval_id, hub.token("x", email=mail)) == (403, "approval.self")
    assert await hub.say("approve", approval_id, hub.token()) == (200, "approved")
    _, machine = await hub.held(claims_json='{"actor_id":"2"}')
    assert await hub.say("approve", machine, hub.token("mona")) == (200, "approved")


async def test_each_person_counts_once(hub: Hub) -> None:
    two = [hub_pb2.Requirement(policy="deletes", approvers=["group:sre"], quorum=2)]
    held, approval_id = await hub.held(requirements=two)
    once = hub.token()
    assert await hub.say("approve", approval_id, once) == (200, "requested")
    for token in (once, hub.token(), hub.token("ANN", sub="other"), hub.token("renamed", sub="sub-ann")):
        assert await hub.say("approve", approval_id, token) == (409, "approval.said_before")
    answers = await asyncio.gather(*(hub.say("approve", approval_id, hub.token("bob")) for _ in range(5)))
    assert sorted(status for status, _ in answers) == [200, 409, 409, 409, 409]
    assert list((await held.until("granted")).approved_by) == ["oidc:ann@acme.example", "oidc:bob@acme.example"]


async def test_a_replayed_yes_is_of_no_use_later(hub: Hub) -> None:
    held, approval_id = await hub.held()
    token = hub.token()
    assert await hub.say("approve", approval_id, token) == (200, "approved")
    await held.until("granted")
    assert (await hub.say("approve", approval_id, token))[0] == 409
    _, other = await hub.held()
    assert (await hub.say("approve", approval_id, token))[0] == 409
    assert await hub.state(other) is State.REQUESTED


async def test_only_whole_ids_of_what_there_is_are_decided(hub: Hub) -> None:
    _, approval_id = await hub.held()
    for wrong in (approval_id[:8], "0" * 24, approval_id.upper() + "0", "%2e%2e", "'%20OR%201=1", "🦊", "a" * 5000):
        assert (await hub.say("approve", wrong, hub.token()))[0] in (404, 405)
        assert (await hub.api("GET", f"/api/approvals/{wrong[8:]}", token=hub.token()))[0] in (200, 404)
    others = [hub_pb2.Requirement(policy="p", approvers=["group:dba", "user:cat@acme.example"], quorum=1)]
    _, theirs = await hub.held(requirements=others)
    assert await hub.say("approve", theirs, hub.token()) == (403, "approval.not_approver")
    assert await hub.say("deny", theirs, hub.token()) == (403, "approval.not_approver")
    # An address in other letters is the same; one with letters that only look alike is not.
    assert (await hub.say("approve", theirs, hub.token("x", email="\u212aat@acme.example")))[0] == 403
    assert (await hub.say("approve", theirs, hub.token("x", email="c\u0430t@acme.example")))[0] == 403
    assert await hub.say("approve", theirs, hub.token("Cat")) == (200, "approved")
    assert await hub.state(approval_id) is State.REQUESTED


async def test_a_foreign_page_decides_nothing(hub: Hub) -> None:
    _, approval_id = await hub.held()
    token = hub.token()
    for headers, expected in (
        ({"origin": "https://evil.example"}, "approval.cross_site"),
        ({"origin": "null"}, "approval.cross_site"),
        ({"sec-fetch-site": "cross-site"}, "approval.cross_site"),
        ({"sec-fetch-site": "same-site"}, "approval.cross_site"),
        ({"host": "evil.example"}, "approval.host"),
        ({"host": "evil.example:15000"}, "approval.host"),
        ({"host": ""}, "approval.host"),
        ({"content-type": "text/plain"}, "approval.body"),
        ({"content-type": "application/x-www-form-urlencoded"}, "approval.body"),
    ):
        assert (await hub.say("approve", approval_id, token, headers=headers))[1] == expected, headers
    for local in (True, False):  # nor a page that reaches the operator's socket through some proxy
        path = f"/api/approvals/{approval_id}/approve"
        refused = await hub.api("POST", path, token=token, local=local, headers={"origin": "https://evil.example"})
        assert refused[0] == 403
    assert (await hub.api("GET", "/approvals/" + approval_id, headers={"host": "evil.example"}))[0] == 421
    assert await hub.state(approval_id) is State.REQUESTED
    own = {"origin": address(hub.config.console), "host": f"localhost:{hub.config.console.listen.rpartition(':')[2]}"}
    assert await hub.say("approve", approval_id, token, headers=own) == (200, "approved")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"comment": 1}', b'{"comment": "x", "approve": true}', b"[" * 9999]
)
async def test_a_body_that_is_none_decides_nothing(hub: Hub, body: bytes) -> None:
    _, approval_id = await hub.held()
    status, reason = await hub.say("approve", approval_id, hub.token(), body=body)
    assert (status, reason) == (400, "approval.bad_request")
    big = json.dumps({"comment": "x" * 20_000}).encode()
    assert (await hub.say("approve", approval_id, hub.token(), body=big))[0] == 400
    assert await hub.state(approval_id) is State.REQUESTED


async def test_the_operator_decides_where_the_policy_says_local(hub: Hub, folder: Path) -> None:
    mode = (folder / "run/approvals.sock").stat()
    assert stat.S_IMODE(mode.st_mode) == 0o600
    _, theirs = await hub.held()
    path = f"/api/approvals/{theirs}/approve"
    status, answer = await hub.api("POST", path, local=True)
    assert (status, answer["reason"]) == (403, "approval.not_approver")
    local = [hub_pb2.Requirement(policy="p", approvers=["local"], quorum=1)]
    held, ours = await hub.held(requirements=local)
    # Over TCP nobody is local, whatever they are called.
    named = hub.token(email=f"local:{os.getuid()}", groups=["local", "sre"])
    assert await hub.say("approve", ours, named) == (403, "approval.not_approver")
    status, answer = await hub.api("POST", f"/api/approvals/{ours}/approve", local=True, body={"comment": "me"})
    assert (status, answer["approved_by"]) == (200, [f"local:{os.getuid()}"])
    assert list((await held.until("granted")).approved_by) == [f"local:{os.getuid()}"]
    _, listed = await hub.api("GET", "/api/approvals?state=all", local=True)
    assert {one["id"] for one in listed["approvals"]} == {theirs, ours}


async def test_without_a_provider_nobody_signs_in(folder: Path, provider: LoopbackIssuer) -> None:
    async with running(folder, provider, None) as hub:
        _, approval_id = await hub.held()
        assert await hub.say("approve", approval_id, hub.token()) == (403, "approval.no_sign_in")
        assert (await hub.api("GET", "/api/approvals"))[0] == 403
        assert await hub.state(approval_id) is State.REQUESTED


async def test_another_claim_may_name_people(folder: Path, provider: LoopbackIssuer) -> None:
    settings = sign_in(provider, user_claim="preferred_username", groups_claim="roles")
    async with running(folder, provider, settings) as hub:
        _, approval_id = await hub.held()
        token = hub.token(preferred_username="ann", roles=["sre"], groups=None, email_verified=False)
        assert await hub.say("approve", approval_id, token) == (200, "approved")
        _, full = await hub.api("GET", f"/api/approvals/{approval_id}", token=token)
        assert full["approved_by"] == ["oidc:ann"]


async def test_what_happens_is_told_as_it_happens(hub: Hub) -> None:
    _, before = await hub.held()
    _, listed = await hub.api("GET", "/api/approvals", token=hub.token())
    url = f"http://{hub.config.console.listen}/api/approvals/events?after={listed['last_event']}"
    seen: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def follow(token: str) -> None:
        async with hub.tcp.get(url, headers={"authorization": f"Bearer {token}"}) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            async for line in stream.content:
                if line.startswith(b"data: "):
                    await seen.put(json.loads(line[6:]))

    task = asyncio.create_task(follow(hub.token()))
    _, after = await hub.held()
    others = [hub_pb2.Requirement(policy="p", approvers=["group:dba"], quorum=1)]
    await hub.held(requirements=others)
    await hub.say("deny", before, hub.token())
    await hub.say("approve", after, hub.token())
    told = [await asyncio.wait_for(seen.get(), 5) for _ in range(4)]
    task.cancel()
    assert [(one["event"], one["approval"]["id"]) for one in told] == [
        ("requested", after),
        ("denied", before),
        ("approved", after),
        ("used", after),
    ]
    # A token that ends, ends what it was good for.
    await asyncio.wait_for(follow(hub.token(expires_in=1)), 5)
    for wrong in ("x", "-1", "\u0661"):
        status, _ = await hub.api("GET", f"/api/approvals/events?after={wrong}", token=hub.token())
        assert status == 400


async def test_one_person_cannot_take_the_places_of_all_who_watch(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ext_proc.hub.approvals.api._MOST_FEEDS_EACH", 2)
    url = f"http://{hub.config.console.listen}/api/approvals/events"

    async def begin(name: str) -> aiohttp.ClientResponse:
        stream = await hub.tcp.get(url, headers={"authorization": f"Bearer {hub.token(name)}"})
        if stream.status == 200:
            await stream.content.readline()
        return stream

    greedy = [await begin("ann") for _ in range(3)]
    assert [stream.status for stream in greedy] == [200, 200, 429]
    assert (await greedy[2].json())["reason"] == "approval.busy"
    other = await begin("bob")
    assert other.status == 200
    for stream in (*greedy, other):
        stream.close()
    async with asyncio.timeout(20):
        while (again := await begin("ann")).status != 200:
            await hub.held()  # what is told finds that nobody listens
            await asyncio.sleep(0.05)
    again.close()


async def test_the_page_shows_how_to_decide_and_nothing_of_the_request(hub: Hub) -> None:
    _, approval_id = await hub.held(path="/secret-path", message="secret-message")
    url = f"http://{hub.config.console.listen}/approvals/{approval_id}"
    async with hub.tcp.get(url, headers={"sec-fetch-site": "cross-site"}) as answer:
        text = await answer.text()
        assert answer.status == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
    assert approval_id in text
    assert f"douane approvals approve {approval_id[:12]}" in text
    assert "secret" not in text
    assert "<script" not in text
    async with hub.tcp.get(url[:-1]) as answer:
        assert answer.status == 404
    for hostile in ("%3Cscript%3Ealert(1)%3C/script%3E", "..%2f", "'\"%00"):
        async with hub.tcp.get(url[:-24] + hostile) as answer:
            assert answer.status == 404
            assert "alert" not in await answer.text()
