"""Masks fitted to JSON: a mark is always within a string, or in the place of a whole number or literal.

Detectors look at text, and what they find may begin or end within an escape, or cover a bracket. For the ledger that is
as good; a client must be able to parse what it gets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ext_proc.masking import client_mark
from ext_proc.pb import journal_pb2

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[^\s"{}\[\]:,]++', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_LONGEST_ESCAPE = 6


def fitted(text: bytes, masks: Sequence[journal_pb2.Mask]) -> bytes:
    """`text` (JSON) as a client is shown it, where `masks` are those of the record made of it."""
    parts: list[bytes] = []
    at = 0
    spans = _spans(masks)
    span = next(spans, None)
    for token in _TOKEN.finditer(text):
        start, end = token.span()
        while span is not None and span[0] < end:
            if span[1] > start:
                begin, finish, mark = _within(text, start, end, *span)
                if max(begin, at) < finish:
                    parts += (text[at : max(begin, at)], mark)
                    at = finish
            if span[1] > end:
                break  # it goes on in the next token
            span = next(spans, None)
        if span is None:
            break
    parts.append(text[at:])
    return b"".join(parts)


def _spans(masks: Sequence[journal_pb2.Mask]) -> Iterator[tuple[int, int, bytes]]:
    """Where in the original each mask is."""
    stored = original = 0
    for mask in masks:
        start = original + mask.start - stored
        stored, original = mask.start + mask.length, start + mask.original_length
        yield start, original, client_mark(mask.detector)


def _within(text: bytes, start: int, end: int, begin: int, finish: int, mark: bytes) -> tuple[int, int, bytes]:
    """The span within the token at `start`: inside a string, between its escapes; or all of another scalar, quoted."""
    if text[start] != 0x22:
        return start, end, b'"%b"' % mark
    begin, finish = max(begin, start + 1), min(finish, end - 1)
    split = _escape_at(text, start + 1, begin)
    if split is not None:
        begin = split[0]
    split = _escape_at(text, start + 1, finish)
    if split is not None:  # a backslash alone is no part of a secret; of a longer escape, all of it goes
        finish = split[0] if finish == split[0] + 1 else split[1]
    return begin, finish, mark


def _escape_at(text: bytes, start: int, at: int) -> tuple[int, int] | None:
    """The escape that `at` divides, in a string whose inside begins at `start`."""
    for first in range(max(start, at - _LONGEST_ESCAPE + 1), at):
        if text[first] != 0x5C:
            continue
        before = first
        while before > start and text[before - 1] == 0x5C:
            before -= 1
        if (first - before) % 2:
            continue  # it is itself escaped
        escape = _ESCAPE.match(text, first)
        if escape is not None and first < at < escape.end():
            return escape.span()
    return None
