from __future__ import annotations

import gzip
import zlib

import brotli
import pytest
import zstandard

from ext_proc.hub.store.codings import Body, encoder, refuse_native_compression
from ext_proc.hub.store.faults import QueryError

DATA = b"some rows\n" * 10_000
CODED = {
    "": DATA,
    "identity": DATA,
    "gzip": gzip.compress(DATA),
    "deflate": zlib.compress(DATA),
    "zstd": zstandard.compress(DATA),
    "br": brotli.compress(DATA, quality=1),
}


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("step", [1 << 20, 777])
def test_body(coding: str, step: int) -> None:
    body = Body(coding, len(DATA))
    for start in range(0, len(CODED[coding]), step):
        body.feed(CODED[coding][start : start + step])
    assert body.bytes() == DATA


@pytest.mark.parametrize("coding", CODED)
def test_limit(coding: str) -> None:
    with pytest.raises(QueryError) as raised:
        Body(coding, len(DATA) - 1).feed(CODED[coding])
    assert raised.value.code == 131


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_cut_short(coding: str) -> None:
    body = Body(coding, len(DATA))
    body.feed(CODED[coding][: len(CODED[coding]) // 2])
    with pytest.raises(QueryError) as raised:
        body.bytes()
    assert raised.value.code == 33


def test_frames_follow_one_another() -> None:
    body = Body("gzip", 2 * len(DATA))
    body.feed(CODED["gzip"] + CODED["gzip"])
    assert body.bytes() == DATA + DATA


def test_garbage_and_unknown() -> None:
    with pytest.raises(QueryError):
        Body("gzip", 10).feed(b"not gzip at all")
    with pytest.raises(QueryError) as raised:
        Body("snappy", 10)
    assert raised.value.code == 48
    with pytest.raises(QueryError):
        refuse_native_compression({"decompress": "1"})
    refuse_native_compression({"compress": "0"})


def test_encoder() -> None:
    zstd = encoder("gzip, zstd;q=0.5")
    assert zstd is not None
    name, coder = zstd
    assert name == "zstd"
    assert zstandard.ZstdDecompressor().decompressobj().decompress(coder.compress(DATA) + coder.flush()) == DATA
    plain = encoder("gzip")
    assert plain is not None
    name, coder = plain
    assert gzip.decompress(coder.compress(DATA) + coder.flush()) == DATA
    assert encoder("br") is None
    assert encoder("") is None
