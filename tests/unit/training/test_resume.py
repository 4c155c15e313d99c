"""Which checkpoint a training goes on from: the newest complete one that its layout of ranks can load."""

import pytest

from tokenmill.store import open_store
from tokenmill.training.resume import Complete, Layout, newest_checkpoint, outlook, surplus

TWO, ONE, FOUR_SHARDED = Layout(2, 1), Layout(1, 1), Layout(4, 3)


@pytest.fixture
def saved(tmp_path):
    """Plants the markers of some ranks; all of them where none are named."""
    store = open_store((tmp_path / "store").as_uri())

    def plant(step, layout, ranks=None):
        for rank in range(layout.ranks) if ranks is None else ranks:
            folder = f"work/key/checkpoints/{step}/ranks-{layout.ranks}-zero-{layout.zero_stage}"
            store.backend.put(f"{folder}/rank-{rank}.json", b"{}")
        return store

    return plant


def test_without_a_checkpoint_there_is_nothing_to_say(saved):
    store = saved(4, TWO, ranks=[1])  # not complete
    assert newest_checkpoint(store, "key", TWO) is None
    assert outlook(store, "key", TWO) == (False, "")


def test_the_newest_complete_one_counts_and_of_one_step_rather_ones_own(saved):
    saved(4, TWO), saved(8, TWO), saved(8, ONE)
    store = saved(12, TWO, ranks=[0])
    assert newest_checkpoint(store, "key", TWO) == (8, TWO)
    assert newest_checkpoint(store, "key", ONE) == (8, ONE)
    assert newest_checkpoint(store, "key", Layout(4, 2)).step == 8
    assert outlook(store, "key", Layout(4, 2)) == (
        False,
        "4 ranks at ZeRO stage 2: going on from the checkpoint of step 8 by 1 rank at ZeRO stage 1",
    )


def test_what_cannot_be_regrouped_is_left_and_said_in_one_line(saved):
    store = saved(12, FOUR_SHARDED)
    assert newest_checkpoint(store, "key", TWO) is None
    unused, said = outlook(store, "key", TWO)
    assert unused and "\n" not in said
    assert said == (
        "2 ranks at ZeRO stage 1: starting from the beginning. The checkpoint of step 12 by 4 ranks at ZeRO stage 3 "
        "cannot be loaded so: set execution.ranks=4 and execution.zero_stage=3 to go on from it"
    )
    saved(8, ONE)
    assert "starting from the checkpoint of step 8 by 1 rank at ZeRO stage 1" in outlook(store, "key", TWO)[1]
    assert newest_checkpoint(store, "key", FOUR_SHARDED) == (12, FOUR_SHARDED)


def objects(*steps, markers=2):
    """Keys of checkpoints by two ranks."""
    names = ["0.pt", "1.pt", *(f"rank-{rank}.json" for rank in range(markers))]
    return [f"{Complete(step, TWO).folder('key')}/{name}" for step in steps for name in names]


@pytest.mark.parametrize(
    ("complete", "last", "every", "kept"),
    [
        ([], 2, 0, []),
        ([4], 2, 0, [4]),
        ([4, 8, 12], 2, 0, [8, 12]),
        ([4, 8, 12], 1, 0, [12]),
        ([4, 8, 12, 16, 20, 24], 2, 10, [12, 20, 24]),
        ([12, 20, 24, 28, 32], 2, 10, [12, 20, 28, 32]),
    ],
)
def test_retention_keeps_the_last_and_one_every_so_many_steps(complete, last, every, kept):
    keys = objects(*complete)
    assert set(keys) - set(surplus(keys, last, every)) == set(objects(*kept))


def test_what_is_not_complete_goes_once_something_newer_is():
    torn, newest = objects(6, markers=1), objects(12, markers=1)
    assert surplus([*torn, *newest], 2, 0) == []
    assert set(surplus([*torn, *objects(8), *newest], 2, 0)) == set(torn)
