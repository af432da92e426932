"""WebSocket frames: what a client sends is looked at and stored unmasked."""

from __future__ import annotations

import random

from ext_proc.config.models import Masking
from ext_proc.masking import DECODED, Known, Masker
from ext_proc.masking.websocket import Unmasker
from ext_proc.pb import journal_pb2

TOKEN = b"the-callers-own-token-1"


def frame(payload: bytes, key: bytes, opcode: int = 0x81) -> bytes:
    """RFC 6455 section 5.2; no key is a server's frame."""
    size = len(payload)
    if size < 126:
        length = bytes([size])
    else:
        length = b"\x7e" + size.to_bytes(2, "big") if size <= 0xFFFF else b"\x7f" + size.to_bytes(8, "big")
    head = bytes([opcode, length[0] | (0x80 if key else 0)]) + length[1:] + key
    return head + bytes(b ^ key[i % 4] if key else b for i, b in enumerate(payload))


PAYLOADS = [b"", b"hello", b'{"t": "' + TOKEN + b'"}', b"x" * 300, b"y" * 70_000, b"bye"]


def test_frames_are_unmasked_at_any_split() -> None:
    chance = random.Random(9)
    wire = b"".join(frame(p, chance.randbytes(4)) for p in PAYLOADS) + frame(b"pong", b"", 0x8A)
    plain = b"".join(frame(p, b"") for p in PAYLOADS) + frame(b"pong", b"", 0x8A)
    assert Unmasker().feed(wire, 0) == plain
    for _ in range(50):
        cuts = sorted(chance.randrange(1500) for _ in range(chance.randrange(1, 60)))
        unmasker = Unmasker()
        assert b"".join(unmasker.feed(wire[a:b], 0) for a, b in zip([0, *cuts], [*cuts, None], strict=True)) == plain


def test_a_token_in_a_clients_frame_is_masked_and_the_frame_passes_at_once() -> None:
    masker = Masker(Masking(), b"k" * 32, 1 << 20)
    exchange = masker.exchange([Known("token", TOKEN)])
    body = exchange.body(journal_pb2.REQUEST, b"", b"", interactive=True, websocket=True)
    wire = frame(PAYLOADS[2], b"\x01\x02\x03\x04")
    steps = [body.feed(wire[:20], last=False), body.feed(wire[20:], last=False), body.feed(b"", last=True)]
    assert [s.release for s in steps] == [wire[:20], wire[20:], b""]
    assert {s.form for s in steps} == {DECODED}
    record = b"".join(s.record for s in steps)
    assert TOKEN not in record
    assert b'{"t": "[MASKED:token:' in record
