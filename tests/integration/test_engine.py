"""The engine: what a step does to the weights does not depend on how ranks and micro-batches compute it."""

import os

import numpy
import pytest
import torch
import torch.distributed as dist

from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.training.data import PackedBatches, Sample, Samples, next_token_loss
from tokenmill.training.engine import Engine
from tokenmill.training.run import TrainingRun
from tokenmill.training.settings import OptimConfig, TrainingConfig, TrainingExecution

pytestmark = pytest.mark.integration
CONTEXT, PACKS, RANKS = 32, 4, 2
LAID_OUT = (
    {"zero_stage": 0},
    {"recompute": "selective"},
    {"zero_stage": 3, "recompute": "full"},
    {"zero_stage": 2, "offload_optimizer": True},
)
"""Ways to lay a training out that must not change it."""


def three_steps(rank, packs_at_once, sharers, **execution):
    """Loss and gradient norm of three steps, and the weights then; ranks from `sharers` on have nothing to compute."""
    draw = numpy.random.default_rng(0)
    samples = [Sample(draw.integers(3, 500, size=draw.integers(2, 33)).tolist()) for _ in range(40)]
    batches = PackedBatches(Samples.of(samples), CONTEXT, PACKS, seed=1, micro_batch_tokens=packs_at_once * CONTEXT)
    model = InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=1)
    # A clip and an epsilon that bite, so that a gradient scaled wrongly shows in the weights.
    optim = OptimConfig(lr=0.01, clip=0.5, eps=1e-3)
    run = TrainingRun(model, batches, next_token_loss, optim, export=lambda model, folder: None)
    config = TrainingConfig(precision="fp32", execution=TrainingExecution(**execution))
    engine = Engine(run, config, batches.accumulation(sharers), regrouped=False)
    measured = []
    for step in range(3):
        share = batches.at(step, min(rank, sharers - 1), sharers)
        mine = share.micro_batches if rank < sharers else [batches.pack([])] * len(share.micro_batches)
        loss = engine.step(step, mine, share.weight)["loss"]
        dist.all_reduce(loss)
        measured.append((float(loss) / share.weight, engine.grad_norm()))
    engine.gather()
    oracle = InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=1)
    whole = batches.at(0, 0, 1)
    sum(next_token_loss(oracle, pack).loss for pack in whole.micro_batches).div(whole.weight).backward()
    norm = torch.nn.utils.clip_grad_norm_(oracle.parameters(), optim.clip)  # which returns what it was before
    assert measured[0][1] == pytest.approx(float(norm), rel=1e-5) and norm > optim.clip
    return measured, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def compare(rank, root):
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed asks for it
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=RANKS)
    together, weights = three_steps(rank, packs_at_once=4, sharers=1)
    for packs_at_once, sharers in ((1, 1), (1, 2), (2, 2)):
        apart, moved = three_steps(rank, packs_at_once, sharers)
        numpy.testing.assert_allclose(apart, together, rtol=2e-6)
        assert float((moved - weights).norm() / weights.norm()) < 1e-6
    for execution in LAID_OUT:
        otherwise, moved = three_steps(rank, packs_at_once=4, sharers=1, **execution)
        numpy.testing.assert_allclose(otherwise, together, rtol=2e-6, err_msg=str(execution))
        assert rank > 0 or float((moved - weights).norm() / weights.norm()) < 1e-6, execution
    dist.barrier()
    dist.destroy_process_group()


def test_one_rank_with_four_micro_batches_is_two_with_two_and_one_with_one(tmp_path):
    torch.multiprocessing.spawn(compare, (tmp_path,), nprocs=RANKS)
