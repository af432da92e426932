"""Which segments of a path name one thing of many, by their form alone: numbers, UUIDs, hashes, keys, addresses.

What looks like a word stays a word here, whatever it names; `templates` looks at how many of them there are.
"""

from __future__ import annotations

import re

_FORMS = re.compile(
    r"""
      -?\d[\d.:_-]*                                # numbers, dates, versions
    | [0-9a-fA-F]{4,}(?:-[0-9a-fA-F]{2,}){2,}      # UUIDs, also misspelt ones
    | (?=[a-f]*\d)[0-9a-f]{7,} | (?=[A-F]*\d)[0-9A-F]{7,}   # hashes
    | (?=.*\d)[a-z0-9]{3,4}(?:-[a-z0-9]{3,4}){2,3} # abc-12d-ef3, as Datadog and meeting rooms have them
    | (?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9]{16,}       # long letters and digits without a word break
    | (?=.*[A-Z])(?=.*[a-z])(?=.*\d)[A-Za-z0-9_-]{20,}=*    # base64url
    """,
    re.VERBOSE,
)
_MASK = "[MASKED:"
_LONG_NUMBER = re.compile(r"\d{5,}")
_NOT_A_WORD = re.compile(r"[^A-Za-z0-9._~:-]")
_CLASSES = str.maketrans({**dict.fromkeys("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", "x")})


def is_identifier(segment: str) -> bool:
    """Whether the segment names one of many. An empty one does not: it is a final slash."""
    if not segment:
        return False
    if _FORMS.fullmatch(segment) or _MASK in segment or _LONG_NUMBER.search(segment) or _NOT_A_WORD.search(segment):
        return True
    return ":" in segment and any(map(is_identifier, segment.split(":")))  # monitor:2695, security-rule:vcx-48m-psc


def shape(segment: str) -> str:
    """`abc-def-ghi` and `1b2-c3d-e4f` have one shape, `xxx-xxx-xxx`: its length and where its marks stand."""
    return segment.translate(_CLASSES)


def is_telling(form: str) -> bool:
    """Whether a shape is so particular that what shares it with identifiers is one: it has two marks, or is long."""
    return len(form) - form.count("x") >= 2 or len(form) >= 16


def is_named(segment: str) -> bool:
    """Whether the segment looks as people name things rather than as APIs name collections."""
    return any(c.isdigit() or c.isupper() or c == "." for c in segment)
