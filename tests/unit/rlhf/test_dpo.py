"""DPO's loss against numbers worked out by hand, its batches against one answer at a time."""

import math

import pytest
import torch

from tokenmill.rlhf.direct import DPOBatches, answered_pairs, dpo_loss, preference_loss
from tokenmill.rlhf.scoring import answer_logprobs


def records(written):
    direct, careful = written
    for number in range(6):
        asked = f"How do I paint the wall at home?{' please' * number}"
        yield {
            "id": f"r{number}",
            "domain": "helpful",
            "prompt": [{"role": "user", "content": asked}],
            "chosen": direct,
            "rejected": careful,
        }


def test_loss_is_the_papers():
    """β = 0.1: rewards +0.1 and −0.1, −log σ(0.2); then rewards −0.5 and 0.3, −log σ(−0.8)."""
    policy, reference = torch.tensor([[-10.0, -12.0], [-9.0, -2.0]]), torch.tensor([[-11.0, -11.0], [-4.0, -5.0]])
    expected = [math.log(1 + math.exp(-0.2)), math.log(1 + math.exp(0.8))]
    assert preference_loss(policy, reference, 0.1).tolist() == pytest.approx(expected, abs=1e-6)


def test_gradient_pulls_the_chosen_up_by_beta_times_how_wrong_it_is():
    policy = torch.tensor([[-9.0, -2.0]], dtype=torch.float64, requires_grad=True)
    preference_loss(policy, torch.tensor([[-4.0, -5.0]], dtype=torch.float64), 0.1).sum().backward()
    wrong = 1 / (1 + math.exp(-0.8))  # σ(reward of the rejected − reward of the chosen)
    assert policy.grad.tolist() == [[pytest.approx(-0.1 * wrong), pytest.approx(0.1 * wrong)]]


def test_a_policy_that_is_the_reference_loses_log_two(actor, tokenizer, written):
    pairs = answered_pairs(actor, list(records(written)), tokenizer)
    batches = DPOBatches(pairs, 700, seed=0, micro_batch_tokens=300)
    share = batches.at(0, 0, 1)
    outputs = [dpo_loss(0.1)(actor, one) for one in share.micro_batches]
    assert sum(float(o.loss.detach()) for o in outputs) / share.weight == pytest.approx(math.log(2), abs=1e-5)


def test_the_mean_over_pairs_is_that_of_answers_one_by_one(actor, tokenizer, written):
    pairs = answered_pairs(actor, list(records(written)), tokenizer)
    with torch.no_grad():
        actor.output.weight *= 3  # has learned something
    expected = []
    for pair in pairs:
        chosen, rejected = (
            float(answer_logprobs(actor, [pair.prompt], [side])[0].sum()) for side in (pair.chosen, pair.rejected)
        )
        margin = 0.1 * ((chosen - pair.reference[0]) - (rejected - pair.reference[1]))
        expected.append(math.log(1 + math.exp(-margin)))
    for world, at_once in ((1, 4096), (1, 1), (4, 4096)):
        batches = DPOBatches(pairs, 4096, seed=0, micro_batch_tokens=at_once)
        assert len(batches) == 1 and batches.at(0, 0, 1).weight == len(pairs)
        packs = [pack for rank in range(world) for pack in batches.at(0, rank, world).micro_batches]
        outputs = [dpo_loss(0.1)(actor, pack) for pack in packs]
        assert sum(float(o.loss.detach()) for o in outputs) == pytest.approx(sum(expected), abs=1e-3)
        right = sum(float(o.metrics["accuracy"]) for o in outputs)
        assert right == sum(loss < math.log(2) for loss in expected)
