"""Notices arrive at real servers: an HTTP server, and mail servers with and without TLS."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session
from cryptography import x509

from ext_proc.config.approvals import Email, Notification, Slack, Webhook
from ext_proc.config.secret_sources import SourceFile
from ext_proc.hub.approvals.notify import Notifier, channel, notifier, queue
from ext_proc.hub.server import Authorities
from tests.contract.holds import Gate, asked, serving, sre
from tests.contract.test_hub import Signer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Hook:
    """Takes what is posted, or answers with `status` for as long as `refuse` says."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.refuse = 0
        self.status = 503
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.refuse -= 1
                status = hook.status if hook.refuse >= 0 else 204
                hook.got.append((self.path, {n.lower(): v for n, v in self.headers.items()}, body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook-secret"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    async def arrived(self, count: int, seconds: float = 15) -> list[tuple[str, dict[str, str], bytes]]:
        async with asyncio.timeout(seconds):
            while len(self.got) < count:  # noqa: ASYNC110 (it arrives in another thread)
                await asyncio.sleep(0.01)
        return self.got


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="douane-") as path:
        yield Path(path)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_FIRST_S", 0.1)
    monkeypatch.setattr(notifier, "_PAUSE_S", 0.01)


def secret(folder: Path, name: str, text: str) -> SourceFile:
    (folder / name).write_text(text + "\n")
    return SourceFile(file=str(folder / name))


@contextlib.asynccontextmanager
async def notifying(folder: Path, hub: Authorities, *settings: Notification) -> AsyncIterator[None]:
    made = Notifier(
        folder / "notices.sqlite", hub.approvals, [channel(one) for one in settings], lambda one: f"https://h/{one}"
    )
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0.1)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        made.close()


HOSTILE = {
    "path": "/api/<!channel>&\r\nBcc: all@acme.example",
    "subject": "repo:<https://evil.example|click>\u2028x",
    "query": "token=query-secret",
    "headers_json": '[["x-key","header-secret"]]',
    "body": b"body-secret",
    "body_size": 11,
    "message": "a & b",
}


async def test_a_signed_webhook_tells_the_course_of_things(folder: Path, hook: Hook) -> None:
    settings = Webhook(webhook=secret(folder, "url", hook.url), secret=secret(folder, "key", SECRET))
    two = [{"policy": "deletes", "approvers": ["group:sre"], "quorum": 2}]
    async with serving(folder) as hub, Gate(folder) as gate, notifying(folder, hub, settings):
        first = gate.hold(asked(requirements=two, **HOSTILE))
        approval_id = (await first.state()).approval_id
        denied = (await gate.hold(asked()).state()).approval_id
        await hub.approvals.decide(approval_id, sre("ann"), approve=True, comment="")
        await hub.approvals.decide(approval_id, sre("bob"), approve=True, comment="ok")
        await hub.approvals.decide(denied, sre("bob"), approve=False, comment="no")
        expired = gate.hold(asked(expires_s=1))
        await expired.until("expired")
        got = await hook.arrived(6)
    checked = [standardwebhooks.Webhook(SECRET).verify(body, headers) for _, headers, body in got]
    assert [(one["type"], one["data"]["approval_id"]) for one in checked[:4]] == [
        ("approval.requested", approval_id),
        ("approval.requested", denied),
        ("approval.approved", approval_id),
        ("approval.denied", denied),
    ]
    assert [one["type"] for one in checked[4:]] == ["approval.requested", "approval.expired"]
    assert checked[0]["data"]["path"] == "/api/<!channel>&  Bcc: all@acme.example"
    assert checked[0]["data"]["url"] == f"https://h/{approval_id}"
    assert (checked[2]["data"]["by"], checked[2]["data"]["comment"]) == ("oidc:bob@acme.example", "ok")
    assert len({headers["webhook-id"] for _, headers, _ in got}) == 6
    assert b"-secret" not in b"".join(body for _, _, body in got)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(got[0][2] + b" ", got[0][1])


async def test_slack_shows_it_without_markup_of_strangers(folder: Path, hook: Hook) -> None:
    async with (
        serving(folder) as hub,
        Gate(folder) as gate,
        notifying(folder, hub, Slack(slack=secret(folder, "url", hook.url))),
    ):
        held = gate.hold(asked(**HOSTILE))
        approval_id = (await held.state()).approval_id
        [(path, headers, body)] = await hook.arrived(1)
    assert (path, headers["content-type"]) == ("/hook-secret", "application/json")
    text = json.dumps(json.loads(body), ensure_ascii=False)
    assert "&lt;!channel&gt;&amp;" in text
    assert "<!channel>" not in text
    assert "<https://evil.example" not in text
    assert f"<https://h/{approval_id}|Look and decide>" in text
    assert "mona@acme.example" in text
    assert not [word for word in ("query-secret", "body-secret", "header-secret") if word in text]
    message = json.loads(body)
    assert message["text"].startswith("Approval needed: DELETE /api/")
    assert all(len(field["text"]) <= 2000 for field in message["blocks"][1]["fields"])
    assert len(message["blocks"][1]["fields"]) <= 10


async def test_what_fails_is_sent_again_under_the_same_name_also_after_a_restart(
    folder: Path, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Webhook(webhook=secret(folder, "url", hook.url), secret=secret(folder, "key", "plain text"))
    hook.refuse = 10_000
    async with serving(folder) as hub, Gate(folder) as gate:
        async with notifying(folder, hub, settings):
            held = gate.hold(asked())
            first = await held.state()
            await hook.arrived(2)
            # A channel that is away holds nobody up.
            await hub.approvals.decide(first.approval_id, sre("ann"), approve=True, comment="")
            assert (await held.until("granted")).approval_id == first.approval_id
        hook.refuse, before = 0, len(hook.got)
        async with notifying(folder, hub, settings):
            got = await hook.arrived(before + 2)
    names = {headers["webhook-id"]: json.loads(body)["type"] for _, headers, body in got}
    assert sorted(names.values()) == ["approval.approved", "approval.requested"]
    assert {json.loads(body)["type"] for _, _, body in got[before:]} == set(names.values())
    assert "hook-secret" not in caplog.text
    assert "answered 503" in caplog.text


async def test_what_was_before_anybody_was_to_be_told_is_not_told(folder: Path, hook: Hook) -> None:
    settings = Slack(slack=secret(folder, "url", hook.url))
    async with serving(folder) as hub, Gate(folder) as gate:
        before = gate.hold(asked(path="/before"))
        await before.state()
        async with notifying(folder, hub, settings):
            after = gate.hold(asked(path="/after"))
            await after.state()
            await hook.arrived(1)
        async with notifying(folder, hub):
            between = gate.hold(asked(path="/between"))
            await between.state()
        async with notifying(folder, hub, settings):
            last = gate.hold(asked(path="/last"))
            await last.state()
            got = await hook.arrived(2)
    assert [json.loads(body)["text"].split()[3] for _, _, body in got] == ["/after", "/last"]


async def test_one_run_cannot_bury_the_channel(folder: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "MOST_A_MINUTE", 3)
    async with (
        serving(folder) as hub,
        Gate(folder) as gate,
        notifying(folder, hub, Slack(slack=secret(folder, "url", hook.url))),
    ):
        for n in range(10):
            await gate.hold(asked(path=f"/flood-{n}")).state()
        await gate.hold(asked(path="/other", session_id=b"o" * 16)).state()
        await hook.arrived(4)
        await asyncio.sleep(0.2)
    assert [json.loads(body)["text"].split()[3] for _, _, body in hook.got] == [
        "/flood-0",
        "/flood-1",
        "/flood-2",
        "/other",
    ]


# --- mail ------------------------------------------------------------------------------------------------------------


class Mailbox:
    """aiosmtpd's handler."""

    def __init__(self) -> None:
        self.got: list[tuple[list[str], EmailMessage]] = []
        self.arrived = threading.Event()

    async def handle_DATA(self, _server: Any, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.got.append((envelope.rcpt_tos, message))
        self.arrived.set()
        return "250 OK"


def authenticate(_server: Any, _session: Any, _envelope: Any, mechanism: str, data: Any) -> AuthResult:
    assert isinstance(data, LoginPassword)
    return AuthResult(success=(data.login, data.password) == (b"douane", b"mail-secret"))


class AnyPort(Controller):
    def _trigger_server(self) -> None:
        """Connect once; the base class would to port 0."""
        socket.create_connection(self.server.sockets[0].getsockname()).close()


@contextlib.contextmanager
def mail_server(**more: Any) -> Iterator[tuple[Mailbox, int]]:
    mailbox = Mailbox()
    controller = AnyPort(mailbox, hostname="127.0.0.1", port=0, **more)
    controller.start()
    try:
        yield mailbox, controller.server.sockets[0].getsockname()[1]
    finally:
        controller.stop()


async def told(folder: Path, settings: Email, mailbox: Mailbox, **changes: Any) -> EmailMessage:
    async with serving(folder) as hub, Gate(folder) as gate, notifying(folder, hub, settings):
        held = gate.hold(asked(**changes))
        await held.state()
        assert await asyncio.to_thread(mailbox.arrived.wait, 15)
    return mailbox.got[0][1]


async def test_mail_cannot_be_bent_by_what_it_tells(folder: Path) -> None:
    with mail_server() as (mailbox, port):
        settings = Email(
            **{
                "smtp": f"smtp://127.0.0.1:{port}",
                "from": "douane@acme.example",
                "to": ("a@acme.example", "b@acme.example"),
            }
        )
        message = await told(folder, settings, mailbox, **HOSTILE)
    assert mailbox.got[0][0] == ["a@acme.example", "b@acme.example"]
    assert message["subject"] == "Approval needed: DELETE /api/<!channel>&  Bcc: all@acme.example (DeleteDashboard)"
    assert (message["bcc"], message["cc"], message["from"]) == (None, None, "douane@acme.example")
    assert message["auto-submitted"] == "auto-generated"
    assert message["message-id"].startswith("<msg_")
    text = message.get_content()
    assert "douane approvals approve" in text
    assert "mona@acme.example" in text
    assert "-secret" not in text


@pytest.fixture
def certificate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    import ipaddress

    signer = Signer(folder / "tls")
    tls = signer.leaf("mail", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    monkeypatch.setenv("SSL_CERT_FILE", tls.ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtps"])
async def test_mail_goes_through_tls_with_a_password(folder: Path, certificate: ssl.SSLContext, scheme: str) -> None:
    logins: list[bool] = []

    def noted(*arguments: Any) -> AuthResult:
        logins.append(authenticate(*arguments).success)
        return authenticate(*arguments)

    how: dict[str, Any] = {"authenticator": noted}
    if scheme == "smtps":
        how |= {
            "ssl_context": certificate,
            "auth_require_tls": False,
        }
    else:
        how |= {"tls_context": certificate, "require_starttls": True, "auth_required": True}
    with mail_server(**how) as (mailbox, port):
        settings = Email(
            **{
                "smtp": f"{scheme}://127.0.0.1:{port}",
                "user": "douane",
                "password": secret(folder, "password", "mail-secret"),
                "from": "douane@acme.example",
                "to": ("a@acme.example",),
            }
        )
        message = await told(folder, settings, mailbox)
    assert message["subject"].startswith("Approval needed")
    assert logins == [True]


async def test_mail_never_falls_back_to_the_clear(folder: Path, hook: Hook) -> None:
    with mail_server(authenticator=authenticate, auth_require_tls=False) as (mailbox, port):
        settings = Email(
            **{
                "smtp": f"smtp+starttls://127.0.0.1:{port}",
                "user": "douane",
                "password": secret(folder, "password", "mail-secret"),
                "from": "douane@acme.example",
                "to": ("a@acme.example",),
            }
        )
        other = Slack(slack=secret(folder, "url", hook.url))
        async with serving(folder) as hub, Gate(folder) as gate, notifying(folder, hub, settings, other):
            held = gate.hold(asked())
            await held.state()
            await hook.arrived(1)  # the other channel does not wait for this one
            await asyncio.sleep(0.3)
        assert mailbox.got == []
