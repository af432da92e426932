"""Bodies that cannot be inspected, encrypted before they are stored (`undecodable: seal`).

A sealed part is: the mark `\\0sealed\\1`, 8 bytes of the key's id, the ciphertext's length (u32, big endian), 12 bytes
of nonce, then AES-256-GCM ciphertext and tag (NIST SP 800-38D), with all before the nonce authenticated. So parts that
are stored one after the other can be told apart, and from what was stored as sent before them.
"""

from __future__ import annotations

import hashlib
import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_MARK = b"\0sealed\1"
_KEY_ID = 8
_NONCE = 12
_LENGTH = struct.Struct(">I")
_HEAD = len(_MARK) + _KEY_ID + _LENGTH.size
_TAG = 16


class SealError(ValueError):
    """The body is not sealed, was changed, or was sealed with another key; the message says which."""


def key_id(key: bytes) -> bytes:
    """Tells keys apart without telling anything about them."""
    return hashlib.sha256(b"douane seal key" + key).digest()[:_KEY_ID]


def seal(key: bytes, data: bytes) -> bytes:
    """`key` is 32 bytes; `data` is under 4 GiB."""
    nonce = os.urandom(_NONCE)
    head = _MARK + key_id(key) + _LENGTH.pack(len(data) + _TAG)
    return head + nonce + AESGCM(key).encrypt(nonce, data, head)


def unseal(key: bytes, stored: bytes) -> bytes:
    """The wire bytes of a body stored sealed: what was sent before the first part, and all parts. Raises SealError."""
    at = stored.find(_MARK)
    if at < 0:
        raise SealError("this is not a sealed body")
    pieces = [stored[:at]]
    opener = AESGCM(key)
    while at < len(stored):
        head = stored[at : at + _HEAD]
        if len(head) < _HEAD or not head.startswith(_MARK):
            raise SealError(f"what follows byte {at} is not a sealed part")
        owner = head[len(_MARK) : -_LENGTH.size]
        if owner != key_id(key):
            raise SealError(f"sealed with another key: {owner.hex()}, not {key_id(key).hex()}")
        (length,) = _LENGTH.unpack(head[-_LENGTH.size :])
        nonce = stored[at + _HEAD : at + _HEAD + _NONCE]
        at += _HEAD + _NONCE
        try:
            pieces.append(opener.decrypt(nonce, stored[at : at + length], head))
        except (InvalidTag, ValueError):
            raise SealError(f"the sealed part that ends at byte {at + length} was changed") from None
        at += length
    return b"".join(pieces)
