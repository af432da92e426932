import random

import pytest

from ext_proc.spool import frames


def test_round_trip_gives_payloads_and_offsets() -> None:
    payloads = [b"a", b"\x00" * 100, random.Random(1).randbytes(70_000)]
    chain = b"".join(frames.encode(p) for p in payloads)
    found = list(frames.scan(chain))
    assert [p for _, p in found] == payloads
    assert found[-1][0] == len(chain)
    assert list(frames.scan(chain, found[0][0])) == found[1:]
    assert frames.whole(chain) == len(chain)


def test_every_torn_end_is_left_for_later() -> None:
    first, second = frames.encode(b"first"), frames.encode(b"second")
    for cut in range(len(second)):
        torn = first + second[:cut]
        assert [p for _, p in frames.scan(torn)] == [b"first"]
        assert frames.whole(torn) == len(first)


def test_every_flipped_bit_of_a_payload_or_checksum_is_noticed() -> None:
    frame = frames.encode(b"payload")
    for position in range(4, len(frame)):
        for bit in range(8):
            bad = bytearray(frame)
            bad[position] ^= 1 << bit
            with pytest.raises(frames.CorruptFrameError):
                list(frames.scan(bad))


def test_what_is_whole_before_a_corrupt_frame_is_yielded() -> None:
    good, bad = frames.encode(b"good"), bytearray(frames.encode(b"bad"))
    bad[-1] ^= 1
    scan = frames.scan(good + bytes(bad))
    assert next(scan) == (len(good), b"good")
    with pytest.raises(frames.CorruptFrameError) as caught:
        next(scan)
    assert caught.value.offset == len(good)


def test_zeros_after_a_power_cut_are_no_frames() -> None:
    frame = frames.encode(b"x")
    with pytest.raises(frames.CorruptFrameError):
        list(frames.scan(frame + bytes(64)))
    with pytest.raises(frames.CorruptFrameError):
        frames.whole(frame + bytes(64))


def test_length_is_bounded_before_anything_is_read() -> None:
    with pytest.raises(frames.CorruptFrameError):
        frames.frame_size(b"\xff\xff\xff\xff" + bytes(4))
    for payload in (b"", bytes(frames.MAX_PAYLOAD + 1)):
        with pytest.raises(ValueError, match="a frame holds"):
            frames.encode(payload)
    assert frames.frame_size(frames.encode(b"abc")) == 11
