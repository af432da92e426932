"""Content-codings undone as a stream, within a limit (RFC 9110 section 8.4, RFC 8878, RFC 7932, RFC 1950-1952).

A decoder hands out everything that its input so far decodes to, so the decoded length of any prefix is defined; the
hub uses the same decoders to continue where a record goes from `as_sent` to `decoded`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Protocol

import brotli
import zstandard

_ZSTD_SLICE = 256
"""zstd has no output limit, and four bytes may decode to 128 KiB: this many bytes yield at most 8 MiB."""
_ZSTD_WINDOW = 8 << 20
"""The largest window that RFC 9659 lets the zstd content-coding use."""
_LONGEST_LINE = 8192
_CHUNK_HEAD = re.compile(rb"([0-9a-fA-F]{1,12})(?:;chunk-signature=[0-9a-f]{64})?")


class CodingError(ValueError):
    """The bytes are not what the coding says; the message says how."""


class TooLargeError(ValueError):
    """The limit was passed."""


class Decoder(Protocol):
    def feed(self, data: bytes, limit: int) -> bytes:
        """What `data` adds, at most `limit` bytes. Raises CodingError, TooLargeError."""

    def finish(self) -> None:
        """Nothing follows. Raises CodingError when the coded body is cut short; no bytes at all are fine."""


class _Zlib:
    """gzip with any number of members, or deflate as zlib or (as some senders do) raw."""

    def __init__(self, gzip: bool) -> None:
        self._gzip = gzip
        self._start = b""
        self._member: zlib._Decompress | None = None
        self._members = 0

    def feed(self, data: bytes, limit: int) -> bytes:
        parts: list[bytes] = []
        data = self._start + data
        self._start = b""
        while data:
            if self._member is None:
                if self._members and not self._gzip:
                    raise CodingError("bytes follow the deflate stream")
                if len(data) < 2:
                    self._start = data
                    break
                if self._gzip:
                    if data[:2] != b"\x1f\x8b":
                        raise CodingError("bytes follow the gzip member" if self._members else "not gzip")
                    bits = 31
                else:
                    bits = 15 if data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0 else -15
                self._member = zlib.decompressobj(bits)
            try:
                part = self._member.decompress(data, limit + 1)
            except zlib.error as error:
                raise CodingError(str(error)) from None
            limit -= len(part)
            if limit < 0:
                raise TooLargeError
            parts.append(part)
            data = b""
            if self._member.eof:
                data = self._member.unused_data
                self._member = None
                self._members += 1
        return b"".join(parts)

    def finish(self) -> None:
        if self._member is not None or self._start:
            raise CodingError("cut short")


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()
        self._begun = False

    def feed(self, data: bytes, limit: int) -> bytes:
        if not data:
            return b""
        if self._stream.is_finished():
            raise CodingError("bytes follow the br stream")
        self._begun = True
        parts: list[bytes] = []
        try:
            while True:
                part: bytes = self._stream.process(data, output_buffer_limit=limit + 1)
                limit -= len(part)
                if limit < 0:
                    raise TooLargeError
                parts.append(part)
                if self._stream.can_accept_more_data() or self._stream.is_finished():
                    break
                data = b""
        except brotli.error as error:
            raise CodingError(str(error)) from None
        return b"".join(parts)

    def finish(self) -> None:
        if self._begun and not self._stream.is_finished():
            raise CodingError("cut short")


class _Zstd:
    def __init__(self) -> None:
        self._factory = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def feed(self, data: bytes, limit: int) -> bytes:
        parts: list[bytes] = []
        for at in range(0, len(data), _ZSTD_SLICE):
            piece = data[at : at + _ZSTD_SLICE]
            while piece:
                self._frame = self._frame or self._factory.decompressobj()
                try:
                    part = self._frame.decompress(piece)
                except zstandard.ZstdError as error:
                    raise CodingError(str(error)) from None
                limit -= len(part)
                if limit < 0:
                    raise TooLargeError
                parts.append(part)
                piece = b""
                if self._frame.eof:
                    piece = self._frame.unused_data
                    self._frame = None
        return b"".join(parts)

    def finish(self) -> None:
        if self._frame is not None:
            raise CodingError("cut short")


class _AwsChunked:
    """Amazon S3's framing of bodies whose checksum or signature follows: each chunk after its size in hex, then fields.
    What those fields say is handed out as well, so that it is looked at."""

    def __init__(self) -> None:
        self._line = b""  # a size, the line break behind a chunk, or a field, not complete yet
        self._left = 0  # bytes of the chunk still to come
        self._behind = False  # a chunk is over and its line break comes next
        self._fields = False
        self._over = False

    def feed(self, data: bytes, limit: int) -> bytes:
        parts: list[bytes] = []
        while data:
            if self._left:
                part, data = data[: self._left], data[self._left :]
                self._left -= len(part)
                self._behind = not self._left
            else:
                part, data = self._next_line(data)
            limit -= len(part)
            if limit < 0:
                raise TooLargeError
            parts.append(part)
        return b"".join(parts)

    def finish(self) -> None:
        if (self._line or self._left or self._behind) and not self._over:
            raise CodingError("cut short")

    def _next_line(self, data: bytes) -> tuple[bytes, bytes]:
        """What the line that goes on here hands out, and what is behind it."""
        line, end, rest = (self._line + data).partition(b"\n")
        if len(line) > _LONGEST_LINE:
            raise CodingError("not aws-chunked: a line is too long")
        if not end:
            self._line = line
            return b"", b""
        self._line = b""
        line = line.removesuffix(b"\r")
        if self._over:
            raise CodingError("bytes follow the aws-chunked body")
        if self._behind:
            self._behind = False
            if line:
                raise CodingError("not aws-chunked: a chunk is longer than its size")
        elif self._fields:
            self._over = not line
            return line + b"\n" if line else b"", rest
        else:
            match = _CHUNK_HEAD.fullmatch(line)
            if not match:
                raise CodingError("not aws-chunked: no size of a chunk")
            self._left = int(match[1], 16)
            self._fields = not self._left
        return b"", rest


class _Stack:
    """Several codings, the last applied first undone."""

    def __init__(self, decoders: list[Decoder]) -> None:
        self._decoders = decoders

    def feed(self, data: bytes, limit: int) -> bytes:
        for decoder in self._decoders:
            data = decoder.feed(data, limit)
        return data

    def finish(self) -> None:
        for decoder in self._decoders:
            decoder.finish()


_CODINGS: dict[str, Callable[[], Decoder]] = {
    "gzip": lambda: _Zlib(gzip=True),
    "x-gzip": lambda: _Zlib(gzip=True),
    "deflate": lambda: _Zlib(gzip=False),
    "br": _Brotli,
    "zstd": _Zstd,
    "zstd1": _Zstd,  # Datadog's name for it
    "aws-chunked": _AwsChunked,
}
_MOST_STACKED = 3


def decoder(content_encoding: bytes) -> Decoder | None:
    """The decoder for a content-encoding field's value; None when nothing is encoded. Raises CodingError if unknown."""
    if not content_encoding:
        return None
    names = [n for n in re.split(r"[\s,]+", content_encoding.decode("latin-1").lower()) if n and n != "identity"]
    if not names:
        return None
    if len(names) > _MOST_STACKED:
        raise CodingError(f"{len(names)} codings on top of each other")
    unknown = [n for n in names if n not in _CODINGS]
    if unknown:
        raise CodingError(f"unknown content-coding {unknown[0][:40]!r}")
    return _Stack([_CODINGS[n]() for n in reversed(names)])
