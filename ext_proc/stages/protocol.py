"""Stage 0: what no request may do, whoever sends it.

Envoy has refused what it can see by itself: smuggled lengths, escaped slashes, malformed fields.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

from ext_proc.errors import ProtocolError
from ext_proc.exchange import Exchange

RESERVED_PATH = "/.douane"
SESSION_PATH = "/.douane/session"

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
METHOD_OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override")

_PARAMETERS = re.compile("[&;]")
# `_method` in a form, each character as it is or percent-encoded; found without taking the form apart.
_SPELLED = b"".join(b"(?:%c|%%%02x)" % (c, c) for c in b"_method")
_BLANKS = rb"(?:[\s+]|%20){0,8}"
_IN_FORM = re.compile(rb"(?:\A|[&;])" + _BLANKS + _SPELLED + _BLANKS + rb"(?:[=&;]|\Z)", re.IGNORECASE)
_IN_PART = re.compile(
    rb"^content-disposition:[^\r\n]{0,2000}[;\s]name\s{0,8}=\s{0,8}[\"']?\s{0,8}_method\s{0,8}(?:[\"';]|$)",
    re.IGNORECASE | re.MULTILINE,
)
_KIND, _FORM, _MULTIPART = "content-type", "application/x-www-form-urlencoded", "multipart/"


def check(exchange: Exchange) -> None:
    """Raise ProtocolError where the request could mean something else to the upstream than it does to the rules."""
    if exchange.method not in _METHODS and not exchange.method.isalpha():
        raise ProtocolError("request.method", f"{exchange.method[:20]!r} is not an HTTP method")
    if exchange.method.upper() in ("TRACE", "CONNECT", "TRACK"):
        raise ProtocolError(
            "request.method", f"{exchange.method} is not passed on", remedy="Use another method.", http_status=405
        )
    alike = {name.replace("_", "-") for name, _ in exchange.headers if "_" in name}
    for name in METHOD_OVERRIDES:
        if name in alike or exchange.headers.first(name) is not None:
            raise ProtocolError(
                "request.method_override",
                f"the header {name} would change the method behind the rules",
                remedy="Send the real method instead.",
            )
    if exchange.query and any(
        unquote_plus(p.partition("=")[0]).strip() == "_method" for p in _PARAMETERS.split(exchange.query)
    ):
        raise ProtocolError(
            "request.method_override",
            "the query parameter _method would change the method behind the rules",
            remedy="Send the real method instead.",
        )
    if not exchange.path.startswith("/") and not (exchange.method == "OPTIONS" and exchange.path == "*"):
        raise ProtocolError("request.path", "the path must begin with a slash")
    lowered = exchange.path.lower()
    if "%00" in lowered or "\\" in lowered or "%5c" in lowered:
        raise ProtocolError(
            "request.path", "the path has a null byte or a backslash, which servers read in different ways"
        )
    if lowered.startswith(RESERVED_PATH) and exchange.path != SESSION_PATH:
        raise ProtocolError(
            "request.reserved_path",
            f"{exchange.path} is not served here",
            remedy=f"Only POST and DELETE {SESSION_PATH} are.",
            http_status=404,
        )


def check_body(exchange: Exchange, body: bytes | None) -> None:
    """As `check`, for the body: Rack and others take the method of a POST from a form's field. What is streamed past
    the decision (None) cannot be looked into."""
    if not body or exchange.method.upper() != "POST":
        return
    kinds = {value.decode("latin-1").partition(";")[0].strip().lower() for value in exchange.headers.all(_KIND)}
    # without a content-type, some take a body for a form
    form = (not kinds or any(_FORM in kind for kind in kinds)) and _IN_FORM.search(body)
    if form or (any(_MULTIPART in kind for kind in kinds) and _IN_PART.search(body)):
        raise ProtocolError(
            "request.method_override",
            "the form's field _method would change the method behind the rules",
            remedy="Send the real method instead.",
        )
