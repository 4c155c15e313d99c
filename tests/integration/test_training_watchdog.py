"""A rank that stands still is named, and the training goes on when it is run again."""

import re
import signal
import time

import orjson
import pytest
from faults import complete_checkpoints, finish, lines, ranks_of, start, stocked, trainers, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]
LIMIT_S = 5
SETTINGS = [
    f"pretraining.pretrain.short.execution.stuck_after_s={LIMIT_S}",
    "pretraining.pretrain.short.execution.health_port=0",
]


def test_a_stopped_rank_is_named_the_others_are_ended_and_a_rerun_goes_on(tmp_path):
    root, inputs = stocked(tmp_path)
    folder = root / "store"
    process = start(folder, inputs, settings=SETTINGS)
    wait_for(lambda: complete_checkpoints(folder) or process.poll() is not None, "a checkpoint")
    stopped = next(rank for rank in trainers(folder) if rank.environ()["RANK"] == "1")
    stopped.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - began < 4 * LIMIT_S
    assert process.returncode == 2
    assert re.fullmatch(
        rf"tokenmill: pretraining.pretrain.short: rank 1 of 2 on \S+ \(process {stopped.pid}\) has not been heard of for \d+ s, "
        r"last at step \d+, in phase '\w+': it is stopped, or its host is gone. All ranks were ended: rerun to go on from "
        r"the newest checkpoint",
        lines(err)[-1],
    ), err
    wait_for(lambda: not ranks_of(folder), "the ranks to die", 10)
    said = [orjson.loads(line) for line in lines(err) if line.startswith("{")]
    assert any(line["message"] == "healthz" and line["port"] > 0 for line in said)
    resumed = start(folder, inputs)
    assert finish(resumed)
