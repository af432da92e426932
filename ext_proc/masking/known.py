"""Values that must never be stored: the caller's token, the credentials, the placeholders, in every encoded form.

Each value yields a few literal heads (raw, percent-encoded, JSON-escaped, hex, base64 at its three alignments); one
hyperscan literal database finds the heads of all values at several GB/s, and a walk compares what follows: at once
where it is as it is, unit by unit where it is escaped, so that mixed escapes (`a%2Fb\\u0063`) are followed too. The
steps in one text are limited, because who sends both value and text can make every position look like a beginning.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote_from_bytes

import hyperscan

SHORTEST = 6
"""Values under this many bytes are matched only where they are a whole field's value."""
_HEAD = 12
_URL_TO_STD = bytes.maketrans(b"-_", b"+/")
_SIMPLE = {0x22: 0x22, 0x5C: 0x5C, 0x2F: 0x2F, 0x6E: 10, 0x72: 13, 0x74: 9, 0x62: 8, 0x66: 12}
_ESCAPES = re.compile(rb"[%\\&]")
_STEP = 128
_ENTITIES = {b"amp": 0x26, b"lt": 0x3C, b"gt": 0x3E, b"quot": 0x22, b"apos": 0x27}


@dataclass(frozen=True, slots=True)
class Known:
    """One value to mask. `name` is what the mask shows: `token`, `placeholder`, `credential:dd-api-key`.

    `redact` also blanks it in what the client receives: set for credentials, which the client must not learn.
    """

    name: str
    value: bytes = field(repr=False)
    redact: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """`value` occurs encoded in `buffer[start:end]`."""

    start: int
    end: int
    known: Known


@dataclass(frozen=True, slots=True)
class _Form:
    known: Known
    text: bytes
    kind: str  # plain, hex or base64


class KnownSet:
    """The compiled forms of some values. Not for use by two threads at a time (hyperscan's scratch space)."""

    def __init__(self, values: Iterable[Known]) -> None:
        self.values = tuple(dict.fromkeys(k for k in values if k.value))
        self.redacts = any(k.redact for k in self.values)
        self._forms: list[_Form] = []
        self._heads: list[bytes] = []
        for known in self.values:
            if len(known.value) >= SHORTEST:
                for form, head in dict.fromkeys((f, h.lower()) for f, h in _forms(known)):
                    self._forms.append(form)
                    self._heads.append(head)
        self._prefixes = frozenset(h[:n] for h in self._heads for n in range(1, len(h)))
        self._redact_prefixes = frozenset(
            h[:n] for h, f in zip(self._heads, self._forms, strict=True) if f.known.redact for n in range(6, len(h))
        )
        self._longest = max(map(len, self._heads), default=0)
        self._database: hyperscan.Database | None = None
        if self._heads:
            self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
            self._database.compile(
                self._heads, ids=list(range(len(self._heads))), flags=hyperscan.HS_FLAG_CASELESS, literal=True
            )

    def find(self, buffer: bytes, last: bool) -> tuple[list[Found], int]:
        """All occurrences, and the offset from which an occurrence may still be incomplete (the end if none)."""
        found, begun = self._search(buffer)
        if last:
            return found, len(buffer)
        undecided = min((start for start, _ in begun), default=len(buffer))
        return found, min(undecided, len(buffer) - self._partial(buffer, self._prefixes))

    def held_for_redaction(self, buffer: bytes) -> int:
        """From where on a credential may be about to appear; at least six of its head's bytes are there."""
        if not self.redacts:
            return len(buffer)
        undecided = min((start for start, known in self._search(buffer)[1] if known.redact), default=len(buffer))
        return min(undecided, len(buffer) - self._partial(buffer, self._redact_prefixes))

    def _search(self, buffer: bytes) -> tuple[list[Found], list[tuple[int, Known]]]:
        """All occurrences, those that overlap as one; and where the buffer ends within what may be one."""
        found: list[Found] = []
        begun: list[tuple[int, Known]] = []
        if self._database is None:
            return found, begun
        hits: list[tuple[int, int]] = []
        self._database.scan(buffer, match_event_handler=lambda i, _s, end, _f, _c: hits.append((i, end)))
        walk = _Walk(buffer)
        for number, head_end in hits:
            form = self._forms[number]
            start = head_end - len(self._heads[number])
            end = walk.end(start, form)
            if walk.exhausted:
                secret = next((known for known in self.values if known.redact), form.known)
                found.append(Found(start, len(buffer), secret))
                break
            if end is None:
                begun.append((start, form.known))
            elif end:
                if found and found[-1].known is form.known and found[-1].start <= start < found[-1].end:
                    start, end = found[-1].start, max(end, found.pop().end)
                found.append(Found(start, end, form.known))
        return found, begun

    def exact(self, value: bytes) -> Known | None:
        """The known value that a whole field's value is, also a short one."""
        for known in self.values:
            if known.value == value:
                return known
        return None

    def _partial(self, buffer: bytes, prefixes: frozenset[bytes]) -> int:
        end = buffer[-self._longest :].lower()
        for length in range(min(self._longest - 1, len(end)), 0, -1):
            if end[-length:] in prefixes:
                return length
        return 0


@lru_cache(maxsize=64)
def compiled(values: tuple[Known, ...]) -> KnownSet:
    """The set for these values; a job's requests have the same token, so most calls find it made (0.5 ms)."""
    return KnownSet(values)


def _forms(known: Known) -> Iterable[tuple[_Form, bytes]]:
    value = known.value
    plain = _Form(known, value, "plain")
    heads = dict.fromkeys(_plain_heads(value))
    for head in heads:
        yield plain, head
    as_hex = value.hex().encode()
    for head in dict.fromkeys((as_hex[: 2 * _HEAD], as_hex[: 2 * _HEAD].upper())):
        yield _Form(known, as_hex, "hex"), head
    for shift, skipped in ((0, 0), (1, 2), (2, 3)):
        bits = 8 * (shift + len(value))
        text = base64.b64encode(bytes(shift) + value)[skipped : bits // 6]
        if len(text) < SHORTEST:
            continue
        form = _Form(known, text, "base64")
        start = text[:_HEAD]
        quoted = quote_from_bytes(start, safe="").encode()
        url = start.translate(bytes.maketrans(b"+/", b"-_"))
        variants = (start, url, start.replace(b"/", b"\\/"), quoted, _lower_percent(quoted))
        for head in variants:
            yield form, head


def _plain_heads(value: bytes) -> Sequence[bytes]:
    start = value[:_HEAD]
    latin = start.decode("latin-1")
    dumped = json.dumps(latin)[1:-1].encode()
    escaped = html.escape(latin)
    heads = [start, dumped, dumped.replace(b"/", b"\\/")]
    heads += [
        h.encode("latin-1") for h in (escaped, html.escape(latin, quote=False), escaped.replace("&#x27;", "&#39;"))
    ]
    for safe in ("", "/", "/:@!$&'()*+,;="):
        quoted = quote_from_bytes(start, safe=safe).encode()
        heads += [quoted, _lower_percent(quoted), quoted.replace(b"%20", b"+")]
    for template in ("%%%02X", "%%%02x", "\\u00%02X", "\\u00%02x", "\\x%02x", "&#%d;", "&#x%x;"):
        heads.append("".join(template % byte for byte in start[:8]).encode())
    return heads


def _lower_percent(text: bytes) -> bytes:
    out = bytearray(text)
    at = text.find(b"%")
    while at >= 0:
        out[at : at + 3] = out[at : at + 3].lower()
        at = text.find(b"%", at + 3)
    return bytes(out)


class _Walk:
    """Follows forms through one buffer, in a number of steps that is linear in its size. Once they are used up
    (`exhausted`), all that follows counts as secret: no text that clients and upstreams send needs as many."""

    __slots__ = ("_buffer", "_left")

    def __init__(self, buffer: bytes) -> None:
        self._buffer = buffer
        self._left = len(buffer) // 8 + 32 * _STEP

    @property
    def exhausted(self) -> bool:
        return self._left < 0

    def end(self, start: int, form: _Form) -> int | None:
        """The end of `form` in the buffer from start; 0 when it is not there, None when the buffer ends first."""
        buffer, text = self._buffer, form.text
        self._left -= 1 + len(text) // (8 * _STEP)
        if form.kind == "plain" and buffer.startswith(text, start):
            return start + len(text)
        if form.kind != "plain" or start + len(text) > len(buffer):
            piece = buffer[start : start + len(text)]
            if form.kind == "hex":
                piece = piece.lower()
            elif form.kind == "base64":
                piece = piece.translate(_URL_TO_STD)
            if piece == text:
                return start + len(text)
            if text.startswith(piece):
                return None
        return 0 if form.kind == "hex" else self._escaped(start, form)

    def _escaped(self, start: int, form: _Form) -> int | None:
        buffer, text = self._buffer, form.text
        at, done = start, 0
        while done < len(text) and not self.exhausted:
            self._left -= 1
            same = _same(buffer, at, text, done)
            if same:
                at, done = at + same, done + same
                continue
            unit = _unit(buffer, at, text[done], form.kind == "base64")
            if not unit:
                return unit
            at, done = at + unit, done + 1
        return at


def _same(buffer: bytes, at: int, text: bytes, done: int) -> int:
    """How many bytes, at most a step, are the same from there on, up to what begins an escape."""
    piece = text[done : done + _STEP]
    stop = _ESCAPES.search(piece)
    most = min(stop.start() if stop else len(piece), len(buffer) - at)
    if buffer.startswith(piece[:most], at):
        return most
    low, high = 0, most  # low bytes are the same, high are not
    while high - low > 1:
        middle = (low + high) // 2
        if buffer.startswith(piece[low:middle], at + low):
            low = middle
        else:
            high = middle
    return low


def _unit(buffer: bytes, at: int, wanted: int, base64_text: bool) -> int | None:
    """How many bytes at `at` spell `wanted`: 0 if none do, None if the buffer ends first."""
    if at >= len(buffer):
        return None
    byte = buffer[at]
    if byte == 0x25:  # %XX
        return _escape(buffer, at, at + 1, 2, wanted, byte)
    if byte == 0x5C:  # \uXXXX \xXX \/
        if at + 1 >= len(buffer):
            return None
        kind = buffer[at + 1]
        if kind == 0x75:
            return _escape(buffer, at, at + 2, 4, wanted, byte)
        if kind == 0x78:
            return _escape(buffer, at, at + 2, 2, wanted, byte)
        if _SIMPLE.get(kind) == wanted:
            return 2
        return 1 if wanted == byte else 0
    if byte == 0x26:  # &amp; &#DD; &#xHH;
        return _entity(buffer, at, wanted)
    if byte == wanted or (base64_text and byte in b"-_" and b"+/"[b"-_".index(byte)] == wanted):
        return 1
    return 1 if byte == 0x2B and wanted == 0x20 else 0


def _escape(buffer: bytes, at: int, digits: int, count: int, wanted: int, raw: int) -> int | None:
    text = buffer[digits : digits + count]
    if len(text) < count:
        return None
    try:
        if int(text, 16) == wanted:
            return digits + count - at
    except ValueError:
        pass
    return 1 if wanted == raw else 0


def _entity(buffer: bytes, at: int, wanted: int) -> int | None:
    end = buffer.find(b";", at, at + 8)
    if end < 0:
        return None if len(buffer) < at + 8 else int(wanted == 0x26)
    text = buffer[at + 1 : end]
    value = _ENTITIES.get(text)
    if value is None and text[:1] == b"#":
        try:
            value = int(b"0" + text[1:], 16) if text[1:2] in (b"x", b"X") else int(text[1:])
        except ValueError:
            value = None
    return end + 1 - at if value == wanted else int(wanted == 0x26)
