"""A request to the store, taken apart: who, which statement, which data, under which settings."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from urllib.parse import parse_qsl

from ext_proc.hub.store.codings import parse_text
from ext_proc.hub.store.faults import QueryError, bad, unsupported
from ext_proc.hub.store.guard import DATABASE

QUERY_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_OURS = frozenset({"query", "user", "password", "database", "default_format", "query_id"})
_DATABASES = {"": DATABASE, "default": DATABASE, DATABASE: DATABASE, "system": "system"}

# Enough of SQL to find where an INSERT's statement ends and its data begins. Whatever this finds goes through the
# guard as a statement, so a mistake here is an error, never a way around it.
_INSERT_TOKEN = re.compile(
    rb"\s+|--[^\n]*|#[ !][^\n]*|/\*.*?\*/"
    rb"|(?P<string>'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\")"
    rb"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<other>.)",
    re.DOTALL,
)
_HEAD_LIMIT = 65536


@dataclass(frozen=True, slots=True)
class Login:
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """`text` is SQL; for an INSERT with rows in the body it ends before them, and `data` holds them."""

    text: str
    data: bytes | None
    input_format: str
    database: str
    query_id: str
    default_format: str
    params: dict[str, str]
    settings: dict[str, str]
    compressed: bool
    wait: bool


def login(headers: Mapping[str, str], query: Mapping[str, str]) -> Login | None:
    """What is presented: X-ClickHouse-User and -Key, Basic, or `user` and `password` in the URL; None for nothing.

    QueryError AUTHENTICATION_FAILED when two of these are used at once, as ClickHouse has it.
    """
    found: list[Login] = []
    if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
        found.append(Login(headers.get("x-clickhouse-user", ""), headers.get("x-clickhouse-key", "")))
    if authorization := headers.get("authorization", ""):
        scheme, _, value = authorization.partition(" ")
        try:
            name, colon, password = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
        except (binascii.Error, ValueError):
            name = colon = password = ""
        if scheme.lower() != "basic" or not colon:
            raise QueryError(
                516, "AUTHENTICATION_FAILED", "Authorization must be Basic with a user name and a password"
            )
        found.append(Login(name, password))
    if "user" in query or "password" in query:
        found.append(Login(query.get("user", ""), query.get("password", "")))
    if len(found) > 1:
        raise QueryError(
            516, "AUTHENTICATION_FAILED", "Invalid authentication: more than one way of it is used at once"
        )
    return found[0] if found else None


def read(query: Iterable[tuple[str, str]], headers: Mapping[str, str], body: bytes) -> Request:
    """Parse URL parameters, headers and the decoded body. QueryError for what cannot be understood."""
    fields = dict(query)
    content_type = headers.get("content-type", "")
    if content_type.startswith("application/x-www-form-urlencoded"):
        # curl -d sends SQL under this type; only what looks like a form is one.
        if re.match(rb"(?:query|param_\w+|database|default_format)=", body):
            fields.update(parse_qsl(parse_text(body), keep_blank_values=True))
            body = b""
    elif content_type.startswith("multipart/form-data"):
        fields.update(_multipart(content_type, body))
        body = b""
    text, data, input_format = split(fields.get("query", "").encode(), body)
    database = fields.get("database") or headers.get("x-clickhouse-database", "")
    if database not in _DATABASES:
        raise QueryError(81, "UNKNOWN_DATABASE", f"Database {database} does not exist; the ledger's is {DATABASE}")
    query_id = fields.get("query_id") or str(uuid.uuid4())
    if not QUERY_ID.fullmatch(query_id):
        raise bad("query_id must be up to 128 letters, digits, '-', '_', '.' or ':'")
    settings = {n: v for n, v in fields.items() if n not in _OURS and not n.startswith("param_")}
    return Request(
        text=text,
        data=data,
        input_format=input_format,
        database=_DATABASES[database],
        query_id=query_id,
        default_format=fields.get("default_format") or headers.get("x-clickhouse-format") or "TabSeparated",
        params={name[6:]: value for name, value in fields.items() if name.startswith("param_")},
        settings=settings,
        compressed=_true(settings.get("enable_http_compression")),
        wait=_true(settings.get("wait_end_of_query")),
    )


def split(head: bytes, body: bytes) -> tuple[str, bytes | None, str]:
    """(statement, rows or None, format of the rows). The statement is `head`, a line break, `body`; of an INSERT it
    ends after `FORMAT name` or VALUES, and the rows are what follows."""
    joined = head + b"\n" + body[:_HEAD_LIMIT] if head and body else head or body[:_HEAD_LIMIT]
    end, input_format = _insert_head(joined)
    if end is None:
        whole = head + b"\n" + body if head and body else head or body
        return parse_text(whole), None, ""
    statement = parse_text(joined[:end])
    if input_format == "Values":
        # The guard's parser wants a complete statement.
        statement = re.sub(r"(?i)values$", "FORMAT Values", statement)
    offset = end - (len(head) + 1 if head and body else len(head))
    if offset >= 0 or not head:
        rows = body[max(offset, 0) :] if head else body[end:]
    else:
        rows = head[end:] + (b"\n" + body if body else b"")
    if input_format != "Values":
        # The rest of the line after the format's name is not data.
        rows = re.sub(rb"^[ \t\r\f]*\n?", b"", rows, count=1) if rows[:1] in b" \t\r\f\n" else rows
    return statement, rows, input_format


def _insert_head(text: bytes) -> tuple[int | None, str]:
    position = 0
    depth = 0
    words = 0
    previous = b""
    while position < len(text):
        found = _INSERT_TOKEN.match(text, position)
        if found is None:
            break
        position = found.end()
        word = found["word"]
        if word is None:
            if other := found["other"]:
                depth += (other in b"([") - (other in b")]")
                previous = other
            elif found["string"]:
                previous = b"'"
            continue
        upper = word.upper()
        words += 1
        if words == 1 and upper != b"INSERT":
            return None, ""
        named = previous in {b"INTO", b"TABLE", b"."}
        if depth == 0 and words > 2 and not named:
            if upper in {b"SELECT", b"WITH", b"FROM", b"WATCH"}:
                return None, ""
            if previous == b"FORMAT":
                return position, word.decode()
            if upper == b"VALUES":
                return position, "Values"
        previous = word if named else upper
    return None, ""


def _multipart(content_type: str, body: bytes) -> dict[str, str]:
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    fields: dict[str, str] = {}
    for part in message.iter_parts():
        if part.get_filename() is not None:
            raise unsupported("External data (files in the form) is not supported; insert it, or use values()")
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(payload, bytes):
            raise bad("The form cannot be read")
        fields[name] = parse_text(payload)
    return fields


def _true(value: str | None) -> bool:
    return value is not None and value.lower() in {"1", "true"}
