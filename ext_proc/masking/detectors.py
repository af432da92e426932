"""What a secret looks like: the types that the catalog is written in.

One hyperscan scan looks for the beginnings of all detectors (`Trigger`): a literal and as many of the characters after
it as every match has. Then the detector's pattern is matched there, and its check may refuse. Everything that a pattern
can cover must be within `run`, so that a stream knows whether a match might still be growing at the end of what has
arrived; a trigger may ask for characters of a secret only where a stream holds these back anyway (`TOKEN`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ext_proc.masking.checks import Check, varied

TOKEN = bytes(range(0x30, 0x3A)) + bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B)) + b"_-.+/=~%\\:|"
"""A stream decides a run of these when it has ended, so that a token is never cut."""

LEFT = rb"(?:(?<![A-Za-z0-9_])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{2}))"
"""A token starts here: no word character before it, or one that belongs to an escape (`\\n`, `%22`)."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """An expression for hyperscan. A match of `width` bytes begins that many before its end; of width 0, hyperscan must
    say where it begins."""

    expression: bytes
    width: int
    caseless: bool = False


@dataclass(frozen=True, slots=True)
class Detector:
    """A secret of recognisable form.

    `pattern` is matched where a trigger begins and its group `secret` (or all of it) is masked; `run` matches, from the
    same place, everything that might be part of a match, and `more` what may continue one in the middle.
    `begins` and `then` say it in the documentation.
    """

    name: str
    triggers: tuple[Trigger, ...]
    pattern: re.Pattern[bytes]
    run: re.Pattern[bytes]
    more: re.Pattern[bytes]
    check: Check | None
    begins: tuple[str, ...]
    then: str


def token(
    name: str,
    anchors: str,
    rest: str,
    *,
    chars: str = r"A-Za-z0-9_\-",
    check: Check = varied,
    whole: bool = False,
) -> Detector:
    """A token that begins with one of the space-separated `anchors`. `rest` is the pattern of what follows: it begins
    with a counted class, and all of it is of `chars`. `check` gets what `rest` matches, or the `whole` token."""
    literals = anchors.split()
    prefix = "|".join(map(re.escape, literals)).encode()
    least, count = _counted(rest)
    group = b"" if whole else b"?P<judged>"
    return Detector(
        name,
        tuple(Trigger(re.escape(a).encode() + least, len(a) + count) for a in literals),
        re.compile(LEFT + b"(?:%s)(%s%s)(?![%s])" % (prefix, group or b"?:", rest.encode(), chars.encode()), re.DOTALL),
        re.compile(b"(?:" + prefix + b")[" + chars.encode() + b"]*+"),
        re.compile(b"[" + chars.encode() + b"]*+"),
        check,
        tuple(literals),
        rest,
    )


def after(
    name: str, anchors: str, secret: str, *, before: str = "", least: str = "", run: str, check: Check | None = None
) -> Detector:
    """A secret that follows one of the `|`-separated literals, without regard to case: `before` is matched from the
    anchor's end, then `secret` is what is masked. `least` is how each secret begins: a counted class in `TOKEN`."""
    literals = anchors.split("|")
    prefix = b"(?:" + b"|".join(re.escape(a).encode() for a in literals) + b")" + before.encode()
    expression, count = _counted(least) if least else (b"", 0)
    return Detector(
        name,
        tuple(
            Trigger(
                re.escape(a).encode() + before.encode() + expression, 0 if before else len(a) + count, caseless=True
            )
            for a in literals
        ),
        re.compile(prefix + b"(?P<secret>" + secret.encode() + b")", re.DOTALL | re.IGNORECASE),
        re.compile(prefix + b"(?P<secret>" + run.encode() + b")", re.DOTALL | re.IGNORECASE),
        re.compile(run.encode()),
        check,
        tuple(literals),
        before + secret,
    )


def shape(
    name: str,
    begin: str | tuple[Trigger, ...],
    pattern: str,
    *,
    chars: str = r"A-Za-z0-9_\-",
    caseless: bool = False,
    check: Check | None = None,
) -> Detector:
    """A token without a literal in front: hyperscan finds `begin` and where it starts, `pattern` is matched there. All
    of the secret is of `chars`, a part of `TOKEN`; it is the group `secret`, or all that matches."""
    flags = re.DOTALL | (re.IGNORECASE if caseless else 0)
    edge = b"" if "(?P<secret>" in pattern else LEFT
    return Detector(
        name,
        begin if isinstance(begin, tuple) else (Trigger(begin.encode(), 0, caseless),),
        re.compile(edge + b"(?:" + pattern.encode() + b")(?![" + chars.encode() + b"])", flags),
        re.compile(b"[" + chars.encode() + b"]*+"),
        re.compile(b"[" + chars.encode() + b"]*+"),
        check,
        (),
        pattern,
    )


_ENOUGH = 8
"""Of a secret's characters in a trigger: enough that `sk-sk-sk-` is not looked at, and the database stays small."""
_COUNTED = re.compile(r"(\[(?:\\.|[^\]\\])+\])\{(\d+)")


def _counted(pattern: str) -> tuple[bytes, int]:
    """The class that `pattern` begins with, as an expression for so many of it as must be there, and their number."""
    begin = _COUNTED.match(pattern)
    if begin is None:
        raise ValueError(f"{pattern!r} does not begin with a counted class")
    count = min(_ENOUGH, int(begin[2]))
    return f"{begin[1]}{{{count}}}".encode(), count
