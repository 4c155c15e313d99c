"""The training log in pieces."""

import pytest

from tokenmill.store import open_store
from tokenmill.training.history import History


@pytest.fixture
def store(tmp_path):
    return open_store((tmp_path / "store").as_uri())


def rows(start, end, **more):
    return [{"step": step, "loss": 1 / (step + 1)} | more for step in range(start, end)]


def extend(history, new):
    for row in new:
        history.append(row)


def seal(history):
    history.store.backend.put(*history.seal())
    return history.last


def test_a_checkpoint_names_one_piece_and_all_rows_are_found_from_it(store):
    history = History(store, "key")
    marks = []
    for start in range(0, 1000, 100):
        extend(history, rows(start, start + 100))
        marks.append(seal(history))
    extend(history, rows(1000, 1007))
    assert list(history.rows()) == rows(0, 1007)
    assert {len(mark) for mark in marks} == {64}
    resumed = History(store, "key", marks[4])
    extend(resumed, rows(500, 510, other=1))
    assert list(resumed.rows()) == rows(0, 500) + rows(500, 510, other=1)


def test_going_back_and_on_writes_nothing_twice(store):
    history = History(store, "key")
    extend(history, rows(0, 100))
    first = seal(history)
    extend(history, rows(100, 200))
    second = seal(history)
    again = History(store, "key", first)
    extend(again, rows(100, 200))
    assert seal(again) == second and len(list(store.backend.list("work/key/log/"))) == 2


def test_an_empty_log_has_no_rows(store):
    assert list(History(store, "key").rows()) == []
