"""WebSocket frames as they are looked at and stored: a client's payloads unmasked (RFC 6455 section 5.3).

What a client sends is XORed with a key in each frame, so no secret shows in the wire bytes. The record holds the same
frames with the mask bit cleared and the key left out; where a secret is masked in one, its length field still says
the original length. Compressed payloads (permessage-deflate) are not undone: the extension must not be negotiated.
"""

from __future__ import annotations

import struct

_MASKED = 0x80


class Unmasker:
    """A `codings.Decoder` for the bytes after a WebSocket upgrade. Frames of any size stream through."""

    def __init__(self) -> None:
        self._head = b""  # of a frame, incomplete
        self._left = 0  # payload bytes of the present frame that have not arrived
        self._key = b""

    def feed(self, data: bytes, limit: int) -> bytes:
        """What `data` adds. It is never longer than `data`, so `limit` does not apply."""
        del limit
        out: list[bytes] = []
        at = 0
        while at < len(data):
            if self._left:
                payload = data[at : at + self._left]
                out.append(self._unmask(payload))
                at += len(payload)
                self._left -= len(payload)
                continue
            start = at - len(self._head)
            view = self._head + data[at : at + 14]
            size = _head_size(view)
            if size is None or len(view) < size:
                self._head = view
                break
            self._head = b""
            at = start + size
            out.append(self._begin(view[:size]))
        return b"".join(out)

    def finish(self) -> None:
        """A connection may end anywhere."""

    def _begin(self, head: bytes) -> bytes:
        short = head[1] & 0x7F
        extended = {126: 2, 127: 8}.get(short, 0)
        self._left = int.from_bytes(head[2 : 2 + extended], "big") if extended else short
        self._key = head[2 + extended :]
        return struct.pack("BB", head[0], short) + head[2 : 2 + extended]

    def _unmask(self, payload: bytes) -> bytes:
        if not self._key:
            return payload
        key = (self._key * (len(payload) // 4 + 1))[: len(payload)]
        turn = len(payload) % 4
        self._key = self._key[turn:] + self._key[:turn]
        return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


def _head_size(view: bytes) -> int | None:
    if len(view) < 2:
        return None
    return 2 + {126: 2, 127: 8}.get(view[1] & 0x7F, 0) + (4 if view[1] & _MASKED else 0)
