"""What a secret looks like: the types that the catalog is written in.

A detector is found by a literal anchor (one hyperscan scan for all detectors), then its pattern is matched at the
anchor, then its check may refuse. Everything that a pattern can cover must be within `run`, so that a stream knows
whether a match might still be growing at the end of what has arrived.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

Check = Callable[[bytes], bool]

LEFT = rb"(?:(?<![A-Za-z0-9_])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{2}))"
"""A token starts here: no word character before it, or one that belongs to an escape (`\\n`, `%22`)."""


@dataclass(frozen=True, slots=True)
class Detector:
    """A secret of recognisable form.

    `anchors` are literals that every match begins with; `pattern` is matched where an anchor begins and its group
    `secret` (or all of it) is masked; `run` matches, from the same place, everything that might be part of a match,
    and `more` what may continue one in the middle.
    """

    name: str
    anchors: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    run: re.Pattern[bytes]
    more: re.Pattern[bytes]
    check: Check | None = None
    caseless: bool = False


def token(name: str, anchors: str, rest: str, *, chars: str = r"A-Za-z0-9_\-", check: Check | None = None) -> Detector:
    """A token that begins with one of the space-separated `anchors`; `rest` is the pattern of what follows."""
    literals = tuple(a.encode() for a in anchors.split())
    prefix = b"|".join(re.escape(a) for a in literals)
    return Detector(
        name,
        literals,
        re.compile(LEFT + b"(?:" + prefix + b")" + rest.encode() + b"(?![" + chars.encode() + b"])", re.DOTALL),
        re.compile(b"(?:" + prefix + b")[" + chars.encode() + b"]*+"),
        re.compile(b"[" + chars.encode() + b"]*+"),
        varied if check is None else lambda value: varied(value) and check(value),
    )


def after(name: str, anchors: str, secret: str, *, before: str = "", run: str, check: Check | None = None) -> Detector:
    """A secret that follows a literal: `before` is matched from the anchor's end, then `secret` is what is masked."""
    literals = tuple(a.encode() for a in anchors.split("|"))
    prefix = b"(?:" + b"|".join(re.escape(a) for a in literals) + b")" + before.encode()
    return Detector(
        name,
        literals,
        re.compile(prefix + b"(?P<secret>" + secret.encode() + b")", re.DOTALL | re.IGNORECASE),
        re.compile(prefix + b"(?P<secret>" + run.encode() + b")", re.DOTALL | re.IGNORECASE),
        re.compile(run.encode()),
        check,
        caseless=True,
    )


def entropy(value: bytes) -> float:
    """Shannon entropy in bits a byte."""
    if not value:
        return 0.0
    size = len(value)
    return -sum(n / size * math.log2(n / size) for n in Counter(value).values())


def varied(value: bytes) -> bool:
    """Not filler such as `ghp_xxxxxxxx`: more than six different characters."""
    return len(set(value.lower())) > 6


def random_looking(least: float) -> Check:
    """At least this entropy, and both a digit and a letter."""

    def check(value: bytes) -> bool:
        return (
            entropy(value) >= least
            and any(0x30 <= b <= 0x39 for b in value)
            and any(b | 0x20 in range(0x61, 0x7B) for b in value)
        )

    return check
