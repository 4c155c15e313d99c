"""The stages of pretraining: "4K" from random weights, then "32K" with the RoPE base changed (report §3.3)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tokenmill.errors import ConfigError, InputError
from tokenmill.manifest import Manifest
from tokenmill.pretraining.config import LongStageConfig
from tokenmill.steps import training_step
from tokenmill.training.settings import StageConfig

if TYPE_CHECKING:
    from tokenmill.model.modeling import InternLM2ForCausalLM
    from tokenmill.store import ArtifactStore
    from tokenmill.training.run import TrainingRun
    from tokenmill.training.worker import WorkerContext

STAGES = {"short": StageConfig, "long": LongStageConfig}
KINDS = {"tokens": "tokens", "tokenizer": "tokenizer", "long": "tokens", "base": "weights", "state": "training_state"}


def check(
    config: StageConfig,
    tokens: Manifest,
    tokenizer: Manifest | None,
    long: Manifest | None,
    base: Manifest | None,
    state: Manifest | None,
    store: ArtifactStore,
) -> None:
    """A stage has one beginning, and of a schedule over several stages it is where the one before ended."""
    if (tokenizer is None) == (base is None):
        raise InputError(
            "pretraining.pretrain: give `tokenizer` to start from random weights, or `base`, the weights of the stage before"
        )
    if base and (before := config.optim.steps_before) not in (0, base.counts["steps"]):
        raise ConfigError(
            f"pretraining.pretrain: optim.steps_before is {before}, but the base was trained for {base.counts['steps']} "
            "steps: one schedule over both stages needs that number here, and this stage's steps in the other's steps_after"
        )


@training_step("pretraining.pretrain", version=2, kinds=KINDS, stages=STAGES, check=check)
def pretrain(
    config: StageConfig,
    tokens: Manifest,
    tokenizer: Manifest | None,
    long: Manifest | None,
    base: Manifest | None,
    state: Manifest | None,
    ctx: WorkerContext,
) -> TrainingRun:
    """One stage; documents longer than its context are split, and the remainder is trained on too.

    Phase 2 has a longer context, RoPE base 50k → 1M, and half of its tokens still from short documents. The other half comes
    from `long`, the documents that passed the long-context filters; without it, from whatever is long. It goes on with the
    optimizer of the stage before, `state`, where that is given. What is `kept` of the way may be nothing.
    """
    from tokenmill.training.stage import stage_run

    before = base.counts["tokens_seen"] if base else 0
    run = stage_run(config, tokens, _start(config, tokenizer, base, ctx), ctx, tokens_before=before, long=long)
    run = replace(run, kept_at=run.kept_at or frozenset())
    if not isinstance(config, LongStageConfig):
        return replace(run, optimizer_out=ctx.workdir / "optimizer")
    return replace(run, optimizer=ctx.files(state) if state and not config.fresh_optimizer else None)


def _start(
    config: StageConfig, tokenizer: Manifest | None, base: Manifest | None, ctx: WorkerContext
) -> InternLM2ForCausalLM:
    """The model of the stage before, or one of random weights, with the stage's context and RoPE base."""
    from tokenmill.model.config import InternLM2Config
    from tokenmill.model.folder import load_model
    from tokenmill.model.modeling import InternLM2ForCausalLM
    from tokenmill.model.tokenizer import Tokenizer

    if base:
        model = load_model(ctx.files(base))
        model.config = model.model.config = model.config.with_rope_theta(config.rope_theta, config.context)
        return model
    assert tokenizer, "checked before"
    vocabulary = Tokenizer.load(ctx.files(tokenizer)).vocab_size
    shape = replace(InternLM2Config.preset(config.model), vocab_size=vocabulary)
    return InternLM2ForCausalLM(shape.with_rope_theta(config.rope_theta, config.context), seed=config.seed)
