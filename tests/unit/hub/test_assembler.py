from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

import pytest

from ext_proc.hub import assembler
from ext_proc.hub.assembler import GRACE_US, SILENCE_US, Assembler
from ext_proc.hub.attempts import Finished, Gate, JournalKey, Ref
from ext_proc.pb import journal_pb2 as pb
from ext_proc.spool import frames
from tests.journals import START_US, Attempt

GATE = Gate("local:0", "ci")
LATER = START_US + 3_600_000_000
NOW = LATER


def key(slot: int = 0, name: str = "a", gate: Gate = GATE) -> JournalKey:
    return JournalKey(gate, slot, name)


class Feeder:
    """Appends events to journals and feeds them with their true offsets."""

    def __init__(self, slots: int = 1, **options: int) -> None:
        self.assembler = Assembler(**options)
        self.slots = slots
        self.ends: dict[JournalKey, int] = {}

    def feed(self, events: Sequence[pb.Event], journal: JournalKey | None = None) -> None:
        journal = journal or key()
        for event in events:
            offset = self.ends.get(journal, 0)
            length = len(frames.encode(event.SerializeToString()))
            self.assembler.feed(journal, offset, length, event)
            self.ends[journal] = offset + length

    def watermarks(self, *watermarks_us: int, heard_us: int = NOW, now_us: int = NOW) -> list[Finished]:
        """All slots reach these; what that finishes."""
        for slot, watermark_us in enumerate(watermarks_us):
            self.assembler.watermark(GATE, slot, self.slots, watermark_us, heard_us)
        self.assembler.settle(now_us)
        return self.finished()

    def finished(self) -> list[Finished]:
        return self.assembler.take()[0]


def test_what_was_closed_is_finished_at_once_and_whole():
    feeder, attempt = Feeder(), Attempt()
    feeder.feed([
        attempt.opened(), attempt.part(pb.REQUEST, b"ab"), attempt.part(pb.REQUEST, b"c"), attempt.verdict(),
        attempt.trailers(pb.REQUEST, [("t", b"1")]), attempt.head(), attempt.part(pb.RESPONSE, b"d"),
    ])  # fmt: skip
    assert feeder.finished() == []
    feeder.feed([attempt.closed()])
    [finished] = feeder.finished()
    assert finished.outcome == "complete"
    assert finished.exchange_id == attempt.exchange_id.bytes
    found = finished.attempt
    assert found is not None
    assert [b.pieces for b in found.bodies] == [[(0, b"ab"), (0, b"c")], [(0, b"d")]]
    assert found.trailers[pb.REQUEST].trailers[0].name == "t"
    assert (found.opened.connection, found.verdict.policy, found.head.status) == ("datadog", "infra-main", 200)
    assert feeder.assembler.open_exchanges == 0


@pytest.mark.parametrize("denied_first", [False, True])
def test_the_attempt_that_closed_is_the_record_and_the_other_makes_none(denied_first):
    feeder = Feeder(slots=2)
    first = Attempt()
    second = Attempt(first.exchange_id, at_us=START_US + 5)
    feeder.feed([first.opened()], key(0))
    if denied_first:
        feeder.feed([first.closed("")], key(0))
    feeder.feed([second.opened(path="/second"), second.closed()], key(1, "b"))
    [finished] = feeder.finished()
    assert finished.attempt.opened.path == "/second"
    feeder.feed([first.part(pb.REQUEST, b"late"), first.closed("")], key(0))
    assert feeder.watermarks(LATER, LATER) == []
    assert feeder.assembler.position(key(0))[1] == {}


def test_the_access_log_settles_an_aborted_exchange_once_no_other_attempt_can_come():
    feeder, attempt = Feeder(slots=2), Attempt()
    feeder.feed([attempt.opened(), attempt.closed("")])
    feeder.feed([attempt.access("client_gone", status=0)], key(1, "b"))
    assert feeder.watermarks(attempt.at_us, START_US) == []  # slot 1 may still hold another attempt
    [finished] = feeder.watermarks(attempt.at_us, attempt.at_us)
    assert finished.outcome == "client_gone"
    assert finished.attempt is not None


def test_another_attempt_is_awaited_though_the_access_log_spoke():
    feeder = Feeder(slots=2)
    first = Attempt()
    feeder.feed([first.opened(), first.closed(""), first.access("client_gone")])
    second = Attempt(first.exchange_id, at_us=START_US + 1)
    feeder.feed([second.opened(), second.verdict(), second.head()], key(1, "b"))
    assert feeder.watermarks(LATER, LATER) == []  # it is alive
    feeder.feed([second.closed("")], key(1, "b"))
    [finished] = feeder.watermarks(LATER, LATER)
    assert finished.attempt.head is not None  # the one that got further
    assert finished.outcome == "client_gone"


def test_without_an_access_log_it_is_unknown_after_the_grace():
    feeder, attempt = Feeder(), Attempt()
    feeder.feed([attempt.opened(), attempt.closed("")])
    end = attempt.at_us - 1000
    assert feeder.watermarks(end + GRACE_US) == []
    [finished] = feeder.watermarks(end + GRACE_US + 1)
    assert finished.outcome == "unknown"
    feeder.feed([attempt.access("client_gone")])
    assert feeder.watermarks(LATER) == []


def test_a_dead_workers_journal_ends_what_it_left_open():
    feeder, attempt = Feeder(), Attempt()
    feeder.feed([attempt.opened(), attempt.verdict()])
    assert feeder.watermarks(LATER) == []  # it may still go on
    feeder.assembler.sealed(key(), LATER)
    assert feeder.watermarks(LATER + 1) == []
    feeder.feed([attempt.access("upstream_reset")], key(0, "b"))
    [finished] = feeder.watermarks(LATER + 2)
    assert finished.outcome == "upstream_reset"


def test_an_access_event_alone_is_a_denial_before_ext_proc():
    feeder, attempt = Feeder(), Attempt()
    feeder.feed([attempt.access("denied", "path_normalization_failed", status=400, started_us=START_US)])
    assert feeder.watermarks(START_US + GRACE_US) == []
    [finished] = feeder.watermarks(LATER)
    assert (finished.outcome, finished.attempt, finished.access.status) == ("denied", None, 400)


def test_every_slot_counts_also_one_never_heard_of():
    feeder, attempt = Feeder(slots=3), Attempt()
    feeder.feed([attempt.opened(), attempt.closed("")])
    assert feeder.watermarks(LATER, LATER) == []
    assert len(feeder.watermarks(LATER, LATER, LATER)) == 1


def test_a_silent_gate_is_settled_as_unknown():
    feeder, open_one, closed_one = Feeder(slots=2), Attempt(), Attempt()
    feeder.feed([open_one.opened(), closed_one.opened(), closed_one.closed("")])
    assert feeder.watermarks(START_US, START_US, heard_us=NOW, now_us=NOW + SILENCE_US) == []
    found = feeder.watermarks(START_US, START_US, heard_us=NOW, now_us=NOW + SILENCE_US + 1)
    assert [f.outcome for f in found] == ["unknown", "unknown"]
    feeder.feed([open_one.head(), open_one.closed()])  # the gate was only cut off
    assert feeder.watermarks(LATER, LATER) == []


def test_one_gate_cannot_touch_anothers_exchange():
    feeder, attempt = Feeder(), Attempt()
    other = key(0, "x", Gate("local:0", "rogue"))
    rogue = Attempt(attempt.exchange_id)
    feeder.feed([attempt.opened()])
    feeder.feed([rogue.opened(), rogue.closed()], other)
    feeder.feed([attempt.closed()])
    assert [f.gate.name for f in feeder.finished()] == ["rogue", "ci"]


def test_large_bodies_stay_in_their_journal():
    feeder, attempt = Feeder(), Attempt()
    feeder.feed([attempt.opened()])
    chunk = b"x" * (600 << 10)
    begins = []
    for _ in range(3):
        begins.append(feeder.ends[key()])
        feeder.feed([attempt.part(pb.RESPONSE, chunk)])
    feeder.feed([attempt.closed()])
    [finished] = feeder.finished()
    first, *rest = finished.attempt.bodies[pb.RESPONSE].pieces
    assert first == (0, chunk)
    assert [(form, ref.offset) for form, ref in rest] == [(0, begins[1]), (0, begins[2])]
    assert all(isinstance(ref, Ref) and ref.length > len(chunk) for _, ref in rest)


def test_memory_is_bounded_over_all_exchanges_and_given_back():
    feeder = Feeder(memory_bytes=100)
    one, two, three = Attempt(), Attempt(), Attempt()
    feeder.feed([one.opened(), two.opened(), one.part(pb.REQUEST, b"x" * 80), two.part(pb.REQUEST, b"y" * 80)])
    feeder.feed([one.closed(), three.opened(), three.part(pb.REQUEST, b"z" * 80), two.closed(), three.closed()])
    kept = [isinstance(f.attempt.bodies[0].pieces[0][1], bytes) for f in feeder.finished()]
    assert kept == [True, False, True]


def test_the_low_water_mark_is_where_the_oldest_open_exchange_begins():
    feeder, slow, quick = Feeder(), Attempt(), Attempt()
    feeder.feed(quick.complete())
    begin = feeder.ends[key()]
    feeder.feed([slow.opened(), *Attempt().complete()])
    assert feeder.assembler.position(key()) == (feeder.ends[key()], {slow.exchange_id.bytes: begin})
    feeder.feed([slow.closed()])
    assert feeder.assembler.position(key()) == (feeder.ends[key()], {})


def test_a_restart_goes_on_with_what_was_open_and_repeats_nothing():
    events_before, slow = [], Attempt()
    events_before += Attempt().complete()
    events_before += [slow.opened(), *Attempt().complete(), slow.verdict()]
    feeder = Feeder()
    feeder.feed(events_before)
    assert len(feeder.finished()) == 2
    consumed, open_at = feeder.assembler.position(key())

    again = Feeder()
    again.assembler.resume(key(), consumed, open_at)
    assert again.assembler.position(key()) == (consumed, open_at)  # safe to write down before it is read again
    low = min(open_at.values())
    offset = 0
    for event in events_before:
        length = len(frames.encode(event.SerializeToString()))
        if offset >= low:
            again.assembler.feed(key(), offset, length, event)
        offset += length
    assert again.finished() == []
    again.ends[key()] = offset
    again.feed([slow.head(), slow.closed()])
    [finished] = again.finished()
    assert finished.exchange_id == slow.exchange_id.bytes
    assert finished.attempt.verdict is not None


def test_what_was_entered_is_remembered_until_nothing_can_come():
    feeder, late = Feeder(), Attempt()
    ids = (late.exchange_id.bytes,)
    feeder.assembler.remember(GATE, START_US, ids)
    feeder.feed([late.access("client_gone")])
    assert feeder.watermarks(START_US + assembler.REMEMBER_US) == []
    assert feeder.assembler.forget(NOW) == []
    assert feeder.watermarks(START_US + assembler.REMEMBER_US + 1) == []
    [(gate, until)] = feeder.assembler.forget(NOW)
    assert gate == GATE
    assert until > START_US


def test_a_gate_that_left_in_order_is_forgotten():
    feeder, attempt = Feeder(), Attempt()
    feeder.feed(attempt.complete())
    [finished] = feeder.finished()
    feeder.assembler.remember(GATE, finished.ended_us, (finished.exchange_id,))
    feeder.watermarks(START_US)
    feeder.assembler.drop(key())
    assert feeder.assembler.forget(NOW + SILENCE_US) == []
    assert feeder.assembler.forget(NOW + SILENCE_US + 1) == [(GATE, 1 << 62)]


def test_a_hold_that_was_decided_keeps_its_approval():
    feeder, attempt = Feeder(), Attempt()
    feeder.feed(
        [attempt.opened(), attempt.verdict("hold", approval_id="ap1"), attempt.verdict("allow"), attempt.closed()]
    )
    [finished] = feeder.finished()
    assert (finished.attempt.verdict.decision, finished.attempt.verdict.approval_id) == ("allow", "ap1")


def test_configurations_are_handed_on():
    feeder = Feeder()
    feeder.feed([pb.Event(at_us=7, config=pb.Config(digest="d"))])
    _, [loaded] = feeder.assembler.take()
    assert (loaded.gate, loaded.at_us, loaded.config.digest) == (GATE, 7, "d")


@pytest.mark.parametrize(
    "event",
    [
        pb.Event(exchange_id=b"short", opened=pb.Opened()),
        pb.Event(exchange_id=uuid4().bytes, closed=pb.Closed(outcome="complete")),
        pb.Event(exchange_id=uuid4().bytes, part=pb.Part(data=b"x")),
        pb.Event(at_us=1),
    ],
)
def test_events_that_make_no_sense_make_nothing(event):
    feeder = Feeder()
    feeder.feed([event])
    assert feeder.finished() == []
    assert feeder.assembler.open_exchanges == 0


def test_directions_and_forms_that_nobody_knows_break_nothing():
    feeder, attempt = Feeder(), Attempt()
    feeder.feed([attempt.opened(), attempt.part(7, b"x"), attempt.trailers(7, []), attempt.part(0, b"y", form=9)])
    feeder.feed([attempt.closed()])
    [finished] = feeder.finished()
    assert [b.pieces for b in finished.attempt.bodies] == [[(pb.Part.SEALED, b"y")], []]
