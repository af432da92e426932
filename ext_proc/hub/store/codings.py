"""Content codings of requests and answers, within a limit of decoded size."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import brotli
import zstandard

from ext_proc.hub.store.faults import QueryError, bad, unsupported


class _Decoder(Protocol):
    def decompress(self, data: bytes) -> bytes: ...

    @property
    def finished(self) -> bool: ...


class Encoder(Protocol):
    """Compresses one answer, piece by piece."""

    def compress(self, data: bytes) -> bytes: ...

    def flush(self) -> bytes: ...


class Body:
    """Collects a request's body, decoding it as it arrives. Above `limit` decoded bytes it is refused."""

    def __init__(self, coding: str, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._coding = coding.strip().lower()
        self._decoder = _decoder(self._coding)

    def feed(self, chunk: bytes) -> None:
        if not chunk:
            return
        # Compressed input is cut small, so that a bomb is noticed before it has grown.
        step = len(chunk) if self._decoder is None else 65536
        for start in range(0, len(chunk), step):
            piece = chunk[start : start + step]
            if self._decoder is not None:
                try:
                    piece = self._decoder.decompress(piece)
                except Exception as error:  # each library has its own; all mean the same
                    raise QueryError(33, "CANNOT_READ_ALL_DATA", f"The body is not {self._coding}: {error}") from None
            self._size += len(piece)
            if self._size > self._limit:
                raise QueryError(131, "TOO_LARGE_STRING_SIZE", f"The body is larger than {self._limit} bytes")
            self._parts.append(piece)

    def bytes(self) -> bytes:
        """All of it. QueryError when a compressed body is cut short."""
        if self._decoder is not None and self._parts and not self._decoder.finished:
            raise QueryError(33, "CANNOT_READ_ALL_DATA", f"The {self._coding} body is cut short")
        return b"".join(self._parts)


def encoder(accepted: str) -> tuple[str, Encoder] | None:
    """The coding for an answer to `Accept-Encoding: accepted`, zstd before gzip; None for neither."""
    offered = {item.partition(";")[0].strip().lower() for item in accepted.split(",")}
    if "zstd" in offered:
        return "zstd", zstandard.ZstdCompressor(level=1).compressobj()
    if "gzip" in offered:
        return "gzip", zlib.compressobj(1, zlib.DEFLATED, 31)
    return None


def _decoder(coding: str) -> _Decoder | None:
    if coding in {"", "identity"}:
        return None
    if coding in {"gzip", "x-gzip"}:
        return _Frames(lambda: zlib.decompressobj(31))
    if coding == "deflate":
        return _Frames(zlib.decompressobj)
    if coding == "zstd":
        return _Frames(zstandard.ZstdDecompressor().decompressobj)
    if coding == "br":
        return _Brotli()
    if coding == "lz4":
        # clickhouse-connect, which speaks it by default, brings the library.
        return _Frames(importlib.import_module("lz4.frame").LZ4FrameDecompressor)
    raise unsupported(f"Content-Encoding {coding} is not known here; use zstd, gzip, lz4, br or deflate")


class _Frames:
    """Frames (gzip's members) one after the other, as all of these codings allow."""

    def __init__(self, frame: Callable[[], Any]) -> None:
        self._frame = frame
        self._current: Any = None

    def decompress(self, data: bytes) -> bytes:
        out = []
        while data:
            if self._current is None:
                self._current = self._frame()
            out.append(self._current.decompress(data))
            data = b""
            if self._current.eof:
                data = self._current.unused_data or b""
                self._current = None
        return b"".join(out)

    @property
    def finished(self) -> bool:
        return self._current is None


class _Brotli:
    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()

    def decompress(self, data: bytes) -> bytes:
        return bytes(self._decoder.process(data))

    @property
    def finished(self) -> bool:
        return bool(self._decoder.is_finished())


def refuse_native_compression(params: dict[str, str]) -> None:
    """ClickHouse's own framing of compressed blocks (`compress=1`, `decompress=1`) is not HTTP's; it is not spoken."""
    for name in ("compress", "decompress"):
        if params.get(name, "0") not in {"0", "false", ""}:
            raise unsupported(f"{name}=1 (ClickHouse's own compressed blocks) is not supported; use HTTP's "
                              "Content-Encoding and Accept-Encoding with enable_http_compression=1")  # fmt: skip


def parse_text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise bad("The query is not UTF-8") from None
