"""The two stages of pretraining: "4K" from scratch, then "32K" with the RoPE base changed (report §3.3)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tokenmill.errors import ConfigError
from tokenmill.manifest import Manifest
from tokenmill.pretraining.config import LongStageConfig
from tokenmill.steps import training_step
from tokenmill.training.settings import StageConfig

if TYPE_CHECKING:
    from tokenmill.training.run import TrainingRun
    from tokenmill.training.worker import WorkerContext


@training_step("pretraining.train_short", version=6, kinds={"tokens": "tokens", "tokenizer": "tokenizer"})
def train_short(config: StageConfig, tokens: Manifest, tokenizer: Manifest, ctx: WorkerContext) -> TrainingRun:
    """Phase 1: from random weights; documents longer than the context are split, the remainder is trained on too."""
    from tokenmill.model.config import InternLM2Config
    from tokenmill.model.modeling import InternLM2ForCausalLM
    from tokenmill.model.tokenizer import Tokenizer
    from tokenmill.training.stage import stage_run

    vocabulary = Tokenizer.load(ctx.files(tokenizer)).vocab_size
    shape = replace(InternLM2Config.preset(config.model), vocab_size=vocabulary)
    model = InternLM2ForCausalLM(shape.with_rope_theta(config.rope_theta, config.context), seed=config.seed)
    return stage_run(config, tokens, model, ctx, tokens_before=0)


@training_step("pretraining.train_long", version=6, kinds={"tokens": "tokens", "long": "tokens", "base": "weights"})
def train_long(
    config: LongStageConfig, tokens: Manifest, long: Manifest | None, base: Manifest, ctx: WorkerContext
) -> TrainingRun:
    """Phase 2: longer context, RoPE base 50k → 1M, half of the tokens still from short documents.

    The other half comes from `long`, the documents that passed the long-context filters; without it, from whatever is long.
    """
    from tokenmill.model.layout import load_model
    from tokenmill.training.stage import stage_run

    if (before := config.optim.steps_before) not in (0, base.counts["steps"]):
        raise ConfigError(
            f"pretraining.train_long.optim.steps_before is {before}, but the base was trained for {base.counts['steps']} "
            "steps: one schedule over both stages needs that number here, and this stage's steps in train_short's steps_after"
        )
    model = load_model(ctx.files(base))
    model.config = model.model.config = model.config.with_rope_theta(config.rope_theta, config.context)
    return stage_run(config, tokens, model, ctx, tokens_before=base.counts["tokens_seen"], long=long)
