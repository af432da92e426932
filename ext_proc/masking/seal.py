"""Bodies that cannot be inspected, encrypted before they are stored (`undecodable: seal`).

A sealed part is: format byte 0x01, 8 bytes of the key's id (the start of its SHA-256), 12 bytes of nonce, then
AES-256-GCM ciphertext and tag (NIST SP 800-38D). Each part opens by itself.
"""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_FORMAT = b"\x01"
_KEY_ID = 8
_NONCE = 12


class SealError(ValueError):
    """The part is not sealed, was changed, or was sealed with another key; the message says which."""


def key_id(key: bytes) -> bytes:
    """Tells keys apart without telling anything about them."""
    return hashlib.sha256(b"douane seal key" + key).digest()[:_KEY_ID]


def seal(key: bytes, data: bytes) -> bytes:
    """`key` is 32 bytes."""
    nonce = os.urandom(_NONCE)
    head = _FORMAT + key_id(key)
    return head + nonce + AESGCM(key).encrypt(nonce, data, head)


def unseal(key: bytes, part: bytes) -> bytes:
    """One sealed part's data. Raises SealError."""
    head, nonce, sealed = part[: 1 + _KEY_ID], part[1 + _KEY_ID : 1 + _KEY_ID + _NONCE], part[1 + _KEY_ID + _NONCE :]
    if head[:1] != _FORMAT or len(nonce) < _NONCE:
        raise SealError("this is not a sealed part")
    if head[1:] != key_id(key):
        raise SealError(f"sealed with another key: {head[1:].hex()}, not {key_id(key).hex()}")
    try:
        return AESGCM(key).decrypt(nonce, sealed, head)
    except InvalidTag:
        raise SealError("the sealed part was changed") from None
