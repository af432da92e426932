"""Secrets by their name: `password = hunter2`, `"client_secret": "..."`, `api_key=...&`, `<token>...</token>`.

hyperscan finds a keyword with what separates a name from a value; here the whole identifier around it is judged, then
what stands after it, up to its closing quote or delimiter, by the name's level. Names and values are found in JSON, in
JSON within JSON strings at any depth, in forms (percent-encoded too), XML, HTML, YAML, multipart bodies, code and
command lines.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ext_proc.masking.detectors import Trigger
from ext_proc.masking.names import ENDINGS, KINDS, PASSWORDS, SECRETS, SERVICES, SHORT, level
from ext_proc.masking.values import Level

# --- what stands between a name and its value; for `re` and for hyperscan ---------------------------------------------

_ESCAPED = rb"""\\{1,7}u002[27]|&(?:quot|apos|#34|#39|#x22|#x27);|%(?:25)?2[27]"""
_Q = rb"""(?:\\{0,7}["'`]|""" + _ESCAPED + rb")"
_Q_BUT_JSON = rb"""(?:\\{1,7}["'`]|['`]|""" + _ESCAPED + rb")"
_OPERATOR = rb"(?::{0,3}={1,3}>?|!={1,2}|[?.+]=|->|:{1,2}|%3[AaDd])"
_TYPE = rb"[ \t]{1,3}[A-Za-z][A-Za-z\[\]<>]{1,14}"
_INDEX = rb"(?:\[\]|\]|%5[Dd])?"
_VALUE = rb"[,;]?\s{0,32}" + _Q + rb"?(?:[A-Za-z]{1,10}[_\-])?(?:value|content|default)" + _Q + rb"?\s{0,4}[:=]"
_PART = rb"(?:;[^\r\n]{0,60})?\r?\n(?:[A-Za-z\-]{1,30}:[^\r\n]{0,60}\r?\n){0,2}\r?\n"
_NEXT = rb"\s{0,4},\s{0,8}"
_IS = rb"\s{1,4}(?:is|was)\s{1,2}"

_SEPARATOR = re.compile(
    rb"(?P<close>%(q)s)?%(index)s"
    rb"(?:%(value)s|(?:[ \t]{0,4}:?%(type)s)?\s{0,8}(?P<operator>%(operator)s)|(?P<part>%(part)s)|(?P<tag>>)|"
    rb"(?P<guess>%(next)s(?=[bruf@]?%(q)s)|%(is)s|\s{1,4}(?=%(q)s)|\s{1,4}(?=[^\s\-])))"
    rb"(?:\s{0,16}[bruf@$]{0,2}(?P<open>%(q)s)|[ \t]{0,8})"
    rb"(?P<scheme>(?:bearer|basic|token|digest|apikey|ntlm|negotiate)(?:\s|%%20|\+){1,4})?"
    % {
        b"q": _Q, b"index": _INDEX, b"value": _VALUE, b"type": _TYPE, b"operator": _OPERATOR, b"part": _PART,
        b"next": _NEXT, b"is": _IS,
    },
    re.IGNORECASE,
)  # fmt: skip
_JSON = re.compile(
    rb"""\"\s{0,8}:\s{0,8}(?:(?P<string>\"(?!(?i:bearer|basic|token|digest|apikey|ntlm|negotiate)[ %+]))"""
    rb"""|(?P<number>[0-9.\-])|(?P<other>[\[{]|null|true|false))"""
)
"""The usual case, and of what it usually is that is no secret."""
_RUNS = {
    b'"': re.compile(rb"""(?:[^"\\\n]++|\\.)*+\\?""", re.DOTALL),
    b"'": re.compile(rb"""(?:[^'\\\n]++|\\.)*+\\?""", re.DOTALL),
    b"`": re.compile(rb"""[^`\n]*+"""),
    b"\\": re.compile(rb"""(?:[^"'\\\n]++|\\(?!u002[27])[^"'\\])*+\\?""", re.DOTALL),
    b"&": re.compile(rb"""(?:[^&"'<\n]++|&(?!quot;|apos;|\#))*+"""),
    b"%": re.compile(rb"""(?:[^%&\s"']++|%(?!(?:25)?2[27]))*+"""),
    b"form": re.compile(rb"""(?:[^\s"'`,;&<\\+%]++|%(?!20|0[AaDd]|26|2[27]|2[Cc]|3[Bb]))*+"""),
    b"json": re.compile(rb"""[^\s"'`,;&<>(){}\[\]|\\]*+\\?"""),
    b"<": re.compile(rb"""[^<]*+(?:</?)?"""),
    b"line": re.compile(rb"""[^\r\n]*+"""),
    b"": re.compile(rb"""[^\s"'`,;&<\\]*+\\?"""),
}

_IDENT = bytes(range(0x30, 0x3A)) + bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B)) + b"_-."
_NAME_REST = re.compile(rb"[A-Za-z0-9_\-]{0,40}")
_CALL = re.compile(rb"""\([bruf@]?\\{0,7}["'`]\Z""")
_CLOSING = {b")": b"(", b"]": b"[", b"}": b"{", b">": b"<"}


# --- how a name is found ----------------------------------------------------------------------------------------------


def _any(words: list[bytes]) -> bytes:
    return rb"(?:" + b"|".join(words) + rb")"


_REST = rb"[A-Za-z0-9_\-]{0,24}"
_ASSIGNS = rb"\s{0,8}(?:[:=,>?!]|%3[AaDd]|[.+\-]=|->)"
_FIRST = rb"(?:" + _ASSIGNS + rb"|\s{1,4}[\x22'`\\]|" + _TYPE + rb"\s{0,8}[:=]|" + _IS + rb")"
"""Up to the first character that separates, so that each name is reported once."""
_AFTER = _Q + rb"?" + _INDEX + _FIRST
_IN_JSON = rb"\x22\s{0,8}:\s{0,8}[^\s0-9\[{]"
_NOT_IN_JSON = (
    rb"(?:" + _Q_BUT_JSON + rb"?" + _INDEX + _FIRST
    + rb"|\x22(?:\]|%5[Dd])?\s{0,8}(?:[=,>?!]|[.+\-]=|->)|\x22\]?" + _IS + rb")"
)  # fmt: skip
_PAIRED = rb"\x22?(?:\s{1,4}value=|(?:\r?\n|\\n)\s{1,24}(?:[a-z]{1,10}_)?value)"
_RANDOM = rb"[A-Za-z0-9][A-Za-z0-9+/_.~%\-]{15}"
_GAP = rb"[^A-Za-z0-9]{0,6}[:=,>\x22'\s][^A-Za-z0-9]{0,8}"
_GAP_OF_ENDING = (
    rb"(?:" + _GAP + rb"|&quot;[:=]&quot;|%22%3[Aa]%22|\\{1,7}u0022: ?\\{1,7}u0022"
    rb"|[^A-Za-z0-9]{1,8}value[^A-Za-z0-9]{1,6})"
)  # fmt: skip
_EVERY = _any([*PASSWORDS, *SECRETS, *SHORT])


def _trigger(expression: bytes) -> Trigger:
    return Trigger(expression, 0, caseless=True)


TRIGGERS: tuple[Trigger, ...] = (
    _trigger(_any(PASSWORDS) + _REST + _AFTER),
    _trigger(_any(SHORT) + rb"[0-9]?" + _AFTER),
    _trigger(_any(SECRETS) + _REST + _IN_JSON),
    _trigger(_any(SECRETS) + _REST + _NOT_IN_JSON),
    _trigger(_EVERY + _REST + _PAIRED),
    _trigger(_EVERY + _REST + rb"\x22(?:;[^\r\n]{0,60})?\r?\n"),
    _trigger(rb"-(?:[A-Za-z0-9_\-]{1,24})?" + _EVERY + _REST + rb"\s"),
    _trigger(_any(ENDINGS) + rb"[0-9]?(?:_(?:" + KINDS + rb"))?" + _GAP_OF_ENDING + _RANDOM),
    # Each by itself: together they are twenty times as slow.
    *(_trigger(service + rb"[A-Za-z0-9_.\-]{0,16}" + _GAP + _RANDOM) for service in SERVICES),
)
"""Each begins with the name, or within it. What a value must begin with is asked for only where a stream holds it."""


class Place(NamedTuple):
    """Where the value under a secret-sounding name begins; `run` matches all of it."""

    start: int
    run: re.Pattern[bytes]
    kind: bytes  # of run
    bare: bool  # a JSON number or literal: its mask needs quotes of its own
    level: Level
    guess: bool  # as for values.plausible

    def value(self, buffer: bytes, run_end: int) -> tuple[int, int]:
        """Where in its run the value is: between tags without the space around it, elsewhere without the closing
        brackets of what is around it. Empty when a tag does not end the value."""
        start, run = self.start, buffer[self.start : run_end]
        if self.kind == b"<":
            text = run.removesuffix(b"</").rstrip()
            if not run.endswith(b"</"):
                return start, start
            return run_end - len(run.lstrip()), start + len(text)
        if self.kind in (b"", b"\\", b"json") and run.endswith(b"\\"):
            run = run[:-1]  # of the escape that ends it
        if self.kind == b"":
            while run[-1:] in _CLOSING and _CLOSING[run[-1:]] not in run:
                run = run[:-1]
        return start, start + len(run)


def _argument(buffer: bytes, name_start: int, name: bytes, closed: bool) -> bool:
    """Whether a name and the value after a comma are arguments: `f("api_token", "...")`, `f(CURLOPT_USERPWD, "...")`,
    or `["--password", "..."]`. In a list of JSON what stands side by side has nothing to do with each other."""
    if not closed:
        return name.isupper()
    return name.startswith(b"-") or _CALL.search(buffer, max(0, name_start - 12), name_start) is not None


def locate(buffer: bytes, keyword_start: int) -> Place | None:
    """Judges the identifier around a keyword and finds where the value after it begins."""
    rest = _NAME_REST.match(buffer, keyword_start)
    name_end = rest.end() if rest else keyword_start
    left = buffer[max(0, keyword_start - 48) : keyword_start]
    name_start = keyword_start - (len(left) - len(left.rstrip(_IDENT)))
    name = buffer[name_start:name_end]
    found = level(name)
    if not found:
        return None
    plain = _JSON.match(buffer, name_end)
    if plain is not None:
        value = plain.lastgroup
        if value == "string":
            return Place(plain.end(), _RUNS[b'"'], b'"', False, found, False)
        if value == "other" or found is not Level.ANY:
            return None
    separator = _SEPARATOR.match(buffer, name_end)
    if separator is None:
        return None
    opener = separator["open"] or b""
    close = separator["close"] or b""
    guess = separator["guess"]
    kind = opener[:1]
    if separator["part"]:
        kind = b"line"
    elif separator["tag"]:
        if buffer[name_start - 1 : name_start] not in (b"<", b":"):
            return None
        kind = kind or b"<"
    elif guess is not None and guess.isspace() and not opener and not name.startswith(b"-"):
        return None  # the next word of a text
    elif b"," in (guess or b"") and not _argument(buffer, name_start, name, bool(close)):
        return None
    elif not opener and separator["operator"] == b"=>":
        return None  # code, and there a text has quotes
    if not opener and b"%" in (separator["operator"] or b""):
        kind = b"form"
    bare = not opener and close == b'"' and separator["operator"] == b":"
    if bare:
        kind = b"json"
    if found is Level.LONG and name.lower() == b"key" and not (opener or close):
        return None
    return Place(separator.end(), _RUNS[kind], kind, bare, found, guess is not None)
