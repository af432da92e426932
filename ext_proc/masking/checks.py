"""What a candidate must still be, once its form is right: checksums, structure, entropy.

A checksum that is right proves a token; one that is wrong proves nothing (a format may change, and a test's token may
be made up), so then the rest must at least not be filler. A check gets what is behind the token's prefix.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable

Check = Callable[[bytes], bool]
_BASE62 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DIGIT = re.compile(rb"[0-9]")
_LETTER = re.compile(rb"[A-Za-z]")


def entropy(value: bytes) -> float:
    """Shannon entropy in bits a byte."""
    if not value:
        return 0.0
    size = len(value)
    return -sum(n / size * math.log2(n / size) for n in Counter(value).values())


_FILLER = re.compile(rb"(.)\1{5}")
_LONG_FILLER = re.compile(rb"(.)\1{15}")
_ALPHABET = re.compile(rb"abcdefghij|jklmnopqrs|qrstuvwxyz")


def varied(value: bytes) -> bool:
    """no filler"""
    low = value.lower()
    return len(set(low)) > 2 and _FILLER.search(low) is None and _ALPHABET.search(low) is None


def mixed(value: bytes) -> bool:
    """at least 3 bits a byte, with a digit and a letter"""
    return _DIGIT.search(value) is not None and _LETTER.search(value) is not None and entropy(value) >= 3.0


def slack(value: bytes) -> bool:
    """a number of ten digits or more, or a last part of letters and digits; none of it filler"""
    parts = value.split(b"-")
    if any(_LETTER.match(part) and _FILLER.search(part.lower()) for part in parts):
        return False
    return any(part.isdigit() and len(part) >= 10 for part in parts) or (len(parts[-1]) >= 11 and mixed(parts[-1]))


def with_digit(value: bytes) -> bool:
    """at least one digit"""
    return _DIGIT.search(value) is not None


def github(value: bytes) -> bool:
    """CRC32 in the last 6 characters (base 62), or no filler"""
    return crc32_base62(value) or varied(value)


def crc32_base62(value: bytes) -> bool:
    """Whether the last six characters are the CRC32 of the others, in base 62: GitHub's and npm's tokens."""
    body, digits = value[:-6], value[-6:]
    total = 0
    for digit in digits:
        total = total * 62 + _BASE62.index(digit) if digit in _BASE62 else -1 << 40
    return bool(body) and total == zlib.crc32(body)


def grafana(value: bytes) -> bool:
    """CRC32 after the last `_` (hexadecimal), or no filler"""
    body, _, digits = value.rpartition(b"_")
    return digits == b"%08x" % zlib.crc32(body) or varied(value)


def jwt(value: bytes) -> bool:
    """the head decodes to a JSON object"""
    return _json_object(value.split(b".", 1)[0])


def json_in_base64(value: bytes) -> bool:
    """it decodes to a JSON object"""
    return _json_object(value)


def _json_object(value: bytes) -> bool:
    try:
        text = base64.urlsafe_b64decode(value.rstrip(b"=") + b"=" * (-len(value.rstrip(b"=")) % 4))
        return isinstance(json.loads(text), dict)
    except (ValueError, binascii.Error, RecursionError):
        return False


def basic(value: bytes) -> bool:
    """it decodes to a text with a colon"""
    try:
        return b":" in base64.b64decode(value.rstrip(b"=") + b"=" * (-len(value.rstrip(b"=")) % 4), validate=True)
    except binascii.Error:
        return False


def aws_key_id(value: bytes) -> bool:
    """not one of AWS's documentation (`...EXAMPLE`), no `XXXX`"""
    return not value.endswith(b"EXAMPLE") and b"XXXX" not in value


_GROUP = re.compile(rb"[a-z_\-]+")


def user_and_password(value: bytes) -> bool:
    """a password that is no placeholder, no number or lower-case word (a group), and not the user's name"""
    user, _, password = value.strip(b"'\"").partition(b":")
    return (
        len(password) >= 4
        and user != password
        and not password.isdigit()
        and not _GROUP.fullmatch(password)
        and not any(c in value for c in (b"<", b"{", b"$(", b"%(", b"[MASKED"))
        and not _VARIABLE.match(password)
    )


_VARIABLE = re.compile(
    rb"(?i)[$*{<%]|\[.*\]$|(?:your|my|the)?[_-]?(?:password|pass|passwd|secret|token|pwd)$|x+$|\.{3}"
)


def url_password(value: bytes) -> bool:
    """no variable or placeholder"""
    return not value.startswith(b"[MASKED") and not _VARIABLE.match(value)


def quoted_random(value: bytes) -> bool:
    """hexadecimal: at least 3 bits a byte; base64: 4.3, an eighth of it in each case, with a digit or sign"""
    text = value.rstrip(b"=")
    if re.fullmatch(rb"[0-9a-f]+|[0-9A-F]+", text):
        return entropy(text) >= 3.0 and not text.isdigit()
    return (
        len(text) >= 38
        and entropy(text) >= 4.3
        and len(re.findall(rb"[a-z]", text)) >= len(text) / 8
        and len(re.findall(rb"[A-Z]", text)) >= len(text) / 8
        and re.search(rb"[0-9+/]", text) is not None
    )


def no_long_filler(value: bytes) -> bool:
    """no character sixteen times in a row"""
    return _LONG_FILLER.search(value) is None


def no_word(value: bytes) -> bool:
    """not letters alone, no variable"""
    return not value.isalpha() and not value.startswith((b"$", b"{", b"<", b"%", b"*", b"@", b":", b"-", b"?"))
