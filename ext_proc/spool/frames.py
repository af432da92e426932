"""How a journal's events lie on disk and travel to the hub: a chain of frames.

A frame is `u32 length | u32 crc32(payload) | payload`, little endian; the payload is one serialised journal.Event.
A payload has 1 byte to 8 MiB. A length of zero is corrupt on purpose: after a power cut a file may end in zeros,
which would otherwise read as endless empty frames with the right checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from zlib import crc32

HEADER_SIZE = 8
MAX_PAYLOAD = 8 << 20

_HEADER = struct.Struct("<II")
_pack = _HEADER.pack
_unpack_from = _HEADER.unpack_from

Buffer = bytes | bytearray | memoryview


class CorruptFrameError(ValueError):
    """The bytes at `offset` (in the buffer) are no frame, and more bytes would not make them one."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"no frame at offset {offset}: {why}")
        self.offset = offset


def encode(payload: bytes) -> bytes:
    """One frame. ValueError when the payload is empty or larger than 8 MiB."""
    size = len(payload)
    if not 0 < size <= MAX_PAYLOAD:
        raise ValueError(f"a frame holds 1 to {MAX_PAYLOAD} bytes, not {size}")
    return _pack(size, crc32(payload)) + payload


def scan(buffer: Buffer, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Every whole frame from `offset` on, as (offset after the frame, payload), its checksum verified.

    Ends quietly at a torn frame, whose rest may still come: the last offset yielded (or `offset`) is where to go on.
    Raises CorruptFrameError, after yielding what is whole before, where no further bytes could mend it.
    """
    view = memoryview(buffer)
    total = len(view)
    while total - offset >= HEADER_SIZE:
        size, checksum = _unpack_from(view, offset)
        if not 0 < size <= MAX_PAYLOAD:
            raise CorruptFrameError(offset, f"its length would be {size}")
        after = offset + HEADER_SIZE + size
        if after > total:
            return
        payload = bytes(view[offset + HEADER_SIZE : after])
        if crc32(payload) != checksum:
            raise CorruptFrameError(offset, "its checksum is wrong")
        offset = after
        yield offset, payload


def whole(buffer: Buffer, offset: int = 0) -> int:
    """The end of the last whole frame from `offset` on, by the lengths alone. CorruptFrameError as in `scan`."""
    total = len(buffer)
    while total - offset >= HEADER_SIZE:
        size = _unpack_from(buffer, offset)[0]
        if not 0 < size <= MAX_PAYLOAD:
            raise CorruptFrameError(offset, f"its length would be {size}")
        if offset + HEADER_SIZE + size > total:
            break
        offset += HEADER_SIZE + size
    return offset


def frame_size(header: Buffer) -> int:
    """The size in bytes of the frame that begins with these 8 bytes. CorruptFrameError as in `scan`."""
    size: int = _unpack_from(header, 0)[0]
    if not 0 < size <= MAX_PAYLOAD:
        raise CorruptFrameError(0, f"its length would be {size}")
    return HEADER_SIZE + size
