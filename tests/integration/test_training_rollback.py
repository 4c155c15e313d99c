"""A batch that spoils a training is left out: the result is that of a training which never saw it."""

import math
import re
import shutil

import orjson
import pytest
from faults import EVERY, STEPS, complete_checkpoints, finish, kill, lines, start, stocked, training_log, wait_for
from poison import poisoned

from tokenmill.store import open_store
from tokenmill.tracking import read_events
from tokenmill.training.anomaly import Incident, write_incidents

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]
BAD = 2 * EVERY + 1
SPIKES = [f"pretraining.pretrain.short.anomaly.{name}" for name in ("window=8", "spike_steps=2")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return stocked(tmp_path_factory.mktemp("rollback"))


@pytest.fixture
def folder(prepared, tmp_path):
    shutil.copytree(prepared[0] / "store", tmp_path / "store")
    return tmp_path / "store"


def never_seen(prepared, folder, steps, key, **how):
    """The digests of a training that is told beforehand to leave out these steps."""
    shutil.copytree(prepared[0] / "store", folder)
    write_incidents(open_store(f"file://{folder}"), key, [Incident(steps=tuple(steps), reason="told")])
    return finish(start(folder, prepared[1], **how))


@pytest.mark.parametrize(
    ("ranks", "poison", "reason"),
    [
        (1, {1: math.inf}, "loss is inf at step 1"),  # before any checkpoint: it goes back to the beginning
        (2, {BAD: 1000.0, BAD + 1: 1000.0}, r"loss is \d+, above \d\.\d+ at steps 9 to 10"),
    ],
)
def test_it_ends_as_if_the_batch_had_never_been(prepared, folder, tmp_path, ranks, poison, reason):
    process = start(folder, prepared[1], ranks, settings=SPIKES, env=poisoned(tmp_path / "site", poison))
    wait_for(lambda: list(folder.glob("work/*/incidents.json")) or process.poll() is not None, "an incident")
    key = next(folder.glob("work/*/incidents.json")).parent.name
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-2000:]
    told = [orjson.loads(line)["message"] for line in lines(err) if "going back" in line]
    steps = "step 1" if len(poison) == 1 else "steps 9 to 10"
    assert len(told) == 1
    assert re.fullmatch(rf"{reason}: going back to the newest checkpoint, to leave out {steps}", told[0])
    digests = orjson.loads(out.splitlines()[-1])
    assert digests == never_seen(prepared, tmp_path / "told", poison, key, ranks=ranks, settings=SPIKES)

    manifest = open_store(f"file://{folder}").get_manifest(digests["weights"])
    assert manifest.facts["skipped_steps"] == list(poison)
    log = training_log(folder, digests, with_skipped=True)
    assert list(log) == list(range(STEPS))
    assert [step for step, row in log.items() if row.get("skipped")] == list(poison)
    first = min(poison)
    assert log[first]["tokens"] == log[first - 1]["tokens"] and "loss" not in log[first]
    assert max(reported(folder, "incidents/rollbacks")) == 1.0
    assert max(reported(folder, "incidents/skipped_steps")) == len(poison)


def reported(folder, name):
    store = open_store(f"file://{folder}")
    runs = {path.parent.name for path in folder.glob("runs/*/run.json")}
    events = [event for run in runs for event in read_events(store, run) if event.kind == "metrics"]
    return {event.data["values"][name] for event in events if name in event.data["values"]}


def test_one_that_is_killed_after_rolling_back_ends_the_same(prepared, folder, tmp_path):
    env = poisoned(tmp_path / "site", {BAD: math.nan})
    process = start(folder, prepared[1], env=env)
    reached = 4 * EVERY
    wait_for(lambda: reached in complete_checkpoints(folder) or process.poll() is not None, f"checkpoint {reached}")
    assert process.poll() is None
    key = next(folder.glob("work/*/incidents.json")).parent.name
    kill(folder, process)
    assert finish(start(folder, prepared[1], env=env)) == never_seen(prepared, tmp_path / "told", [BAD], key)


def test_what_does_not_end_is_given_up_in_one_line(prepared, folder, tmp_path):
    settings = ["pretraining.pretrain.short.execution.max_rollbacks=1"]
    env = poisoned(tmp_path / "site", {1: math.nan, 2: math.nan})
    process = start(folder, prepared[1], ranks=1, settings=settings, env=env)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 2
    assert lines(err)[-1] == (
        "tokenmill: pretraining.pretrain.short: rank 0 of 1 failed first: loss is nan at step 2, after rolling back for "
        "step 1: lower optim.lr or look at the data of those steps; execution.max_rollbacks (now 1) allows more of this"
    )
