"""Where notices go: a Slack-compatible webhook, a signed webhook, mail."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import smtplib
import ssl
import time
from dataclasses import asdict
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any, Protocol
from urllib.parse import urlsplit

from ext_proc import web
from ext_proc.config.approvals import Email, Notification, Slack, Webhook
from ext_proc.credentials import Sources, Surroundings
from ext_proc.credentials.source import Source
from ext_proc.errors import DouaneError
from ext_proc.hub.approvals.notify.notice import Notice

_TIMEOUT_S = 15.0
_PORTS = {"smtp": 25, "smtps": 465, "smtp+starttls": 587}
_SLACK_TEXT = 2900
_SLACK_FIELD = 1900


class NotSentError(Exception):
    """It may have arrived or not; the message holds no secret."""


class Channel(Protocol):
    name: str
    """The same as long as the configuration of it is; no secret."""

    async def send(self, notice: Notice) -> None:
        """NotSentError; DouaneError where a secret cannot be read."""
        ...


def channel(settings: Notification) -> Channel:
    match settings:
        case Slack():
            return SlackChannel(settings)
        case Webhook():
            return WebhookChannel(settings)
        case Email():
            return MailChannel(settings)


class SlackChannel:
    """https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, which others copied."""

    def __init__(self, settings: Slack) -> None:
        self._url = _source(settings.slack)
        self.name = f"slack {self._url.place}"

    async def send(self, notice: Notice) -> None:
        await _post(await _text(self._url), json.dumps(slack_message(notice)).encode(), {})


class WebhookChannel:
    """Signed as https://www.standardwebhooks.com says: `webhook-id` is the same for every try."""

    def __init__(self, settings: Webhook) -> None:
        self._url = _source(settings.webhook)
        self._secret = _source(settings.secret)
        self.name = f"webhook {self._url.place}"

    async def send(self, notice: Notice) -> None:
        body = json.dumps(webhook_message(notice)).encode()
        secret = await _text(self._secret)
        await _post(await _text(self._url), body, signature(secret, notice.id, int(time.time()), body))


class MailChannel:
    def __init__(self, settings: Email) -> None:
        self._settings = settings
        self._password = _source(settings.password) if settings.password is not None else None
        self.name = f"mail {settings.smtp} {','.join(settings.to)}"

    async def send(self, notice: Notice) -> None:
        password = await _text(self._password) if self._password is not None else ""
        message = mail(notice, self._settings)
        try:
            await asyncio.to_thread(_deliver, self._settings, password, message)
        except (smtplib.SMTPException, OSError) as error:
            raise NotSentError(f"{self._settings.smtp}: {type(error).__name__}") from None


def slack_message(notice: Notice) -> dict[str, Any]:
    """Blocks, and a text for where they are not shown. Nothing in it is markup but what we write."""
    fields = [f"*{name}*\n{_escaped(text)[:_SLACK_FIELD]}" for name, text in notice.lines]
    link = f"<{_escaped(notice.url)}|Look and decide>  ·  `{notice.approval_id[:12]}`"
    return {
        "text": _escaped(notice.title)[:_SLACK_TEXT],
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": f"*{_escaped(notice.title)}*"[:_SLACK_TEXT]}},
            {"type": "section", "fields": [{"type": "mrkdwn", "text": field} for field in fields[:10]]},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": link}]},
        ],
    }


def webhook_message(notice: Notice) -> dict[str, Any]:
    """`{"type": "approval.requested", "timestamp", "data"}`."""
    data = {name: text for name, text in asdict(notice).items() if name not in ("id", "event", "at")}
    return {"type": f"approval.{notice.event}", "timestamp": notice.at, "data": data}


def signature(secret: str, message_id: str, at: int, body: bytes) -> dict[str, str]:
    """The three headers. NotSentError for a secret that is none."""
    key = secret.encode()
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret.removeprefix("whsec_") + "==", validate=False)
        except binascii.Error:
            key = b""
    if not key:
        raise NotSentError("the webhook's secret is empty, or not base64 behind whsec_")
    mac = hmac.digest(key, f"{message_id}.{at}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }


def mail(notice: Notice, settings: Email) -> EmailMessage:
    """Plain text. `Notice` has no line breaks, so nothing in it can begin a header."""
    message = EmailMessage()
    message["Subject"] = notice.title[:200]
    message["From"] = settings.sender
    message["To"] = ", ".join(settings.to)
    message["Date"] = formatdate(localtime=False)
    message["Message-ID"] = f"<{notice.id}@{settings.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    width = max(len(name) for name, _ in notice.lines)
    lines = [notice.title, "", *(f"{name:<{width}}  {text}" for name, text in notice.lines)]
    if notice.event == "requested":
        lines += ["", "Look at it and decide:", "", f"  douane approvals show {notice.approval_id[:12]}"]
        lines += [f"  douane approvals approve {notice.approval_id[:12]}", "", notice.url]
    message.set_content("\n".join(lines) + "\n")
    return message


def _deliver(settings: Email, password: str, message: EmailMessage) -> None:
    parts = urlsplit(settings.smtp)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    context = ssl.create_default_context()
    with (
        smtplib.SMTP_SSL(host, port, timeout=_TIMEOUT_S, context=context)
        if parts.scheme == "smtps"
        else smtplib.SMTP(host, port, timeout=_TIMEOUT_S)
    ) as server:
        if parts.scheme == "smtp+starttls":
            server.starttls(context=context)  # SMTPNotSupportedError where the server offers none: nothing is sent
        if settings.user is not None:
            server.login(settings.user, password)
        refused = server.send_message(message)
    if refused:
        raise smtplib.SMTPRecipientsRefused(refused)


async def _post(url: str, body: bytes, headers: dict[str, str]) -> None:
    host = urlsplit(url).hostname or "?"
    try:
        answer = await web.request(
            "POST", url, timeout=_TIMEOUT_S, headers={"content-type": "application/json", **headers}, body=body
        )
    except web.WebError as error:
        raise NotSentError(f"{host}: {type(error).__name__}") from None  # its words have the URL, which is a secret
    if not 200 <= answer.status < 300:
        raise NotSentError(f"{host} answered {answer.status}")


def _source(settings: Any) -> Source:
    return Sources().open(settings, Surroundings())


async def _text(source: Source) -> str:
    value = await source.read()
    try:
        return value.decode().strip()
    except UnicodeDecodeError:
        raise DouaneError("notify.secret", f"{source.place} is not text") from None


def _escaped(text: str) -> str:
    """https://docs.slack.dev/messaging/formatting-message-text, "Escaping text"."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
