"""The loop and its ledger: over a restart and a skipped step, every token is accounted for."""

import os
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load
from token_documents import batches

from tokenmill.errors import BudgetSpent
from tokenmill.logs import Log
from tokenmill.model.config import InternLM2Config
from tokenmill.model.folder import save_model
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.store import open_store
from tokenmill.training.checkpoint import Checkpoints
from tokenmill.training.data import next_token_loss
from tokenmill.training.exports import apart, left
from tokenmill.training.loop import Loop
from tokenmill.training.prefetch import Prefetched
from tokenmill.training.run import Best, TrainingRun, evenly
from tokenmill.training.settings import OptimConfig, TrainingConfig, TrainingExecution
from tokenmill.training.timing import STEP_PHASES
from tokenmill.training.watchdog import Heart

pytestmark = pytest.mark.integration
STEPS, SKIPPED, BEFORE = 5, 2, 1000


class Stopped(Exception):
    pass


def loop_over(root, made, plan, stop_at=None, report=lambda values, step: None, **execution):
    """A loop that fails at the start of a step, if it is told to."""
    model = InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=1)
    run = TrainingRun(
        model, Prefetched(made), next_token_loss, OptimConfig(), lambda *_: None, plan=plan, tokens_before=BEFORE
    )
    laid_out = TrainingExecution(ranks=dist.get_world_size(), checkpoint_every=2, zero_stage=1, **execution)
    config = TrainingConfig(precision="fp32", execution=laid_out)
    checkpoints = Checkpoints(open_store(f"file://{root}/store"), "key", root / "local", laid_out, Log())
    started = []

    def check():
        started.append(None)
        if len(started) - 1 == stop_at:
            checkpoints.wait()
            raise Stopped

    heart = Heart(checkpoints.store, "work/key/attempt", rank=0, limit_s=60)  # nobody listens: it is not started
    loop = Loop(run, config, checkpoints, report, check, heart)
    loop.skipped = frozenset({SKIPPED})
    return loop, started


def begin(rank, root, world=1):
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed asks for it
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=world)


def stop_and_go_on(rank, root):
    begin(rank, root)
    made = batches(steps=STEPS)
    plan = made.plan()
    loop, _ = loop_over(root, made, plan, stop_at=1)
    with pytest.raises(Stopped):
        loop.train()
    loop, _ = loop_over(root, made, plan, stop_at=4)
    with pytest.raises(Stopped):
        loop.train()
    told = []
    loop, started = loop_over(root, made, plan, report=lambda values, step: told.append(values))
    loop.train()
    assert told[0]["incidents/restarts"] == 2  # the first was stopped before there was a checkpoint
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


def choose_and_go_on(rank, root):
    """Evaluations before steps 0, 3 and at the end; stopped before step 4, and gone on from the checkpoint before 2."""
    begin(rank, root)
    for name, until, again, best in (("redone", (1, 3), (3, 2), 3), ("remembered", (3, 1), (1, 2), 0)):
        folder, made, seen = root / name, batches(steps=STEPS), []

        def over(scores, stop_at=None, folder=folder, made=made, seen=seen):
            loop, _ = loop_over(folder, made, None, stop_at)
            left = list(scores)

            def evaluate(model):
                seen.append((left[0], model.state_dict()["output.weight"].clone()))
                return {"good": left.pop(0)}

            told = {"evaluate": evaluate, "evaluate_at": frozenset({0, 3, STEPS}), "best_by": Best("good")}
            loop.run = replace(loop.run, export=save_model, milestones={"early": 1}, **told)
            return loop

        with pytest.raises(Stopped):
            over(until, stop_at=4).train()
        store = open_store(f"file://{folder}/store")
        newest = list(store.backend.list("work/key/checkpoints/4/"))
        assert newest
        for entry in newest:
            store.backend.delete(entry.key)
        loop = over(again)
        loop.train()
        assert loop.best == (best, 3) and loop.exports.at(1).counts["steps"] == 1
        shards = {shard.name: shard for shard in loop.exports.at(best).shards}
        chosen = store.get_blob(shards["model.safetensors"].blob)
        assert torch.equal(load(chosen)["output.weight"], next(weights for score, weights in seen if score == 3))
        assert not torch.equal(load(chosen)["output.weight"], loop.run.model.state_dict()["output.weight"])
    dist.barrier()
    dist.destroy_process_group()


def test_weights_of_the_best_evaluation_and_of_a_milestone_are_kept_over_a_restart(tmp_path):
    torch.multiprocessing.spawn(choose_and_go_on, (tmp_path,), nprocs=1)


def choose_the_smallest(rank, root):
    """A loss that falls and rises again: the weights in the middle leave, and those of the end are kept beside them."""
    begin(rank, root)
    made, seen = batches(steps=STEPS), []
    loop, _ = loop_over(root, made, None)

    def evaluate(model):
        seen.append(model.state_dict()["output.weight"].clone())
        return {"bad": {1: 3.0, 2: 1.0, 3: 1.0, 4: 2.0}[len(seen)]}

    told = {"evaluate": evaluate, "evaluate_at": evenly(4, 0, STEPS), "best_by": Best("bad", smallest=True)}
    loop.run = replace(loop.run, export=save_model, kept_at=frozenset({3, STEPS}), **told)
    loop.train()
    drafts = left(loop.checkpoints.store, loop.run, loop, root / "weights")

    def head(draft):
        (blob,) = [shard.blob for shard in draft.shards if shard.name == "model.safetensors"]
        return load(loop.checkpoints.store.get_blob(blob))["output.weight"]

    assert drafts["weights"].facts["best"] == {"step": 2, "bad": 1.0}
    assert torch.equal(head(drafts["weights"]), seen[1])
    third, last = apart(drafts["kept"])
    assert (third.counts["steps"], last.counts["steps"]) == (3, STEPS)
    assert torch.equal(head(third), seen[2]) and torch.equal(head(last), seen[3])
    dist.barrier()
    dist.destroy_process_group()


def test_the_best_weights_leave_and_the_last_are_kept_beside_them(tmp_path):
    torch.multiprocessing.spawn(choose_the_smallest, (tmp_path,), nprocs=1)


def disagree(rank, root):
    """Ranks whose losses differ in the last bit: one says that the later weights are better, the other not."""
    begin(rank, root, world=2)
    loop, _ = loop_over(root, batches(steps=STEPS), None)
    losses = iter([1.0, 1.0 + (2e-16, -2e-16)[rank], 2.0])
    told = {"evaluate": lambda model: {"bad": next(losses)}, "evaluate_at": frozenset({0, 3, STEPS})}
    loop.run = replace(loop.run, export=save_model, best_by=Best("bad", smallest=True), **told)
    loop.train()
    assert loop.best == (0, 1.0)
    dist.barrier()
    dist.destroy_process_group()


def test_ranks_that_measure_differently_keep_the_same_weights(tmp_path):
    torch.multiprocessing.spawn(disagree, (tmp_path,), nprocs=2)


def spend_and_go_on(rank, root):
    begin(rank, root)
    made, reported = batches(steps=STEPS), []
    price = {"price_per_hour": 3600.0}  # a second costs 1
    loop, _ = loop_over(root, made, made.plan(), budget={**price, "cost": 1e-6}, accelerator="h100")
    with pytest.raises(BudgetSpent, match="after step 1, which is saved: its budget of 1e-06 is spent"):
        loop.train()
    loop, started = loop_over(root, made, made.plan(), budget={**price, "cost": 1e-6})
    with pytest.raises(BudgetSpent, match="at step 1: its budget"):
        loop.train()
    assert not started
    report = lambda values, step: reported.append(values)  # noqa: E731
    loop, _ = loop_over(root, made, made.plan(), report=report, budget=price, accelerator="h100")
    loop.train()
    assert [row["step"] for row in loop.log.rows()] == list(range(STEPS))
    costs = [values["spent/cost"] for values in reported if "loss" in values]
    assert 1e-6 < costs[0] < costs[-1] == pytest.approx(loop.meter.device_s)
    for values in reported:
        if "loss" not in values:
            continue
        split = {name: value for name, value in values.items() if name.startswith("perf/step/")}
        assert {f"perf/step/{phase}_s" for phase in STEP_PHASES} <= split.keys()
        assert values["perf/hfu"] == values["perf/mfu"] > 0
        assert values["perf/memory_gib"] > 0.1
        means = [values["loss/s0"], values["loss/s1"]]
        assert min(means) <= values["loss"] <= max(means)
    dist.barrier()
    dist.destroy_process_group()


def test_a_budget_ends_a_training_at_a_checkpoint_and_a_higher_one_goes_on(tmp_path):
    torch.multiprocessing.spawn(spend_and_go_on, (tmp_path,), nprocs=1)


def test_a_restart_and_a_skipped_step_are_in_the_ledger(tmp_path):
    torch.multiprocessing.spawn(stop_and_go_on, (tmp_path,), nprocs=1)
