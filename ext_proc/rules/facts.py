"""What policies may look at, and where it comes from. A fact is made when a rule first comes to it, once a request."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ext_proc.exchange import Caller, Exchange, Headers
from ext_proc.expressions import FactUnreadable, Schema
from ext_proc.expressions.types import DYN, INT, STRING, TIMESTAMP, list_of, map_of
from ext_proc.rules.multi import FieldsError, header_fields, urlencoded
from ext_proc.rules.multipart import MultipartError, parts
from ext_proc.rules.strict_json import StrictJsonError
from ext_proc.rules.strict_json import parse as parse_json

_FIELDS = map_of(STRING, list_of(STRING))
_COUNTERS: Schema = dict.fromkeys(("calls", "writes", "targets", "bytes", "denied"), INT)
_ABOUT: Schema = {
    "identity": {
        "issuer": STRING,
        "subject": STRING,
        "claims": DYN,
        "session": {"id": STRING, "label": STRING},
        "workload": {"issuer": STRING, "subject": STRING, "claims": DYN},
    },
    "operation": STRING,
    "connection": STRING,
    "now": TIMESTAMP,
}
_HEAD: Schema = {"method": STRING, "host": STRING, "path": STRING, "query": _FIELDS, "headers": _FIELDS}

REQUEST_SCHEMA: Schema = {
    "request": {**_HEAD, "size": INT, "body": STRING, "json": DYN, "form": _FIELDS, "parts": list_of(DYN)},
    **_ABOUT,
    "session": {**_COUNTERS, "window": _COUNTERS},
}
"""What deny, hold and allow rules may look at."""

RESPONSE_SCHEMA: Schema = {
    "request": _HEAD,
    **_ABOUT,
    "response": {"status": INT, "headers": _FIELDS, "size": INT, "body": STRING, "json": DYN},
}
"""What flag, mask and withhold rules may look at: the request's body and the session are gone by then."""

DOCS: Mapping[str, str] = {
    "request.method": "the method, in upper case",
    "request.host": "the host it was sent to, in lower case",
    "request.path": "the path as sent, without the query",
    "request.query": "query parameters, decoded",
    "request.headers": "headers",
    "request.size": "bytes of the body, as sent",
    "request.body": "the body as text, decoded; it must be UTF-8",
    "request.json": "the body as JSON; an empty body is `{}`",
    "request.form": "the fields of an urlencoded body",
    "request.parts": "the parts of a multipart body: `name`, `filename`, `content_type`, `size`, `text` (if UTF-8)",
    "identity.issuer": "the issuer's name in douane.yaml",
    "identity.subject": "the token's subject",
    "identity.claims": "the verified token's claims",
    "identity.session.id": "the id of the run, a UUID",
    "identity.session.label": "what people call the run: `acme/infra run 123 attempt 1`",
    "identity.workload.issuer": "of the pod's own token; empty without one",
    "identity.workload.subject": "of the pod's own token; empty without one",
    "identity.workload.claims": "of the pod's own token; `{}` without one",
    "operation": "the operation's name; empty where none is known",
    "connection": "the connection's name in douane.yaml",
    "now": "when the request arrived",
    "session.calls": "requests of this run so far, this one included",
    "session.writes": "of them, those that are not GET, HEAD or OPTIONS",
    "session.targets": "distinct paths of the writes",
    "session.bytes": "bytes sent in bodies",
    "session.denied": "requests refused",
    "response.status": "the status",
    "response.headers": "headers",
    "response.size": "bytes of the body, as sent",
    "response.body": "the body as text, decoded; it must be UTF-8",
    "response.json": "the body as JSON; an empty body is `{}`",
}
"""One line for each fact; `session.window.X` is X over `sessions.window`."""

BODY_FACTS = frozenset({"request.size", "request.body", "request.json", "request.form", "request.parts"})
_NOT_AT_HAND = "it did not arrive in a form that can be read before the decision"


@dataclass(frozen=True, slots=True)
class Message:
    """A request's or a response's content. `body` is decoded, None where it is not at hand; `size` counts it as sent,
    None where that is not known."""

    headers: Headers
    body: bytes | None
    size: int | None


_CHARSET = re.compile(r"""charset[*0-9]*\s*=\s*"?([^\s";,]*)""", re.IGNORECASE)
_UTF_8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii", ""})
# Where all bytes are ASCII, these mean the same; not so UTF-7, UTF-16, EBCDIC, or Shift JIS with its other backslash.
_ASCII_ALIKE = frozenset({"iso-8859-1", "iso8859-1", "latin1", "latin-1", "iso-8859-15", "windows-1252", "cp1252"})


def other_charset(content_types: Iterable[bytes], body: bytes) -> str:
    """The charset by which a server could read another text in the body than its UTF-8; empty where there is none."""
    for content_type in content_types:
        for charset in _CHARSET.findall(content_type.decode("latin-1")):
            name = charset.lower()
            if name not in _UTF_8 and not (name in _ASCII_ALIKE and body.isascii()):
                return str(charset)
    return ""


class Facts(dict[str, Any]):
    """By their paths in the schema. FactUnreadable, with words for the caller, for what is there and cannot be read.

    `memo` keeps what functions found in them, for the next rule.
    """

    def __init__(
        self,
        exchange: Exchange,
        caller: Caller,
        workload: Caller | None = None,
        *,
        operation: str = "",
        request: Message | None = None,
        response: Message | None = None,
        status: int = 0,
        counters: Mapping[str, int] | None = None,
    ) -> None:
        """`counters` are those of the session, by the last part of their path, `window.calls` and so on included; None
        where the hub was not asked or is away."""
        super().__init__()
        self.exchange, self.caller, self.workload = exchange, caller, workload
        self.request, self.response = request, response
        self.memo: dict[Any, Any] = {}
        self._unreadable: dict[str, str] = {}
        self.update({"request.method": exchange.method.upper(), "request.path": exchange.path, "operation": operation})
        self.update({"connection": exchange.connection, "response.status": status})
        if counters is not None:
            self.update({f"session.{name}": count for name, count in counters.items()})

    def __missing__(self, path: str) -> Any:
        if path in self._unreadable:
            raise FactUnreadable(self._unreadable[path])
        try:
            value = self[path] = _MAKERS[path](self)
        except FactUnreadable as why:
            self._unreadable[path] = str(why)
            raise
        return value

    def gather(self, path: str) -> None:
        """Make a fact before a rule asks for it. That it cannot be read, the rule will hear."""
        with contextlib.suppress(FactUnreadable):
            self[path]

    def raw(self, side: str) -> bytes:
        """The body of `request` or `response`."""
        message: Message | None = getattr(self, side)
        if message is None or message.body is None:
            raise FactUnreadable(_NOT_AT_HAND)
        return message.body

    def text(self, side: str) -> bytes:
        """As `raw`, where its content-type does not say that it is to be read in another way than as UTF-8."""
        body = self.raw(side)
        message: Message = getattr(self, side)
        charset = other_charset(message.headers.all("content-type"), body)
        if charset:
            raise FactUnreadable(f"its content-type says that it is {charset[:40]!r}, not UTF-8")
        return body


def _body(side: str) -> Callable[[Facts], str]:
    def text(facts: Facts) -> str:
        try:
            return facts.text(side).decode("utf-8")
        except UnicodeDecodeError:
            raise FactUnreadable("it is not UTF-8") from None

    return text


def _json(side: str) -> Callable[[Facts], Any]:
    def document(facts: Facts) -> Any:
        body = facts.text(side)
        try:
            return parse_json(body, folded=True) if body else {}
        except StrictJsonError as error:
            raise FactUnreadable(f"as JSON: {error}") from None

    return document


def _size(side: str) -> Callable[[Facts], int]:
    def size(facts: Facts) -> int:
        message: Message | None = getattr(facts, side)
        if message is None or message.size is None:
            raise FactUnreadable("its size is not known before the decision")
        return message.size

    return size


def _content_type(facts: Facts) -> str:
    return (facts.exchange.headers.first("content-type") or b"").decode("latin-1").strip()


def _form(facts: Facts) -> Any:
    body = facts.raw("request")
    kind = _content_type(facts).partition(";")[0].strip().lower()
    if body and kind != "application/x-www-form-urlencoded":
        raise FactUnreadable("as a form: its content-type is not application/x-www-form-urlencoded")
    try:
        return urlencoded(facts["request.body"])
    except FieldsError as error:
        raise FactUnreadable(f"as a form: {error}") from None


def _parts(facts: Facts) -> Any:
    body = facts.raw("request")
    try:
        return parts(_content_type(facts), body) if body else []
    except MultipartError as error:
        raise FactUnreadable(f"as multipart: {error}") from None


def _query(facts: Facts) -> Any:
    try:
        return urlencoded(facts.exchange.query)
    except FieldsError as error:
        raise FactUnreadable(f"the query: {error}") from None


def _workload(read: Callable[[Caller], Any], otherwise: Callable[[], Any]) -> Callable[[Facts], Any]:
    return lambda facts: otherwise() if facts.workload is None else read(facts.workload)


def _uncounted(_: Facts) -> int:
    raise FactUnreadable("the hub that counts is away")


_MAKERS: dict[str, Callable[[Facts], Any]] = {
    "request.host": lambda f: f.exchange.authority.lower(),
    "request.query": _query,
    "request.headers": lambda f: header_fields(f.exchange.headers),
    "request.size": _size("request"),
    "request.body": _body("request"),
    "request.json": _json("request"),
    "request.form": _form,
    "request.parts": _parts,
    "identity.issuer": lambda f: f.caller.issuer,
    "identity.subject": lambda f: f.caller.subject,
    "identity.claims": lambda f: dict(f.caller.claims),
    "identity.session.id": lambda f: str(f.caller.session_id),
    "identity.session.label": lambda f: f.caller.session_label,
    "identity.workload.issuer": _workload(lambda w: w.issuer, str),
    "identity.workload.subject": _workload(lambda w: w.subject, str),
    "identity.workload.claims": _workload(lambda w: dict(w.claims), dict),
    "now": lambda f: datetime.fromtimestamp(f.exchange.received_us / 1e6, UTC),
    **{f"session.{name}": _uncounted for name in _COUNTERS},
    **{f"session.window.{name}": _uncounted for name in _COUNTERS},
    "response.headers": lambda f: header_fields(f.response.headers if f.response is not None else ()),
    "response.size": _size("response"),
    "response.body": _body("response"),
    "response.json": _json("response"),
}


def paths(schema: Schema, prefix: str = "") -> dict[str, str]:
    """Every fact of a schema with its type, for the reference."""
    found: dict[str, str] = {}
    for name, below in schema.items():
        if isinstance(below, Mapping):
            found |= paths(below, f"{prefix}{name}.")
        else:
            found[prefix + name] = str(below)
    return found
