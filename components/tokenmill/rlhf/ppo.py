"""Online RLHF: proximal policy optimisation from SFT against the reward model (report §4.2.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenmill.errors import ConfigError
from tokenmill.manifest import Manifest
from tokenmill.rlhf.config import PPOConfig
from tokenmill.steps import training_step

if TYPE_CHECKING:
    from tokenmill.model.modeling import InternLM2ForCausalLM
    from tokenmill.model.tokenizer import Tokenizer
    from tokenmill.rlhf.actor_critic import ActorCritic
    from tokenmill.rlhf.conditional import Query
    from tokenmill.rlhf.engines import RolloutEngine
    from tokenmill.rlhf.set_aside import SetAside
    from tokenmill.training.run import ParameterGroup, TrainingRun
    from tokenmill.training.worker import WorkerContext

KINDS = {
    "queries": "conversations",
    "sft": "weights",
    "reward_model": "weights",
    "tokenizer": "tokenizer",
    "tokens": "tokens",
}


@training_step("rlhf.ppo", version=8, kinds=KINDS)
def build(
    config: PPOConfig,
    queries: Manifest,
    sft: Manifest,
    reward_model: Manifest,
    tokenizer: Manifest,
    tokens: Manifest,
    ctx: WorkerContext,
) -> TrainingRun:
    """Actor and reference start as SFT, the critic as the reward model with a new head.

    What comes out is the actor (`weights`), and the actor of PPO's beginning (`early`).
    """
    from tokenmill.model.folder import load_model, save_model
    from tokenmill.model.modeling import InternLM2Critic, InternLM2ForRewardModel
    from tokenmill.model.tokenizer import Tokenizer
    from tokenmill.rlhf.actor_critic import ActorCritic, ppo_loss
    from tokenmill.rlhf.rollouts import Rollouts
    from tokenmill.rlhf.validation import WORTH, Validation
    from tokenmill.training.engine import DTYPES
    from tokenmill.training.pieces import PretrainingPieces
    from tokenmill.training.run import Best, TrainingRun
    from tokenmill.training.tokens import read_documents

    if config.execution.zero_stage > 2:
        raise ConfigError("rlhf.ppo draws answers from whole weights: set rlhf.ppo.execution.zero_stage to 2 or less")
    start, judge = ctx.files(sft), ctx.files(reward_model)
    model = ActorCritic(load_model(start), load_model(judge, InternLM2Critic, fresh_head=config.seed))
    model.to(DTYPES[config.precision])
    words = Tokenizer.load(ctx.files(tokenizer))
    learned, kept_back, aside = _queries(config, queries, words, model.actor.config.max_position_embeddings, ctx)
    batches = Rollouts(
        engine=_engine(config, model.actor, words, ctx),
        model=model,
        reference=load_model(start),
        reward_model=load_model(judge, InternLM2ForRewardModel),
        tokenizer=words,
        queries=learned,
        pretraining=PretrainingPieces(read_documents(ctx.store, tokens), config.pretrain_context),
        config=config,
    )
    return TrainingRun(
        model=model,
        batches=batches,
        loss=ppo_loss(config),
        optim=config.optim,
        export=lambda trained, folder: save_model(trained.actor, folder),
        groups=_groups(config, model),
        on_step=batches.measured,
        evaluate=Validation(batches, kept_back) if kept_back else None,
        evaluate_at=_moments(config),
        best_by=Best(WORTH) if kept_back else None,
        milestones={"early": early_step(config)},
        kept=batches.kl_coefficient,
        facts=aside.facts(),
        tokens_before=sft.counts.get("tokens_seen", 0),
    )


def _queries(
    config: PPOConfig, queries: Manifest, words: Tokenizer, context: int, ctx: WorkerContext
) -> tuple[list[Query], list[Query], SetAside]:
    """What PPO asks, what only validation asks, and what neither can."""
    from tokenmill.rlhf.conditional import sound_queries
    from tokenmill.rlhf.validation import kept_apart

    given = list(ctx.records(queries))
    asked, aside = sound_queries(given, words, context=context, max_length=config.max_length)
    aside.require_few(len(given), config.max_set_aside, "rlhf.ppo.max_set_aside", ctx.log)
    return *kept_apart(asked, config.validation_queries if config.evaluations else 0), aside


def _groups(config: PPOConfig, model: ActorCritic) -> list[ParameterGroup]:
    """The actor, which stands still at first, and the critic, which has a rate of its own."""
    from tokenmill.training.run import ParameterGroup

    return [
        ParameterGroup(list(model.actor.parameters()), frozen_steps=config.critic_warmup * config.passes),
        ParameterGroup(list(model.critic.parameters()), lr_scale=config.critic_lr / config.optim.lr),
    ]


def early_step(config: PPOConfig) -> int:
    """Optimizer step before which the early policy is kept: there is one before any but the end."""
    return min(round(config.early_share * config.iterations), config.iterations - 1) * config.passes


def _moments(config: PPOConfig) -> frozenset[int]:
    """Optimizer steps before which the policy is evaluated: from where the actor begins to learn to the end, evenly."""
    from tokenmill.training.run import evenly

    first = min(config.critic_warmup, config.iterations)
    return frozenset(place * config.passes for place in evenly(config.evaluations, first, config.iterations))


def _engine(config: PPOConfig, actor: InternLM2ForCausalLM, words: Tokenizer, ctx: WorkerContext) -> RolloutEngine:
    """Who draws the answers. Of a vLLM process there is one, rank 0's."""
    from tokenmill.rlhf.engines import NativeEngine

    if config.rollouts == "native":
        return NativeEngine(actor, config.sampling, words.stop_ids)
    from tokenmill.rlhf.vllm_engine import VLLMEngine, VLLMProcess

    folder = ctx.workdir / "rollouts"
    process = VLLMProcess(folder, actor, config.answers, config.execution) if ctx.rank == 0 else None
    return VLLMEngine(process, actor, config.sampling, words.stop_ids)
