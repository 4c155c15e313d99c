"""The conditional reward model (report §4.2.1): one for all domains, told by a system prompt whose wishes count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenmill.manifest import Manifest
from tokenmill.rlhf.config import RewardModelConfig
from tokenmill.steps import training_step

if TYPE_CHECKING:
    from tokenmill.training.run import TrainingRun
    from tokenmill.training.worker import WorkerContext

KINDS = {"preferences": "preferences", "patches": "preferences", "sft": "weights", "tokenizer": "tokenizer"}


@training_step("rlhf.train_reward_model", version=4, kinds=KINDS)
def build(
    config: RewardModelConfig,
    preferences: Manifest,
    patches: list[Manifest] | None,
    sft: Manifest,
    tokenizer: Manifest,
    ctx: WorkerContext,
) -> TrainingRun:
    """One epoch over all pairs and patches; the body starts as SFT's, which reads system prompts, the head anew."""
    from dataclasses import replace

    from tokenmill.model.folder import load_model, save_model
    from tokenmill.model.modeling import InternLM2ForRewardModel
    from tokenmill.model.tokenizer import Tokenizer
    from tokenmill.rlhf.pairs import RewardBatches, encode_pairs, reward_loss, sound_pairs, with_shuffled_labels
    from tokenmill.training.run import TrainingRun

    words = Tokenizer.load(ctx.files(tokenizer))
    given = [record for manifest in (preferences, *(patches or ())) for record in ctx.records(manifest)]
    given = given[: config.max_pairs]
    records, pairs, aside = sound_pairs(given, words, config.max_length)
    if config.shuffle_labels:
        pairs = encode_pairs(with_shuffled_labels(records, config.seed), words, config.max_length)
    aside.require_few(len(given), config.max_set_aside, "rlhf.train_reward_model.max_set_aside", ctx.log)
    model = load_model(ctx.files(sft), InternLM2ForRewardModel, fresh_head=config.seed)
    model.config = replace(model.config, reward_token_id=words.reward_id)
    batches = RewardBatches(
        pairs,
        config.batch_tokens,
        config.seed,
        micro_batch_tokens=config.execution.micro_batch_tokens,
    )
    return TrainingRun(
        model=model,
        batches=batches,
        loss=reward_loss(config),
        optim=config.optim,
        export=save_model,
        facts=aside.facts(),
        tokens_before=sft.counts.get("tokens_seen", 0),
    )
