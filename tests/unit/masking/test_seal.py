"""Sealed parts."""

from __future__ import annotations

import pytest

from ext_proc.masking import SealError, seal, unseal

KEY, OTHER = b"k" * 32, b"o" * 32


def test_parts_open_alone_and_together() -> None:
    parts = [seal(KEY, b"one"), seal(KEY, b""), seal(KEY, b"three")]
    assert [unseal(KEY, p) for p in parts] == [b"one", b"", b"three"]
    assert unseal(KEY, b"as sent " + b"".join(parts)) == b"as sent onethree"


def test_the_same_data_never_looks_the_same() -> None:
    assert seal(KEY, b"one") != seal(KEY, b"one")


def test_every_changed_byte_is_noticed() -> None:
    part = seal(KEY, b"some data")
    for at in range(len(part)):
        changed = part[:at] + bytes([part[at] ^ 1]) + part[at + 1 :]
        with pytest.raises(SealError):
            unseal(KEY, changed)
    for end in range(len(part)):
        with pytest.raises(SealError):
            unseal(KEY, part[:end])


def test_another_key_is_named() -> None:
    with pytest.raises(SealError, match="another key"):
        unseal(OTHER, seal(KEY, b"x"))
