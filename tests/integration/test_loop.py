"""The loop and its ledger: over a restart and a skipped step, every token is accounted for."""

import os

import pytest
import torch
import torch.distributed as dist
from token_documents import batches

from tokenmill.logs import Log
from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.store import open_store
from tokenmill.training.checkpoint import Checkpoints
from tokenmill.training.data import next_token_loss
from tokenmill.training.loop import Loop
from tokenmill.training.prefetch import Prefetched
from tokenmill.training.run import TrainingRun
from tokenmill.training.settings import OptimConfig, TrainingConfig, TrainingExecution
from tokenmill.training.watchdog import Heart

pytestmark = pytest.mark.integration
STEPS, SKIPPED, BEFORE = 5, 2, 1000


class Stopped(Exception):
    pass


def loop_over(root, made, plan, stop_at=None):
    """A loop that fails at the start of a step, if it is told to."""
    model = InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=1)
    run = TrainingRun(
        model, Prefetched(made), next_token_loss, OptimConfig(), lambda *_: None, plan=plan, tokens_before=BEFORE
    )
    execution = TrainingExecution(ranks=1, checkpoint_every=2, zero_stage=1)
    config = TrainingConfig(precision="fp32", execution=execution)
    checkpoints = Checkpoints(open_store(f"file://{root}/store"), "key", root / "local", execution, Log())
    started = []

    def check():
        started.append(None)
        if len(started) - 1 == stop_at:
            checkpoints.wait()
            raise Stopped

    heart = Heart(checkpoints.store, "work/key/attempt", rank=0, limit_s=60)  # nobody listens: it is not started
    loop = Loop(run, config, checkpoints, lambda values, step: None, check, heart)
    loop.skipped = frozenset({SKIPPED})
    return loop, started


def stop_and_go_on(rank, root):
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = "0"
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=1)
    made = batches(steps=STEPS)
    plan = made.plan()
    loop, _ = loop_over(root, made, plan, stop_at=4)
    with pytest.raises(Stopped):
        loop.train()
    loop, started = loop_over(root, made, plan)
    loop.train()
    assert len(started) == STEPS - 4  # it went on from step 4
    assert [row["step"] for row in loop.log.rows()] == list(range(STEPS))
    assert [row["step"] for row in loop.log.rows() if row.get("skipped")] == [SKIPPED] == loop.cursor.skipped
    learned = sum(made.at(step, 0, 1).tokens for step in range(STEPS) if step != SKIPPED)
    assert loop.tokens == BEFORE + learned
    left_out = plan.of_step(SKIPPED)
    assert loop.facts["ledger"] == {
        source: {
            "planned": planned,
            "seen": planned - plan.remainder[source] - left_out[source],
            "skipped": left_out[source],
        }
        for source, planned in plan.planned.items()
    }
    dist.barrier()
    dist.destroy_process_group()


def test_a_restart_and_a_skipped_step_are_in_the_ledger(tmp_path):
    torch.multiprocessing.spawn(stop_and_go_on, (tmp_path,), nprocs=1)
