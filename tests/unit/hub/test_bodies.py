from __future__ import annotations

import gzip
import random
import zlib
from hashlib import sha256

import brotli
import pytest
import zstandard

from ext_proc.config.models import Masking
from ext_proc.hub.attempts import Body, Gate, JournalKey, Ref
from ext_proc.hub.bodies import INLINE_BYTES, NOTHING, TEXT_BYTES, Stored, store
from ext_proc.masking import AS_SENT, DECODED, SEALED, Known, Masker
from ext_proc.pb import journal_pb2 as pb

JOURNAL = JournalKey(Gate("w", "g"), 0, "j")
CODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "zstd1": zstandard.ZstdCompressor().compress,
}


def stored(
    pieces: list[tuple[int, bytes | Ref]], coding: str = "", kept: dict[int, bytes] | None = None, limit: int = 1 << 26
) -> tuple[Stored, list[bytes]]:
    parts: list[bytes] = []

    def spill(n: int, data: bytes) -> None:
        assert n == len(parts)
        parts.append(data)

    return store(
        Body(pieces), coding.encode(), read=lambda ref: (kept or {})[ref.offset], spill=spill, max_decoded=limit
    ), parts


def test_nothing_has_the_hash_of_nothing():
    assert stored([])[0] == NOTHING == Stored(b"", b"", 0, sha256(b"").digest(), AS_SENT)


def test_pieces_are_joined_also_those_that_stayed_in_the_journal():
    found, parts = stored([(0, b"ab"), (0, Ref(JOURNAL, 7, 10)), (0, b"e")], kept={7: b"cd"})
    assert (found.inline, found.size, found.sha256, found.form, parts) == (
        b"abcde",
        5,
        sha256(b"abcde").digest(),
        0,
        [],
    )


@pytest.mark.parametrize(
    "size", [INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, 3 * INLINE_BYTES, 3 * INLINE_BYTES + 1]
)
@pytest.mark.parametrize("piece", [INLINE_BYTES * 9, 300_000])
def test_above_a_mebibyte_it_goes_in_parts(size, piece):
    body = random.Random(size).randbytes(size)
    found, parts = stored([(0, body[at : at + piece]) for at in range(0, size, piece)])
    assert (found.size, found.sha256) == (size, sha256(body).digest())
    assert found.inline + b"".join(parts) == body
    assert bool(parts) == (size > INLINE_BYTES)
    assert all(len(part) == INLINE_BYTES for part in parts[:-1])
    assert all(0 < len(part) <= INLINE_BYTES for part in parts)


@pytest.mark.parametrize("coding", CODERS)
def test_decoded_text_is_there_to_be_searched(coding):
    text = b"the Najdorf variation " * 50
    wire = CODERS[coding](text)
    found, _ = stored([(0, wire[:20]), (0, wire[20:])], coding)
    assert (found.inline, found.text, found.form) == (wire, text, AS_SENT)


def test_text_is_cut_and_a_bomb_stops_at_the_limit():
    bomb = gzip.compress(bytes(64 << 20))
    assert len(stored([(0, bomb)], "gzip")[0].text) == TEXT_BYTES
    assert len(stored([(0, bomb)], "gzip", limit=1000)[0].text) <= 1000


def test_what_cannot_be_decoded_is_stored_all_the_same():
    wire = gzip.compress(b"some text that goes on and on") * 1
    for body, coding in ((wire[:-12], "gzip"), (b"no gzip", "gzip"), (b"x", "rot13"), (b"x", "gzip, gzip, gzip, gzip")):
        found, _ = stored([(0, body)], coding)
        assert found.inline == body
        assert found.form == AS_SENT
    assert b"some text" in stored([(0, wire[:-9])], "gzip")[0].text


@pytest.mark.parametrize("coding", CODERS)
@pytest.mark.parametrize("chunk", [1, 7, 100, 100_000])
def test_masks_point_at_their_spans_where_a_body_goes_from_sent_to_decoded(coding, chunk):
    """Worker and hub agree: what the masker calls an offset is an offset in what is stored."""
    generator = random.Random(chunk)
    secret = b"sk-live-0123456789abcdef0123"
    noise = "".join(generator.choice("abcdefgh \n") for _ in range(9000)).encode()
    text = noise[:6000] + secret + noise[6000:7000] + secret + noise[7000:]
    wire = CODERS[coding](text)
    masker = Masker(Masking(detectors="none"), b"k" * 32, 1 << 26).exchange([Known("token", secret)])
    body = masker.body(pb.RESPONSE, b"text/plain", coding.encode())
    pieces: list[tuple[int, bytes | Ref]] = []
    masks: list[pb.Mask] = []
    for at in range(0, len(wire), chunk):
        step = body.feed(wire[at : at + chunk], last=at + chunk >= len(wire))
        masks += step.masks
        if step.record:
            pieces.append((step.form, step.record))
    found, _ = stored(pieces, coding)
    assert found.form == DECODED
    assert found.text == b""
    assert secret not in found.inline
    assert len(masks) == 2
    unmasked = found.inline
    for mask in reversed(masks):
        assert unmasked[mask.start : mask.start + mask.length].startswith(b"[MASKED:token:")
        unmasked = unmasked[: mask.start] + secret + unmasked[mask.start + mask.length :]
    assert unmasked == text


def test_a_sealed_end_makes_the_body_sealed():
    found, _ = stored([(AS_SENT, b"\x1f\x8b"), (SEALED, b"\0sealed\1...")], "gzip")
    assert (found.inline, found.form, found.text) == (b"\x1f\x8b\0sealed\1...", SEALED, b"")
