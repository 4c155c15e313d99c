"""Batches are made ahead of the step that wants them, and are the same as if they were not."""

import threading

import pytest

from tokenmill.training.prefetch import AHEAD, Prefetched
from tokenmill.training.run import StepBatch


class Counted:
    """Batches that tell which were made, and in which thread."""

    def __init__(self, steps=10):
        self.steps, self.made = steps, []
        self.several = threading.Semaphore(0)

    def __len__(self):
        return self.steps

    def at(self, step, rank, world):
        if step == 7:
            raise ValueError("damaged")
        self.made.append((step, threading.current_thread()))
        self.several.release()
        return StepBatch([f"{step}/{rank}/{world}"], 1.0, step)


def test_the_next_steps_are_made_while_this_one_is_computed():
    counted = Counted()
    batches = Prefetched(counted)
    assert batches.at(0, 1, 2).micro_batches == ["0/1/2"]
    for _ in range(1 + AHEAD):  # nobody asks for steps 1 and 2, and they are there all the same
        assert counted.several.acquire(timeout=10)
    assert [step for step, _ in counted.made] == [0, 1, 2]
    assert threading.current_thread() not in {thread for _, thread in counted.made}


def test_batches_depend_on_the_step_alone():
    batches = Prefetched(Counted())
    for step in (0, 1, 2, 4, 3, 9, 0, 5, 5):  # skipped, gone back to, asked for twice
        assert batches.at(step, 0, 1).micro_batches == [f"{step}/0/1"]


def test_nothing_is_made_twice_or_beyond_the_end():
    counted = Counted(steps=7)
    batches = Prefetched(counted)
    for step in range(7):
        batches.at(step, 0, 1)
    assert [step for step, _ in counted.made] == list(range(7))


def test_what_fails_ahead_fails_at_its_own_step():
    batches = Prefetched(Counted())
    for step in (4, 5, 6):
        batches.at(step, 0, 1)
    with pytest.raises(ValueError, match="damaged"):
        batches.at(7, 0, 1)
    assert batches.at(8, 0, 1).tokens == 8
