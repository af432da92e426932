"""Content-codings: decoded as a stream within a limit, stored as sent while clean, decoded from the first mask on."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard

from ext_proc.config.models import Masking
from ext_proc.masking import AS_SENT, DECODED, SEALED, BombError, Known, Masker, Step, UndecodableError, unseal
from ext_proc.masking.codings import CodingError, decoder
from ext_proc.pb import journal_pb2

KEY = b"0123456789abcdef0123456789abcdef"
SECRET = b"ghp_" + b"aB3" * 12


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


def zstd_streamed(data: bytes) -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()
    return (
        b"".join(
            stream.compress(data[i : i + 100]) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
            for i in range(0, len(data), 100)
        )
        + stream.flush()
    )


CODINGS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"X-GZIP", gzip.compress),
    "gzip members": (b"gzip", lambda d: gzip.compress(d[:200]) + gzip.compress(b"") + gzip.compress(d[200:])),
    "deflate": (b"deflate", zlib.compress),
    "raw deflate": (b"deflate", raw_deflate),
    "br": (b"br", brotli.compress),
    "zstd": (b"zstd", zstd),
    "zstd1": (b"zstd1", zstd),
    "zstd blocks": (b"zstd", zstd_streamed),
    "zstd frames": (b"zstd", lambda d: zstd(d[:300]) + zstd(d[300:])),
    "stacked": (b"gzip, br", lambda d: brotli.compress(gzip.compress(d))),
    "identity too": (b"identity, gzip", gzip.compress),
}


def noise(size: int) -> bytes:
    """JSON that does not compress to nothing, so that splits fall everywhere."""
    chance = random.Random(3)
    return b'{"a": [' + b", ".join(b'"%x"' % chance.getrandbits(40) for _ in range(size // 14)) + b"]}"


CLEAN = noise(1200)
DIRTY = CLEAN[:700] + b'", "note ' + SECRET + b' end", "' + CLEAN[700:]


@pytest.fixture(scope="module")
def masker() -> Masker:
    return Masker(Masking(), KEY, 1 << 20, seal_key=b"s" * 32)


def steps(masker: Masker, coding: bytes, chunks: list[bytes], **options: object) -> list[Step]:
    body = masker.exchange().body(journal_pb2.RESPONSE, b"application/json", coding, **options)  # type: ignore[arg-type]
    out = [body.feed(c, last=False) for c in chunks]
    return [*out, body.feed(b"", last=True)]


def splits(wire: bytes, count: int) -> list[list[bytes]]:
    chance = random.Random(5)
    out = [[wire], [wire[i : i + 1] for i in range(len(wire))]]
    for _ in range(count):
        cuts = sorted(chance.randrange(len(wire)) for _ in range(chance.randrange(1, 9)))
        out.append([wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)])
    return out


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize("interactive", [False, True])
def test_a_clean_body_is_stored_as_sent(masker: Masker, name: str, interactive: bool) -> None:
    coding, encode = CODINGS[name]
    wire = encode(CLEAN)
    for chunks in splits(wire, 25):
        fed = steps(masker, coding, chunks, interactive=interactive)
        assert b"".join(s.record for s in fed) == wire
        assert b"".join(s.release for s in fed) == wire
        assert all(s.form == AS_SENT and not s.masks for s in fed)
        if interactive:
            assert [s.release for s in fed] == [*chunks, b""]


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize("interactive", [False, True])
def test_from_the_first_mask_on_the_record_is_decoded(masker: Masker, name: str, interactive: bool) -> None:
    coding, encode = CODINGS[name]
    wire = encode(DIRTY)
    mark = f"[MASKED:github:{masker.fingerprint(SECRET)}]".encode()
    for chunks in splits(wire, 25):
        fed = steps(masker, coding, chunks, interactive=interactive)
        sent = b"".join(s.record for s in fed if s.form == AS_SENT)
        decoded = b"".join(s.record for s in fed if s.form == DECODED)
        forms = [s.form for s in fed if s.record]
        assert forms == sorted(forms)
        assert wire.startswith(sent)
        prefix = decoder(coding)
        assert prefix is not None
        assert prefix.feed(sent, 1 << 20) + decoded == DIRTY.replace(SECRET, mark)
        assert b"".join(s.release for s in fed) == wire
        (mask,) = [m for s in fed for m in s.masks]
        assert DIRTY.replace(SECRET, mark)[mask.start : mask.start + mask.length] == mark


@pytest.mark.parametrize("name", CODINGS)
def test_nothing_is_released_before_it_is_recorded(masker: Masker, name: str) -> None:
    coding, encode = CODINGS[name]
    wire = encode(DIRTY)
    body = masker.exchange().body(journal_pb2.RESPONSE, b"", coding)
    released = recorded = 0
    plain = decoder(coding)
    assert plain is not None
    for i in range(len(wire)):
        step = body.feed(wire[i : i + 1], last=False)
        recorded += (len(step.record) if step.form == DECODED else len(plain.feed(step.record, 1 << 20))) + sum(
            m.original_length - m.length for m in step.masks
        )
        released += len(step.release)
        shown = decoder(coding)
        assert shown is not None
        assert len(shown.feed(wire[:released], 1 << 20)) <= recorded


@pytest.mark.parametrize("name", [n for n in CODINGS if n != "identity too"])
def test_an_encoded_body_without_bytes_is_fine(masker: Masker, name: str) -> None:
    fed = steps(masker, CODINGS[name][0], [])
    assert [(s.record, s.release) for s in fed] == [(b"", b"")]


@pytest.mark.parametrize("name", CODINGS)
def test_cut_short(masker: Masker, name: str) -> None:
    coding, encode = CODINGS[name]
    wire = encode(CLEAN)
    with pytest.raises(UndecodableError) as caught:
        steps(masker, coding, [wire[:-3]])
    assert (caught.value.reason, caught.value.http_status) == ("body.undecodable", 502)


@pytest.mark.parametrize("name", CODINGS)
def test_garbage_after_the_end(masker: Masker, name: str) -> None:
    coding, encode = CODINGS[name]
    with pytest.raises(UndecodableError):
        steps(masker, coding, [encode(CLEAN), b"garbage!"])


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd", b"gzip, zstd"])
def test_not_what_it_says(masker: Masker, coding: bytes) -> None:
    with pytest.raises(UndecodableError):
        steps(masker, coding, [b'{"plain": "text, and long enough to be sure of it"}'])


@pytest.mark.parametrize("coding", [b"compress", b"gzip, aes128gcm", b"gzip, gzip, gzip, gzip"])
def test_unknown_codings(masker: Masker, coding: bytes) -> None:
    with pytest.raises(UndecodableError) as caught:
        masker.exchange().body(journal_pb2.REQUEST, b"", coding)
    assert caught.value.http_status == 415


@pytest.mark.parametrize("name", CODINGS)
def test_bombs(masker: Masker, name: str) -> None:
    coding, encode = CODINGS[name]
    bomb = encode(b"0" * (8 << 20))
    body = masker.exchange().body(journal_pb2.REQUEST, b"", coding)

    def feed() -> None:
        for i in range(0, len(bomb), 4096):
            body.feed(bomb[i : i + 4096], last=False)

    with pytest.raises(BombError) as caught:
        feed()
    assert (caught.value.reason, caught.value.http_status) == ("body.bomb", 413)


def test_what_cannot_be_decoded_is_sealed_where_that_is_asked_for(masker: Masker) -> None:
    unknown = steps(masker, b"aes128gcm", [b"one", b"two"], undecodable="seal")
    assert [(s.form, s.release) for s in unknown] == [(SEALED, b"one"), (SEALED, b"two"), (SEALED, b"")]
    assert [unseal(b"s" * 32, s.record) for s in unknown if s.record] == [b"one", b"two"]
    wire = gzip.compress(CLEAN)[:-8] + b"corrupt!" + b"more"
    fed = steps(masker, b"gzip", [wire[:200], wire[200:400], wire[400:-4], wire[-4:]], undecodable="seal")
    assert [s.form for s in fed if s.record] == [AS_SENT, SEALED, SEALED]
    assert unseal(b"s" * 32, b"".join(s.record for s in fed)) == wire
    assert b"".join(s.release for s in fed) == wire


def test_a_known_value_in_a_compressed_request_is_masked(masker: Masker) -> None:
    body = masker.exchange([Known("token", b"the-callers-own-token")]).body(journal_pb2.REQUEST, b"", b"br")
    step = body.feed(brotli.compress(b"x=the-callers-own-token"), last=True)
    assert step.form == DECODED
    assert step.record == b"x=" + f"[MASKED:token:{masker.fingerprint(b'the-callers-own-token')}]".encode()


AWS = b"5\r\nhello\r\n6;chunk-signature=" + b"a" * 64 + b"\r\n world\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_aws_chunked_in_pieces(step: int) -> None:
    found = decoder(b"aws-chunked")
    assert found is not None
    out = b"".join(found.feed(AWS[at : at + step], 1000) for at in range(0, len(AWS), step))
    found.finish()
    assert out == b"hello worldx-amz-checksum-crc32:AAAAAA==\n"


def test_aws_chunked_over_another_coding() -> None:
    data = gzip.compress(b"hello" * 100)
    found = decoder(b"gzip, aws-chunked")
    assert found is not None
    assert found.feed(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data), 1000) == b"hello" * 100
    found.finish()


@pytest.mark.parametrize(
    "body",
    [
        b"hello",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5;secret=" + b"x" * 20 + b"\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n",
        b"x" * 9000,
        AWS + b"more\r\n",
        AWS[:-30],
        AWS[:8],
    ],
)
def test_what_is_not_aws_chunked(body: bytes) -> None:
    found = decoder(b"aws-chunked")
    assert found is not None

    def whole() -> None:
        found.feed(body, 100_000)
        found.finish()

    with pytest.raises(CodingError):
        whole()
