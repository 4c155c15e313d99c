"""The conditional reward model (report §4.2.1): one for all domains, told by a system prompt whose wishes count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tokenmill.errors import InputError
from tokenmill.manifest import Manifest, sha256
from tokenmill.model.conversation import asked_first
from tokenmill.records import Record
from tokenmill.rlhf.config import RewardModelConfig
from tokenmill.steps import training_step

if TYPE_CHECKING:
    import torch

    from tokenmill.rlhf.pairs import Pair
    from tokenmill.training.run import TrainingRun
    from tokenmill.training.worker import WorkerContext

ACCURACY = "validation/accuracy"
KINDS = {"preferences": "preferences", "patches": "preferences", "sft": "weights", "tokenizer": "tokenizer"}


@training_step("rlhf.train_reward_model", version=5, kinds=KINDS)
def build(
    config: RewardModelConfig,
    preferences: Manifest,
    patches: list[Manifest] | None,
    sft: Manifest,
    tokenizer: Manifest,
    ctx: WorkerContext,
) -> TrainingRun:
    """One epoch over all pairs and patches; the body starts as SFT's, which reads system prompts, the head anew.

    Its folder has the prompts that it learned under. Where several evaluations choose the weights, the pairs of some questions
    are measured instead of learned.
    """
    from dataclasses import replace

    from tokenmill.model.folder import RM_PROMPTS, load_model, save_model
    from tokenmill.model.modeling import InternLM2ForRewardModel
    from tokenmill.model.tokenizer import Tokenizer
    from tokenmill.rlhf.conditional import prompts_of
    from tokenmill.rlhf.pairs import RewardBatches, encode_pairs, reward_loss, sound_pairs, with_shuffled_labels
    from tokenmill.rlhf.scoring import reward_scores
    from tokenmill.training.run import Best, TrainingRun, evenly

    words = Tokenizer.load(ctx.files(tokenizer))
    given = [record for manifest in (preferences, *(patches or ())) for record in ctx.records(manifest)]
    given = given[: config.max_pairs]
    records, pairs, aside = sound_pairs(given, words, config.max_length)
    if config.shuffle_labels:
        pairs = encode_pairs(with_shuffled_labels(records, config.seed), words, config.max_length)
    aside.require_few(len(given), config.max_set_aside, "rlhf.train_reward_model.max_set_aside", ctx.log)
    pairs, kept_back = kept_apart(records, pairs, config.validation_share if config.evaluations else 0)

    prompts = yaml.safe_dump(prompts_of(records), sort_keys=True, allow_unicode=True, width=1000)

    def export(model: InternLM2ForRewardModel, folder: Path) -> None:
        save_model(model, folder)
        (folder / RM_PROMPTS).write_text(prompts, encoding="utf-8")

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        scores = reward_scores(model, [side for pair in kept_back for side in pair])  # type: ignore[arg-type] # as is
        margins = -scores.view(-1, 2).diff()
        return {ACCURACY: float((margins > 0).double().mean()), "validation/margin": float(margins.mean())}

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
        export=export,
        evaluate=evaluate if kept_back else None,
        evaluate_at=evenly(config.evaluations, 0, len(batches)),
        best_by=Best(ACCURACY) if kept_back else None,
        facts=aside.facts(),
        tokens_before=sft.counts.get("tokens_seen", 0),
    )


def kept_apart(records: Sequence[Record], pairs: Sequence[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """What is learned and what is only measured: all pairs of `share` of the first questions, those of lowest hash.

    Raises:
        InputError: all pairs are of one question.
    """
    if not share:
        return list(pairs), []
    asked = [asked_first(record["prompt"]) for record in records]
    questions = sorted(set(asked), key=lambda text: sha256(text.encode()))
    if len(questions) < 2:
        raise InputError(
            "rlhf.train_reward_model: all pairs are of one question, and none is left to choose weights by: set "
            "rlhf.train_reward_model.evaluations=0"
        )
    measured = set(questions[: max(1, min(round(share * len(questions)), len(questions) - 1))])
    told = list(zip(asked, pairs, strict=True))
    learned = [pair for question, pair in told if question not in measured]
    return learned, [pair for question, pair in told if question in measured]
