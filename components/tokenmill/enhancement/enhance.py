"""The enhancement stage: Base, the domain set, a lower rate and a smaller batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenmill.enhancement.config import EnhanceConfig
from tokenmill.manifest import Manifest
from tokenmill.steps import training_step

if TYPE_CHECKING:
    from tokenmill.training.run import TrainingRun
    from tokenmill.training.worker import WorkerContext


@training_step(
    "enhancement.enhance",
    version=1,
    kinds={"tokens": "tokens", "base": "weights", "decontamination": "decontamination"},
)
def enhance(
    config: EnhanceConfig, tokens: Manifest, base: Manifest, decontamination: Manifest, ctx: WorkerContext
) -> TrainingRun:
    """Continue Base on the domain set. Without a decontamination report it does not start: the role is required."""
    from tokenmill.model.layout import load_model
    from tokenmill.training.stage import stage_run

    model = load_model(ctx.files(base))
    return stage_run(config, tokens, model, ctx, tokens_before=base.counts["tokens_seen"])
