"""PPO's rollouts and loss: who sees what, what is frozen, what is a mean over what (spec §13, check 16)."""

from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
import torch
from token_documents import Document, in_memory

from tokenmill.errors import ConfigError
from tokenmill.model import IGNORE
from tokenmill.rlhf.actor_critic import ActorCritic, ppo_loss
from tokenmill.rlhf.conditional import conditional_prompts
from tokenmill.rlhf.config import PPOConfig, SamplingConfig
from tokenmill.rlhf.rollouts import Rollouts
from tokenmill.training.pieces import PretrainingPieces

CONFIG = PPOConfig(
    iterations=4, critic_warmup=1, answers=8, block=4, sampling=SamplingConfig(max_new_tokens=6), max_length=128
)


@pytest.fixture
def pieces():
    draw = np.random.default_rng(0)
    documents = [Document(f"d{i}", "web", draw.integers(3, 500, size=40), i == 0) for i in range(4)]
    return PretrainingPieces(in_memory(*documents), context=24)


@pytest.fixture
def rollouts(actor, critic, judge, tokenizer, queries, pieces):
    with torch.no_grad():
        actor.output.weight *= 10  # answers that differ from one another
        judge.v_head.weight *= 100
    return Rollouts(ActorCritic(actor, critic), deepcopy(actor), judge, tokenizer, queries, pieces, CONFIG)


def share(rollouts, step, rank=0, world=1):
    rollouts._iteration = -1
    return rollouts.at(step, rank, world)


def test_ranks_share_out_the_same_answers(rollouts):
    alone = share(rollouts, 2)
    split = [share(rollouts, 2, rank, 2).micro_batches[0].experience for rank in (0, 1)]
    for one, two in zip(alone.micro_batches, split, strict=True):
        assert torch.equal(one.experience.answers.input_ids, two.answers.input_ids)
        assert one.experience.pretraining == two.pretraining
    with pytest.raises(ConfigError, match="3 ranks"):
        rollouts.accumulation(3)


def test_how_many_micro_batches_a_rank_has_is_known_before_any_answer_is_drawn(rollouts, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(rollouts.model.actor, "forward", None)  # whoever generates now fails
        counts = {world: rollouts.accumulation(world) for world in (1, 2)}
    assert counts == {world: len(share(rollouts, 0, 0, world).micro_batches) for world in (1, 2)}


def test_every_query_is_asked_once_before_any_is_asked_again(rollouts, queries):
    asked = Counter(q.id for i in range(5) for index in (0, 1) for q in rollouts.asked(i, index))  # 40 of 10
    assert set(asked.values()) == {8}  # two domains share an id
    assert [q.id for q in rollouts.asked(0, 0)] != [q.id for q in rollouts.asked(1, 0)]


def test_only_the_reward_model_sees_the_condition(rollouts, tokenizer, monkeypatch):
    judged = []
    monkeypatch.setattr(
        "tokenmill.rlhf.rollouts.reward_scores", lambda model, inputs: judged.extend(inputs) or torch.zeros(len(inputs))
    )
    experience = rollouts.block(0, 0)
    conditions = list(conditional_prompts().values())
    assert all(any(c in tokenizer.decode(ids) for c in conditions) for ids in judged)
    assert all(ids[-1] == tokenizer.reward_id for ids in judged)
    spoken = tokenizer.decode(experience.answers.input_ids.tolist())
    assert not any(condition in spoken for condition in conditions)
    assert tokenizer.reward_id not in experience.answers.input_ids


def test_the_score_comes_last_and_kl_is_paid_token_by_token(rollouts, monkeypatch):
    """With a critic of zero and λ = γ = 1 the first advantage is score − 0.01 · KL of the whole answer."""
    monkeypatch.setattr("tokenmill.rlhf.rollouts.reward_scores", lambda model, inputs: torch.full((len(inputs),), 2.0))
    with torch.no_grad():
        rollouts.model.critic.v_head.weight.zero_()
        rollouts.reference.output.weight *= 0.5
    rollouts.config = CONFIG.model_copy(update={"gae_lambda": 1.0})
    experience = rollouts.block(0, 0)
    lengths = [int(n) for n in answer_lengths(experience)]
    firsts = [part[0] for part in experience.advantages.split(lengths)]
    kl = experience.measured["kl"]
    assert kl > 0
    assert float(sum(firsts)) == pytest.approx(2.0 * len(lengths) - 0.01 * kl, abs=1e-4)
    assert float(experience.advantages.mean()) > 1  # not normalised to a mean of zero


def answer_lengths(experience):
    pack = experience.answers
    return [(pack.labels[a:b] != IGNORE).sum() for a, b in zip(pack.cu_seqlens, pack.cu_seqlens[1:], strict=False)]


def test_first_pass_is_on_policy_and_terms_are_global_means(rollouts):
    batch = share(rollouts, 1)
    loss, model = ppo_loss(CONFIG), rollouts.model
    outputs = [loss(model, micro_batch) for micro_batch in batch.micro_batches]
    assert sum(o.metrics["ratio_error"] for o in outputs) < 1e-4
    advantages = torch.cat([m.experience.advantages for m in batch.micro_batches])
    assert sum(o.metrics["policy_loss"] for o in outputs) == pytest.approx(-float(advantages.mean()), abs=1e-4)

    halves = [share(rollouts, 1, rank, 2) for rank in (0, 1)]
    # one process stands for both ranks: without a process group a rank knows its own totals only
    totals = batch.micro_batches[0].totals
    assert totals.actions == sum(h.micro_batches[0].totals.actions for h in halves)
    assert batch.weight == 1.0


def test_the_critic_learns_alone_at_first(rollouts):
    loss, model = ppo_loss(CONFIG), rollouts.model
    for step, actor_learns in ((0, False), (1, True)):
        model.zero_grad()
        for micro_batch in share(rollouts, step).micro_batches:
            loss(model, micro_batch).loss.backward()
        assert bool(model.actor.output.weight.grad.abs().sum() > 0) == actor_learns
        assert model.critic.v_head.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in [*rollouts.reference.parameters(), *rollouts.reward_model.parameters()])


def test_pretraining_is_half_the_volume_at_half_the_weight(rollouts):
    batch = share(rollouts, 1)
    for micro_batch in batch.micro_batches:
        experience = micro_batch.experience
        volume = sum(map(len, experience.pretraining)) / len(experience.answers.input_ids)
        assert volume == pytest.approx(0.5, abs=0.02)
    micro_batch = batch.micro_batches[0]
    with_lm = ppo_loss(CONFIG)(rollouts.model, micro_batch)
    without = ppo_loss(CONFIG.model_copy(update={"pretrain_coefficient": 0.0}))(rollouts.model, micro_batch)
    difference = float((with_lm.loss - without.loss).detach())
    assert difference == pytest.approx(0.5 * with_lm.metrics["pretrain_loss"], abs=1e-5)


def test_a_ratio_beyond_the_clip_gains_nothing(rollouts):
    """Were the policy to say everything e^0.5 times as likely, well-rewarded tokens would no longer pull."""
    micro_batch = share(rollouts, 1).micro_batches[0]
    experience = micro_batch.experience
    shifted = deepcopy(micro_batch)
    object.__setattr__(shifted.experience, "logprobs", experience.logprobs - 0.5)
    object.__setattr__(shifted.experience, "advantages", experience.advantages.abs())
    output = ppo_loss(CONFIG)(rollouts.model, shifted)
    expected = -1.2 * float(experience.advantages.abs().sum()) / micro_batch.totals.actions
    assert output.metrics["policy_loss"] == pytest.approx(expected, rel=1e-3)
    assert output.metrics["clipped"] == pytest.approx(len(experience.logprobs) / micro_batch.totals.actions)


def test_later_passes_learn_from_the_same_answers(rollouts):
    rollouts.config = CONFIG.model_copy(update={"passes": 2})
    first, second, third = (rollouts.at(step, 0, 1).micro_batches[0].experience for step in (0, 1, 2))
    assert first is second and first is not third
