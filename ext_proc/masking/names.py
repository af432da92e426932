"""Secrets by their name: `password = hunter2`, `"client_secret": "..."`, `api_key=...&`.

A keyword is found by the scan; here the whole identifier around it is judged (`token_type` holds no token), then
what stands after it, up to its closing quote or delimiter, is judged by its name's rule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ext_proc.masking.detectors import entropy

KEYWORDS: tuple[bytes, ...] = (
    b"passw", b"passphrase", b"passcode", b"passwd", b"pwd", b"secret", b"token", b"apikey", b"api_key", b"api-key",
    b"app_key", b"app-key", b"appkey", b"application_key", b"application-key", b"applicationkey", b"access_key",
    b"access-key", b"accesskey", b"private_key", b"private-key", b"privatekey", b"credential", b"authorization",
    b"account_key", b"accountkey", b"encryption_key", b"encryptionkey", b"signing_key", b"shared_key", b"auth_key",
    b"authkey", b"master_key", b"license_key", b"connection_string", b"client_key", b"sas_key",
)  # fmt: skip

_IDENT = bytes(range(0x30, 0x3A)) + bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B)) + b"_-."
_NAME_REST = re.compile(rb"[A-Za-z0-9_\-]{0,24}")
_SEPARATOR = re.compile(
    rb"""(?:\\{0,3}["'])?\]?\s{0,8}"""
    rb"""(?::=|=>|==|!=|=|:|%3[Dd]|%3[Aa])(?:\s{0,8}[bru]?(?P<open>\\{0,3}["'`])|[ \t]{0,8})"""
    rb"""(?P<scheme>(?:bearer|basic|token|digest|apikey)(?:\s|%20|\+){1,4})?""",
    re.IGNORECASE,
)
_SPLIT = re.compile(rb"[_\-.]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_RUNS = {
    b'"': re.compile(rb"""(?:[^"\\\n]++|\\.)*+\\?""", re.DOTALL),
    b"'": re.compile(rb"""(?:[^'\\\n]++|\\.)*+\\?""", re.DOTALL),
    b"`": re.compile(rb"""[^`\n]*+"""),
    b"\\": re.compile(rb"""(?:[^"'\\\n]++|\\[^"'\\])*+\\?""", re.DOTALL),
    b"": re.compile(rb"""[^\s"'`,;&<>(){}\[\]|\\]*+\\?"""),
}

_NOT_SECRET_LAST = frozenset(
    b"type types count counts limit limits length size name names id ids url urls uri uris endpoint expiry expires "
    b"expiration expired ttl at in date time policy policies policyid prefix suffix scope scopes status state "
    b"enabled disabled required version algorithm alg hash format label title description hint regex pattern file "
    b"path filename filepath dir ref arn field column header usage used manager created updated modified lifetime "
    b"age rotation source provider kind per max min budget ids list set mode method methods owner role roles service "
    b"region last4 last digits ids placeholder location index resource group valid validity period".split()
)
_PUBLIC_WORDS = frozenset(
    b"public max min num total next prev previous page pagination continuation csrf cursor".split()
)
_STRONG = (b"passw", b"pwd", b"passphrase", b"passcode")

_PLACEHOLDER = re.compile(
    rb"""(?ix)
    ^(?:
      null|none|nil|true|false|undefined|empty|string|str|bytes|int|object|optional|required|redacted|hidden|secret|
      password|passwd|token|changeme|example|test|default|env|yes|no|unknown|n/?a|\W* |
      (.)\1* | \*+.* | \.{3}.* | x{3,}.* | .*\*{3,} | .*[*x]{6,} |
      <.*> | \[.*\] | \$.* | \{\{.*\}\} | %[a-z(].*% | \#\{.*\} | \{.*\} |
      (?:your|my|the|some|enter|insert|replace|fake|dummy|sample|example|placeholder)[\s_\-].* |
      .*[\s_\-](?:here|placeholder|example) |
      \[?masked.* | os\.(?:getenv|environ).* | (?:process\.)?env\..* | get_?env.* | vault: .* | secrets?\..* | var\..* |
      https?://[^@]* | pub[0-9a-f]{32}
    )$
    """
)
_JUDGED = 200
"""As much of a value decides what it is."""
_WORDLIKE = re.compile(rb"^[A-Za-z]+(?:[ _\-./:][A-Za-z]+)*[.!?]?$")
_DATE = re.compile(rb"^\d{4}-\d\d-\d\d")
_NUMBER = re.compile(rb"^-?\d+(?:\.\d+)?$")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the value under a secret-sounding name begins; `run` matches all of it."""

    start: int
    run: re.Pattern[bytes]
    kind: str  # of run
    bare: bool  # a JSON number or literal: its mask needs quotes of its own
    strong: bool


@lru_cache(maxsize=4096)
def strength(name: bytes) -> int:
    """0: not a secret's name; 1: the value must look random; 2: a password, any value that is no placeholder."""
    words = [w.lower() for w in _SPLIT.split(name) if w]
    if not words:
        return 0
    while words and words[-1].isdigit():
        words.pop()
    if not words or words[-1] in _NOT_SECRET_LAST:
        return 0
    if any(w in _PUBLIC_WORDS for w in words):
        return 0
    joined = b"".join(words)
    if joined.endswith((b"tokens", b"secrets", b"passwords", b"credentials")) and len(words) > 1:
        return 0
    if any(s in joined for s in _STRONG):
        return 1 if words[-1] == b"key" else 2
    return 1


def locate(buffer: bytes, keyword_start: int, keyword_end: int) -> Place | None:
    """Judges the identifier around a keyword and finds where the value after it begins."""
    rest = _NAME_REST.match(buffer, keyword_end)
    name_end = rest.end() if rest else keyword_end
    separator = _SEPARATOR.match(buffer, name_end)
    if separator is None:
        return None
    left = buffer[max(0, keyword_start - 48) : keyword_start]
    name_start = keyword_start - (len(left) - len(left.rstrip(_IDENT)))
    level = strength(buffer[name_start:name_end])
    if not level:
        return None
    opener = separator["open"] or b""
    kind = opener[:1]
    bare = not opener and buffer[name_end : name_end + 1] == b'"'
    return Place(separator.end(), _RUNS[kind], f"named {kind!r}", bare, level == 2)


def plausible(value: bytes, strong: bool) -> bool:
    """Whether a value under a secret's name is one, and not a placeholder, a reference, a word or a number."""
    value = value[:_JUDGED]
    if _PLACEHOLDER.match(value):
        return False
    if strong:
        return len(value) >= 4 and not (b" " in value and _WORDLIKE.match(value))
    if len(value) < 8 or _NUMBER.match(value) or _DATE.match(value) or b" " in value.strip():
        return False
    if _WORDLIKE.match(value):
        return (
            len(value) >= 20
            and b" " not in value
            and entropy(value) >= 4.0
            and not (value.islower() or value.isupper())
        )
    return entropy(value) >= 2.8
