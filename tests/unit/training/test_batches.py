"""Batches of packed samples: the same step whatever computes it."""

import pytest
import torch
from token_documents import CONTEXT, batches

from tokenmill.model import IGNORE
from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.training.data import next_token_loss
from tokenmill.training.packing import Pack


def test_every_token_is_in_one_micro_batch_of_one_rank():
    for world, micro_batch_tokens in ((1, 4096), (1, 32), (2, 64), (3, 70), (4, 1)):
        made = batches(micro_batch_tokens)
        for step in range(len(made)):
            shares = [made.at(step, rank, world) for rank in range(world)]
            packs = [pack for share in shares for pack in share.micro_batches]
            assert {len(share.micro_batches) for share in shares} == {made.accumulation(world)}
            trained = [pack for pack in packs if (pack.labels != IGNORE).any()]
            assert sum(len(pack.input_ids) for pack in trained) == shares[0].tokens
            assert sum(int((pack.labels != IGNORE).sum()) for pack in packs) == shares[0].weight
            assert all(len(pack.input_ids) <= max(CONTEXT, micro_batch_tokens) for pack in packs)


def test_batches_that_grow_take_what_their_step_says_and_leave_nothing_out():
    grown = batches(packs_per_step=lambda step: 2 if step < 3 else 8)
    even = batches(packs_per_step=2)
    assert [len(packs) for packs in map(grown._packs, range(len(grown)))] == [2, 2, 2, 8, 8, 8, 8, 8]
    assert [grown.at(step, 0, 1).tokens for step in range(3)] == [even.at(step, 0, 1).tokens for step in range(3)]
    assert sum(grown.at(step, 0, 1).tokens for step in range(len(grown))) == int(grown.samples.length.sum())
    assert grown.accumulation(2) == even.accumulation(2) == 1 and batches(32, lambda step: 8).accumulation(2) == 4
    for step in range(len(grown)):
        assert grown.first_sample(step) == sum(map(len, map(grown.packing.rows, map(grown._packs, range(step)))))


@pytest.fixture(scope="module")
def model():
    return InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=1)


def gradients(model, world, micro_batch_tokens, step=0):
    """Of a step's loss, as the loop has it: summed over ranks and micro-batches, divided by the global weight."""
    model.zero_grad()
    made = batches(micro_batch_tokens)
    for rank in range(world):
        share = made.at(step, rank, world)
        for micro_batch in share.micro_batches:
            (next_token_loss(model, micro_batch).loss / share.weight).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("step", [0, 5])  # 5 is the last, and not full
def test_gradients_do_not_depend_on_micro_batches_or_ranks(model, step):
    assert len(batches()) == 6 and batches().at(5, 0, 1).tokens < 0.9 * batches().at(0, 0, 1).tokens
    whole = gradients(model, 1, 8 * CONTEXT, step)
    for world, packs_at_once, micro_batches in ((1, 4, 2), (1, 2, 4), (2, 2, 2), (3, 1, 3)):
        assert batches(packs_at_once * CONTEXT).accumulation(world) == micro_batches
        apart = gradients(model, world, packs_at_once * CONTEXT, step)
        assert float((apart - whole).norm() / whole.norm()) < 1e-6


def test_losses_a_source_are_those_of_its_samples_alone(model):
    made = batches(micro_batch_tokens=2 * CONTEXT)
    share = made.at(0, 0, 1)
    outputs = [next_token_loss(model, pack) for pack in share.micro_batches]
    totals = {name: sum(float(output.metrics[name]) for output in outputs) for name in ("loss/s0", "loss/s1")}
    assert sum(totals.values()) == pytest.approx(sum(float(output.loss.detach()) for output in outputs), rel=1e-6)
    alone = dict.fromkeys(totals, 0.0)
    trained = dict.fromkeys(totals, 0)
    for row in made.packing.rows(made._packs(0)):
        ids, labels = made.samples.part(*made._piece(row))
        pack = Pack.of([ids], [labels])
        name = f"loss/s{made.samples.source[made.packing.document[row]]}"
        alone[name] += float(next_token_loss(model, pack).loss.detach())
        trained[name] += int((pack.labels != IGNORE).sum())
    assert totals == pytest.approx(alone, rel=1e-5)
    assert share.weights == trained and sum(trained.values()) == share.weight
    empty = next_token_loss(model, made.pack([]))  # a rank without packs names the same metrics
    assert {name: float(value) for name, value in empty.metrics.items()} == dict.fromkeys(totals, 0.0)


def test_a_token_attends_as_far_as_its_own_sequence():
    made = batches()
    lengths = made.packing.length[made.packing.rows(made._packs(0))].tolist()
    by_token = [length for length in lengths for _ in range(length)]
    assert made.at(0, 0, 1).attended == pytest.approx(sum(by_token) / len(by_token))
