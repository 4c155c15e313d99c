"""The cursor and the ledger: what was taken is what was planned, or the training does not end well."""

import pytest
from token_documents import batches

from tokenmill.errors import CorruptError
from tokenmill.training.cursor import Cursor


def taken(made, steps, cursor=None, skip=()):
    cursor = cursor or Cursor()
    for step in steps:
        if step in skip:
            cursor.skip(step, made.plan().of_step(step))
        else:
            cursor.take(made.at(step, 0, 1))
    return cursor


def test_planned_is_what_the_samples_hold_and_seen_what_the_steps_took():
    made = batches()
    ledger = made.plan().ledger(taken(made, range(len(made))))
    lengths = {source: sum(len(s) for s in made.samples if s.source == source) for source in ("s0", "s1")}
    assert ledger == {source: {"planned": tokens, "seen": tokens} for source, tokens in lengths.items()}


def test_the_packs_after_the_last_whole_step_are_the_only_difference():
    made = batches(steps=4)  # of 6
    plan, cursor = made.plan(), taken(made, range(4))
    ledger = plan.ledger(cursor)
    assert cursor.tokens == sum(made.at(step, 0, 1).tokens for step in range(4))
    for source, row in ledger.items():
        assert row["planned"] - row["seen"] == plan.remainder[source] > 0


@pytest.mark.parametrize("wrong", [[0, 1, 2], [0, 1, 2, 3, 3], [0, 1, 1, 3]])
def test_a_step_forgotten_or_taken_twice_is_found(wrong):
    made = batches(steps=4)
    with pytest.raises(AssertionError, match="does not balance"):
        made.plan().ledger(taken(made, wrong))


def test_a_skipped_step_shows_in_the_ledger_and_is_not_seen():
    made = batches(steps=4)
    cursor = taken(made, range(4), skip=(2,))
    left_out = made.plan().of_step(2)
    assert cursor.skipped == [2] and cursor.left_out == left_out
    ledger = made.plan().ledger(cursor)
    assert {source: row["skipped"] for source, row in ledger.items()} == left_out
    assert sum(row["seen"] for row in ledger.values()) == cursor.tokens


def test_a_restart_goes_on_with_the_counts():
    made = batches()
    state = taken(made, range(3)).saved(3, made)
    assert state["samples"] == made.first_sample(3) == sum(len(p.cu_seqlens) - 1 for p in packs(made, range(3)))
    cursor = taken(made, range(3, len(made)), Cursor.restored(state, made))
    assert cursor.seen == taken(made, range(len(made))).seen
    made.plan().ledger(cursor)


def test_a_checkpoint_of_other_data_is_refused():
    state = taken(batches(), range(3)).saved(3, batches())
    for others in (batches(packs_per_step=7), batches(samples=10)):
        with pytest.raises(CorruptError, match="not the same batches"):
            Cursor.restored(state, others)


def packs(made, steps):
    return [pack for step in steps for pack in made.at(step, 0, 1).micro_batches]
