from __future__ import annotations

import sqlite3

import pytest

from ext_proc.hub.attempts import Gate, JournalKey
from ext_proc.hub.chain import Head
from ext_proc.hub.outbox import FILE_BYTES, Entered, Outbox, Progress

GATE = Gate("local:0", "ci")
JOURNAL = JournalKey(GATE, 0, "j")


def everything(outbox: Outbox) -> object:
    return outbox.heads(), outbox.journals(), outbox.entered(), outbox.configs(), outbox.waiting()


def progress() -> Progress:
    return Progress(
        chains={"c": Head(7, b"h" * 32)},
        journals={JOURNAL: (100, {b"a" * 16: 40, b"b" * 16: 90})},
        entered={GATE: Entered(123, [b"x" * 16, b"y" * 16])},
        configs=[(GATE, "digest")],
    )


def test_all_of_a_transaction_is_there_after_a_restart(tmp_path):
    outbox = Outbox(tmp_path)
    draft = outbox.draft()
    draft.add("exchanges", ("a", "b"), b"row1")
    draft.add("body_parts", ("c",), b"part")
    draft.add("exchanges", ("a", "b"), b"row2")
    outbox.commit(draft, progress())
    before = everything(outbox)
    hub_id = outbox.hub_id
    outbox.close()
    outbox = Outbox(tmp_path)
    assert outbox.hub_id == hub_id
    assert (
        everything(outbox)
        == before
        == (
            {"c": Head(7, b"h" * 32)},
            {JOURNAL: (100, {b"a" * 16: 40, b"b" * 16: 90})},
            [(GATE, 123, (b"x" * 16, b"y" * 16))],
            {(GATE, "digest")},
            2,
        )
    )
    first = outbox.first()
    assert (first.table, first.columns, first.rows, first.path.read_bytes()) == ("body_parts", ("c",), 1, b"part")
    outbox.done(first)
    second = outbox.first()
    assert (second.table, second.rows, second.path.read_bytes()) == ("exchanges", 2, b"row1row2")
    assert outbox.token(first) != outbox.token(second)
    outbox.done(second)
    assert outbox.first() is None
    assert list((tmp_path / "outbox").iterdir()) == []
    outbox.close()


def test_a_token_is_never_used_twice(tmp_path):
    tokens = set()
    for _ in range(3):
        outbox = Outbox(tmp_path)
        draft = outbox.draft()
        draft.add("exchanges", ("a",), b"row")
        outbox.commit(draft, Progress())
        batch = outbox.first()
        tokens.add(outbox.token(batch))
        outbox.done(batch)
        outbox.close()
    assert len(tokens) == 3


def test_files_of_a_transaction_that_never_was_are_removed(tmp_path):
    outbox = Outbox(tmp_path)
    draft = outbox.draft()
    draft.add("exchanges", ("a",), b"row")
    draft.flush()
    assert len(list((tmp_path / "outbox").iterdir())) == 1
    outbox.close()
    outbox = Outbox(tmp_path)
    assert list((tmp_path / "outbox").iterdir()) == []
    assert outbox.waiting() == 0
    outbox.close()


def test_a_transaction_that_fails_changes_nothing(tmp_path):
    outbox = Outbox(tmp_path)
    before = everything(outbox)
    draft = outbox.draft()
    draft.add("exchanges", ("a",), b"row")
    broken = progress()
    broken.configs = [(GATE, object())]
    with pytest.raises(sqlite3.Error):
        outbox.commit(draft, broken)
    assert everything(outbox) == before
    outbox.close()


def test_files_stay_small_and_parts_come_before_their_exchange(tmp_path):
    outbox = Outbox(tmp_path)
    draft = outbox.draft()
    for _ in range(9):
        draft.add("body_parts", ("c",), bytes(1 << 20))
    draft.add("exchanges", ("a",), b"row")
    outbox.commit(draft, Progress())
    batches = []
    while (batch := outbox.first()) is not None:
        batches.append((batch.table, batch.rows, batch.path.stat().st_size))
        outbox.done(batch)
    assert batches == [("body_parts", 8, FILE_BYTES), ("body_parts", 1, 1 << 20), ("exchanges", 1, 3)]
    outbox.close()


def test_what_is_forgotten_goes_for_that_gate_and_time_alone(tmp_path):
    outbox = Outbox(tmp_path)
    other = Gate("local:0", "other")
    for until in (10, 20):
        outbox.commit(
            outbox.draft(), Progress(entered={GATE: Entered(until, [b"i" * 16]), other: Entered(1, [b"o" * 16])})
        )
    outbox.commit(outbox.draft(), Progress(forgotten=[(GATE, 20)], ended=[JOURNAL]))
    assert [(gate, until) for gate, until, _ in outbox.entered()] == [(other, 1), (GATE, 20), (other, 1)]
    assert outbox.journals() == {}
    outbox.close()


def test_a_batch_set_aside_is_kept_and_counted(tmp_path):
    outbox = Outbox(tmp_path)
    draft = outbox.draft()
    draft.add("exchanges", ("a",), b"bad")
    outbox.commit(draft, Progress())
    moved = outbox.quarantine(outbox.first(), "Code: 33")
    assert moved.read_bytes() == b"bad"
    assert (outbox.first(), outbox.waiting(), outbox.quarantined()) == (None, 0, 1)
    outbox.close()
    outbox = Outbox(tmp_path)
    assert outbox.quarantined() == 1
    outbox.close()
