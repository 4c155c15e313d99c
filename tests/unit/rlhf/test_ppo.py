"""PPO's rollouts and loss: who sees what, what is frozen, what is a mean over what (spec §13, check 16)."""

from collections import Counter
from copy import deepcopy

import numpy as np
import orjson
import pytest
import torch
from token_documents import Document, in_memory

from tokenmill.errors import ConfigError, InputError
from tokenmill.model import IGNORE
from tokenmill.rlhf.actor_critic import ActorCritic, ppo_loss
from tokenmill.rlhf.conditional import conditional_prompts
from tokenmill.rlhf.config import PPOConfig, PPOExecution, SamplingConfig
from tokenmill.rlhf.engines import NativeEngine
from tokenmill.rlhf.kl import KLCoefficient
from tokenmill.rlhf.ppo import early_step
from tokenmill.rlhf.rollouts import Rollouts
from tokenmill.rlhf.validation import kept_apart
from tokenmill.rlhf.vllm_engine import VLLMProcess
from tokenmill.serving import EngineError
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
    engine = NativeEngine(actor, CONFIG.sampling, tokenizer.stop_ids)
    return Rollouts(engine, ActorCritic(actor, critic), deepcopy(actor), judge, tokenizer, queries, pieces, CONFIG)


def share(rollouts, step, rank=0, world=1):
    rollouts._iteration = -1
    return rollouts.at(step, rank, world)


def block(rollouts):
    """What the first block of all teaches."""
    request = rollouts.request(0, 0)
    return rollouts.judged(0, 0, request, *rollouts.engine.draw([request]))


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
    experience = block(rollouts)
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
    experience = block(rollouts)
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
    object.__setattr__(shifted, "on_policy", False)
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


def test_values_start_anywhere_and_advantages_are_not_made_to_fit(rollouts):
    """Were advantages normalised, adding 3 to every reward would change nothing; were values clipped, a far one would cost less."""
    experience = share(rollouts, 1).micro_batches[0].experience
    assert abs(float(experience.advantages.mean())) > 1e-3
    assert abs(float(experience.advantages.std()) - 1) > 1e-2
    micro_batch = share(rollouts, 1).micro_batches[0]
    far = deepcopy(micro_batch)
    object.__setattr__(far.experience, "returns", far.experience.returns + 100)
    cost = ppo_loss(CONFIG)(rollouts.model, far).metrics["value_loss"]
    assert cost == pytest.approx(len(experience.logprobs) * 100**2 / 2 / micro_batch.totals.actions, rel=0.05)


def test_what_is_measured_of_an_iteration(rollouts):
    """Against sums over all answers, computed here from the models themselves."""
    batch = share(rollouts, 1)
    told = rollouts.measured(1)
    experiences = [m.experience for m in batch.micro_batches]
    returns, advantages = (torch.cat([getattr(e, of) for e in experiences]) for of in ("returns", "advantages"))
    values = returns - advantages
    expected = 1 - float((returns - values).var(correction=0) / returns.var(correction=0))
    assert told["explained_variance"] == pytest.approx(expected, abs=1e-4)
    assert told["kl_coefficient"] == CONFIG.kl_coefficient
    outputs = [ppo_loss(CONFIG)(rollouts.model, m).metrics for m in batch.micro_batches]
    reward = sum(o["reward"] for o in outputs)
    asked = Counter(query.domain for index in (0, 1) for query in rollouts.asked(1, index))
    assert reward == pytest.approx(sum(told[f"reward/{d}"] * n for d, n in asked.items()) / 8, abs=1e-5)
    entropies = []
    for experience in experiences:
        pack = experience.answers
        rows = rollouts.model.actor(pack.input_ids, pack.cu_seqlens).detach()[pack.labels != IGNORE]
        entropies.append(torch.distributions.Categorical(logits=rows).entropy())
    assert sum(o["entropy"] for o in outputs) == pytest.approx(float(torch.cat(entropies).mean()), abs=1e-4)


def test_answers_of_another_model_are_refused_before_they_are_learned_from(rollouts):
    micro_batch = share(rollouts, 1).micro_batches[0]
    object.__setattr__(micro_batch.experience, "logprobs", micro_batch.experience.logprobs - 0.1)
    with pytest.raises(ConfigError, match="importance ratios 0.105 from 1 on average"):
        ppo_loss(CONFIG)(rollouts.model, micro_batch)
    object.__setattr__(micro_batch, "on_policy", False)  # in a second pass they may be off
    ppo_loss(CONFIG)(rollouts.model, micro_batch)


def test_only_a_first_pass_is_on_policy(rollouts):
    rollouts.config = CONFIG.model_copy(update={"passes": 2})
    assert [rollouts.at(step, 0, 1).micro_batches[0].on_policy for step in range(4)] == [True, False, True, False]


def test_frozen_models_stay_to_the_bit_and_share_nothing_with_those_that_learn(rollouts):
    learning, frozen = rollouts.model, (rollouts.reference, rollouts.reward_model)
    before = [{name: p.clone() for name, p in model.named_parameters()} for model in (learning, *frozen)]
    optimizer = torch.optim.AdamW([p for p in learning.parameters() if p.requires_grad], lr=1e-2)
    for step in (1, 2):
        for micro_batch in share(rollouts, step).micro_batches:
            ppo_loss(CONFIG.model_copy(update={"max_ratio_error": 10.0}))(learning, micro_batch).loss.backward()
        optimizer.step()
    moved = [
        any(not torch.equal(p, was[name]) for name, p in model.named_parameters())
        for model, was in zip((learning, *frozen), before, strict=True)
    ]
    assert moved == [True, False, False]
    places = [{p.data_ptr() for p in model.parameters()} for model in (learning.actor, learning.critic, *frozen)]
    assert len(set().union(*places)) == sum(map(len, places))


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(6.0, 1.0), (6.6, 1.01), (5.4, 0.99), (60.0, 1.02), (0.0, 0.98), (-3.0, 0.98)],
)
def test_the_kl_coefficient_is_steered_to_its_target(kl, factor):
    """Ziegler et al. 2019, §2.2: β ← β (1 + 0.1 · clip(KL / target − 1, −0.2, 0.2))."""
    steered, fixed = (KLCoefficient(0.05, target, 0.1) for target in (6.0, None))
    for coefficient, expected in ((steered, 0.05 * factor), (fixed, 0.05)):
        coefficient.update(kl)
        assert coefficient.value == pytest.approx(expected, rel=1e-12)


def test_the_kl_coefficient_goes_on_from_where_it_was(rollouts):
    one, two = (KLCoefficient(value, 6.0, 0.1) for value in (0.05, 0.9))
    one.update(9.0)
    two.load_state_dict(orjson.loads(orjson.dumps(one.state_dict())))
    assert two.value == one.value
    rollouts.kl_coefficient = KLCoefficient(0.5, 6.0, 0.1)
    first, second = (share(rollouts, step) and rollouts.measured(step)["kl_coefficient"] for step in (0, 1))
    assert (first, second) == (0.5, pytest.approx(0.49))  # at first there is no KL at all


def test_reward_grows_on_a_task_that_chance_can_find(rollouts, monkeypatch):
    """Rewarded for every token with an even id, the policy learns to say them; with rewards drawn by chance it does not."""

    def learn(reward, iterations=8):
        torch.manual_seed(0)
        model = deepcopy(rollouts.model)
        fresh = Rollouts(
            NativeEngine(model.actor, CONFIG.sampling, ()), model, rollouts.reference, rollouts.reward_model,
            rollouts.tokenizer, rollouts.queries, rollouts.pretraining,
            CONFIG.model_copy(update={"answers": 16, "block": 16, "pretrain_coefficient": 0.0, "critic_warmup": 0}),
        )  # fmt: skip
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
        even = []
        for step in range(iterations):
            monkeypatch.setattr("tokenmill.rlhf.rollouts.reward_scores", lambda _, inputs: reward(inputs))
            batch = fresh.at(step, 0, 1)
            (micro_batch,) = batch.micro_batches
            pack = micro_batch.experience.answers
            said = pack.labels[pack.labels != IGNORE]
            even.append(float((said % 2 == 0).float().mean()))
            optimizer.zero_grad()
            ppo_loss(fresh.config)(model, micro_batch).loss.backward()
            optimizer.step()
        return sum(even[-2:]) / 2 - sum(even[:2]) / 2

    def wanted(inputs):
        return torch.tensor([float(sum(t % 2 == 0 for t in ids[-7:-1])) for ids in inputs])

    assert learn(wanted) > 0.2
    assert learn(lambda inputs: torch.randn(len(inputs))) < 0.1


def test_without_a_serving_environment_vllm_is_refused_in_one_line(actor, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tokenmill.rlhf.vllm_engine.serving_available",
        lambda: (False, "no serving environment: run scripts/serve_env.sh"),
    )
    with pytest.raises(EngineError, match="rlhf.ppo.rollouts=vllm: no serving environment: run scripts/serve_env.sh"):
        VLLMProcess(tmp_path, actor, 4, PPOExecution())


def test_queries_kept_for_validation_are_spread_and_leave_some_to_learn_from():
    learned, kept = kept_apart(list(range(10)), 3)  # any items do
    assert sorted(learned + kept) == list(range(10)) and kept == [0, 3, 7]
    assert kept_apart(list(range(10)), 0) == (list(range(10)), [])
    with pytest.raises(InputError, match="of 10 queries 10 are to be kept for validation, and none is left"):
        kept_apart(list(range(10)), 10)


@pytest.mark.parametrize(
    ("iterations", "share", "expected"), [(400, 0.25, 100), (10, 0.99, 9), (2, 0.25, 0), (1, 0.9, 0)]
)
def test_the_early_policy_is_one_of_before_the_end(iterations, share, expected):
    config = CONFIG.model_copy(update={"iterations": iterations, "early_share": share, "passes": 3})
    assert early_step(config) == expected * 3 < iterations * 3
