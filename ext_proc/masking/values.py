"""What may stand under a secret's name and still be none: placeholders, references, words, numbers, dates."""

from __future__ import annotations

import enum
import re

from ext_proc.masking.checks import entropy


class Level(enum.IntEnum):
    """How much a name says about its value, and so how little the value must look like a secret."""

    NONE = 0
    RANDOM = 1
    """`token`, `client_secret`: at least 8 characters that are no word, number or date."""
    ANY = 2
    """A password's name: any value that is no placeholder."""
    LONG = 3
    """`key`, `auth`, `salt`: names of much else, so at least 16 characters, most of them of random look."""


_PLACEHOLDER = re.compile(
    rb"""(?ix)
    ^(?:
      null|none|nil|true|false|undefined|empty|string|str|bytes|int|object|optional|required|redacted|hidden|secret|
      password|passwd|token|changeme|example|test|default|env|yes|no|unknown|n/?a|\W* |
      (.)\1* | \*+.* | \.{3}.* | x{3,}.* | .*\*{3,} | .*[*x]{6,} |
      <.*> | \[.*\] | \$.* | \{\{.*\}\} | %[a-z(].*% | %s | \#\{.*\} | \{.*\} |
      (?:your|my|the|some|enter|insert|replace|fake|dummy|sample|example|placeholder)[\s_\-].* |
      .*[\s_\-](?:here|placeholder|example) | (?-i:.*EXAMPLE.*) | .*\.{3} |
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
_SENTENCE = re.compile(rb"(?i)\b(?:is|are|was|must|should|cannot|can|please|your|the|enter|for|invalid|of|to|not)\b")
_REFERENCE = re.compile(
    rb"^[A-Za-z_$][\w$]*(?:(?:\.|->|::)[A-Za-z_$][\w$]*)*(?:[(\[].*|(?:\.|->|::)[\w$]*)$", re.DOTALL
)
_NAMED = re.compile(rb"(?i)(?:\.|->|::)\w*(?:passw|secret|token|key|pwd|cred|pass$|get|env|value|text)\w*$|[(\[]")
_UUID = re.compile(rb"^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$", re.IGNORECASE)
_PIECE = re.compile(rb"[A-Za-z0-9]+")
_TURN = re.compile(rb"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])|(?<=[A-Z]{2})(?=[a-z])")
_LONGEST_NUMBER = 15
"""From so many digits on a number under a secret's name is no count."""


def plausible(value: bytes, level: Level, *, guess: bool = False) -> bool:
    """Whether `value`, under a name of that level, is a secret. With `guess` name and value only stand side by side
    (`--password VALUE`, `secret is VALUE`), so a word is none."""
    value = value[:_JUDGED]
    if _PLACEHOLDER.match(value) or (_REFERENCE.match(value) and _NAMED.search(value)):
        return False
    if level is Level.LONG:
        return len(value) >= 16 and not _DATE.match(value) and looks_random(value)
    if level is Level.ANY:
        if guess and (len(value) < 6 or b" " in value or not _mixed(value)):
            return False
        return len(value) >= 4 and not (b" " in value and _WORDLIKE.match(value) and _SENTENCE.search(value))
    if len(value) < 8 or _DATE.match(value) or b" " in value.strip():
        return False
    if _NUMBER.match(value):
        return len(value) >= _LONGEST_NUMBER and b"." not in value
    if guess and not (_UUID.match(value) or (_mixed(value) and len(value) >= 12)):
        return False
    if _WORDLIKE.match(value):
        return (
            len(value) >= 20
            and b" " not in value
            and entropy(value) >= 4.0
            and not (value.islower() or value.isupper())
        )
    return entropy(value) >= 2.8


def looks_random(value: bytes) -> bool:
    """Whether most of `value` is in pieces that change between letters and digits, or cases, as words do not."""
    if _UUID.match(value):
        return True
    pieces = _PIECE.findall(value)
    size = sum(map(len, pieces))
    if not size or size < 0.75 * len(value) or entropy(value) < 2.9:
        return False
    strange = 0
    for piece in pieces:
        turns = len(_TURN.findall(piece))
        if turns >= max(2, len(piece) / 10) and not (piece.isalpha() and turns < len(piece) / 4):
            strange += len(piece)
    return strange >= 0.85 * size


def _mixed(value: bytes) -> bool:
    """Not letters alone, and not digits alone."""
    return not _WORDLIKE.match(value) and any(c > 0x40 for c in value) and any(c < 0x41 or c in b"_~^" for c in value)
