"""Texts within a text: what base64 and percent-encoding in it spell, and which characters a decoded byte came from.

A run is taken for base64 of a text when its first 24 characters decode to printable ASCII, which a run of letters that
is none does once in 200,000 times. Lines of a length that base64 is wrapped to go on, whether their ends are raw,
escaped in JSON (`\\n`), or the signs are percent-encoded (`%2B`). A run that reaches back beyond what is in view may
begin at any of four alignments; the one that decodes to text is taken.

A run of what forms and addresses consist of is taken for percent-encoded when a sign that separates names from values
is encoded in it.
"""

from __future__ import annotations

import binascii
import re
from bisect import bisect_right
from dataclasses import dataclass, field

TRIGGER = (
    rb"(?:^[A-Za-z0-9+/]{0,3}|\\[nr]|[^A-Za-z0-9+/_=\-])"
    rb"(?:[CDI-Za-f][ACDEFGHQSTUVWXgijklmnwyz0123][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9+/]){6}"
)
"""For hyperscan: the begin of a run whose first 18 bytes are ASCII and each group's first is printable (or a tab or
line end); it ends 24 characters after the begin."""
LEAST = 24
LONGEST_SHIFT = 3
"""A run that begins so near the begin of the view may have begun before it, at another alignment."""
MORE = re.compile(rb"(?:[A-Za-z0-9+/_\-=]++|\\{1,3}[rn]|\r?\n[ \t]{0,16}|%2[BbFf]|%3[Dd])*+")
"""What may continue a run in the middle."""

_LINE = re.compile(rb"(?:[A-Za-z0-9+/_\-]++|%2[BbFf])*+(?:=|%3[Dd]){0,2}")
_BREAK = re.compile(rb"(?:\\{1,3}[rn]|\r?\n[ \t]{0,16}){1,2}")
_ODD = re.compile(rb"\\{1,3}[rn]|[\r\n][ \t]{0,16}|%2[BbFf]|%3[Dd]")
_SIGNS = {b"%2b": b"+", b"%2f": b"/", b"%3d": b"="}
_WRAPPED = range(40, 125, 4)
"""Lengths of a line after which base64 may go on."""
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_NO_TEXT = re.compile(rb"[^\t\n\r -~]")


@dataclass(frozen=True, slots=True)
class View:
    """`buffer[start:end]` decodes to `text`. `open_end` says that it reaches the buffer's end, and may go on there."""

    text: bytes = field(repr=False)
    start: int
    end: int
    open_end: bool
    taken_out: list[tuple[int, int]] = field(repr=False)  # from this offset without odd bytes on, add so many
    base64: bool = True

    def begin(self, at: int) -> int:
        """Where the character in the buffer is that the decoded byte `at` begins in."""
        return self._raw(at * 4 // 3) if self.base64 else self._raw(at)

    def finish(self, at: int) -> int:
        """Where the character in the buffer ends that the byte before `at` ends in."""
        if at >= len(self.text):
            return self.end
        return self._raw((at * 4 + 2) // 3 - 1) + 1 if self.base64 else self._raw(at)

    def _raw(self, offset: int) -> int:
        if self.taken_out:
            offset += self.taken_out[bisect_right(self.taken_out, (offset, 1 << 60)) - 1][1]
        return self.start + offset


_STRUCTURE = rb"%(?:25)?(?:3[AaDd]|2[27]|0[AaDd]|7[Bb])"
_PLAIN = rb"[A-Za-z0-9_.\-~+*!()/:@$]*"
PERCENT_TRIGGERS = (_STRUCTURE + _PLAIN + rb"%", rb"%[0-9A-Fa-f]{2}" + _PLAIN + _STRUCTURE)
"""For hyperscan: an encoded `:`, `=`, quote, line end or brace, with another encoded byte after or before it. Ends in
the run."""
PERCENT_MORE = re.compile(rb"[A-Za-z0-9_.\-~+%*!()/:@$]*+")
"""A run that may be percent-encoded, and what may continue it."""
_IN_RUN = bytes(b for b in range(256) if re.match(rb"[A-Za-z0-9_.\-~+%*!()/:@$]", bytes([b])))
_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_FARTHEST = 4096
_LEAST_ESCAPES = 2
"""With fewer it is a name with its value, or a value alone, which are found as they are."""


def percent_view(buffer: bytes, hit: int, last: bool) -> View | None:
    """What the percent-encoded run around `hit` spells; None when it has too few escapes to hold a name and a value."""
    before = buffer[max(0, hit - _FARTHEST) : hit]
    start = hit - (len(before) - len(before.rstrip(_IN_RUN)))
    run = PERCENT_MORE.match(buffer, start)
    end = run.end() if run else start
    raw = buffer[start:end]
    open_end = end == len(buffer) and not last
    if not open_end and raw.count(b"%") < _LEAST_ESCAPES:
        return None
    parts: list[bytes] = []
    taken_out = [(0, 0)]
    at = size = 0
    for escape in _ESCAPE.finditer(raw):
        parts += [raw[at : escape.start()].replace(b"+", b" "), bytes((int(escape[0][1:], 16),))]
        size += escape.start() - at + 1
        at = escape.end()
        taken_out.append((size, at - size))
    parts.append(raw[at:].replace(b"+", b" "))
    return View(b"".join(parts), start, end, open_end, taken_out, base64=False)


def view(buffer: bytes, start: int, last: bool) -> View | None:
    """What the run of base64 at `start` decodes to; None when that is no text."""
    head = _decoded(buffer[start : start + LEAST])
    if not head or _NO_TEXT.search(head):
        return None
    end = _run_end(buffer, start, last)
    raw = buffer[start:end]
    taken_out: list[tuple[int, int]] = []
    if b"\n" in raw or b"\\" in raw or b"%" in raw:
        raw, taken_out = _without_odd(raw)
    raw = raw.translate(_TO_STANDARD).rstrip(b"=")
    usable = len(raw) - len(raw) % 4
    text = _decoded(raw[:usable])
    rest = raw[usable:]
    if len(rest) > 1:
        text += _decoded(rest + b"=" * (4 - len(rest)))
    return View(text, start, end, end == len(buffer) and not last, taken_out)


def _run_end(buffer: bytes, start: int, last: bool) -> int:
    line = _LINE.match(buffer, start)
    end = line.end() if line else start
    begin = start
    while end - begin in _WRAPPED or begin <= LONGEST_SHIFT:
        gap = _BREAK.match(buffer, end)
        if gap is None:
            break
        line = _LINE.match(buffer, gap.end())
        if line is None or line.end() == gap.end():
            return gap.end() if gap.end() == len(buffer) and not last else end
        begin, end = gap.end(), line.end()
    return end


def _without_odd(raw: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    parts: list[bytes] = []
    taken_out = [(0, 0)]
    at = size = 0
    for odd in _ODD.finditer(raw):
        sign = _SIGNS.get(odd[0].lower(), b"")
        parts += [raw[at : odd.start()], sign]
        size += odd.start() - at + len(sign)
        at = odd.end()
        taken_out.append((size, at - size))
    return b"".join([*parts, raw[at:]]), taken_out


def _decoded(quads: bytes) -> bytes:
    try:
        return binascii.a2b_base64(quads)
    except binascii.Error:
        return b""
