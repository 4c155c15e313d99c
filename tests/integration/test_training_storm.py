"""One training under many `kill -9`s, at random moments, of its launcher or of a rank: it ends as an undisturbed one."""

import contextlib
import random
import shutil
import time

import psutil
import pytest
from faults import EVERY, complete_checkpoints, finish, kill, ranks_of, start, stocked, trainers, wait_for

pytestmark = [pytest.mark.integration]
GIVE_UP_S = 180
"""For one attempt to start and take a checkpoint, on a busy machine."""


def weather(root, kills, seed):
    """Train, disturbed `kills` times; returns the digests, and those of an undisturbed training.

    Every other kill comes after a new checkpoint, so that the work comes to an end; the others come whenever.
    """
    print(f"seed {seed}")
    chance = random.Random(seed)
    root, inputs = stocked(root)
    settings = [f"pretraining.pretrain.short.tokens={512 * (3 * EVERY * kills // 2 + 6 * EVERY)}"]
    shutil.copytree(root / "store", root / "calm")
    expected = finish(start(root / "calm", inputs, settings=settings))
    folder = root / "store"
    for number in range(kills):
        before = max(complete_checkpoints(folder), default=0)
        process = start(folder, inputs, settings=settings)

        def moved(process=process, before=before):
            return max(complete_checkpoints(folder), default=0) > before or process.poll() is not None

        if number % 2:
            wait_for(moved, f"a checkpoint after step {before}", GIVE_UP_S)
            time.sleep(chance.uniform(0, 0.1))
        else:
            wait_for(
                lambda moment=time.monotonic() + chance.uniform(0, 8), moved=moved: (
                    moved() or time.monotonic() > moment
                ),
                "",
            )
        assert process.poll() is None, f"it was over before kill {number + 1}"
        ranks = trainers(folder)
        whole = not ranks or chance.random() < 0.5
        print(f"kill {number + 1} of {'all' if whole else 'a rank'} after the checkpoint of step {before}")
        if whole:
            kill(folder, process)
        else:
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(ranks).kill()
            process.communicate(timeout=GIVE_UP_S)
            assert process.returncode == 75
            wait_for(lambda: not ranks_of(folder), "the ranks to die", 10)
    return finish(start(folder, inputs, settings=settings)), expected


@pytest.mark.timeout(600)
def test_three_kills_change_nothing(tmp_path):
    ended, expected = weather(tmp_path, 3, int(time.time()))
    assert ended == expected


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_twenty_kills_change_nothing(tmp_path):
    ended, expected = weather(tmp_path, 20, int(time.time()))
    assert ended == expected
