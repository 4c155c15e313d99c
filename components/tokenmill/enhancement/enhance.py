"""The enhancement stage: Base, the domain set, a lower rate and a smaller batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenmill.enhancement import decontamination as reports
from tokenmill.enhancement.config import EnhanceConfig
from tokenmill.errors import InputError
from tokenmill.manifest import Manifest
from tokenmill.steps import training_step

if TYPE_CHECKING:
    from tokenmill.store import ArtifactStore
    from tokenmill.training.run import TrainingRun
    from tokenmill.training.worker import WorkerContext

KINDS = {"tokens": "tokens", "base": "weights", "decontamination": "decontamination", "rehearsal": "tokens"}


def check(
    config: EnhanceConfig,
    tokens: Manifest,
    base: Manifest,
    decontamination: Manifest,
    rehearsal: Manifest | None,
    store: ArtifactStore,
) -> None:
    """No token is learned anew that the decontamination report does not speak of; what is rehearsed was read before."""
    if config.rehearsal_share and not rehearsal:
        raise InputError(
            "enhancement.enhance has nothing to rehearse: give `rehearsal`, the tokens of pretraining, or set "
            "enhancement.enhance.rehearsal_share=0"
        )
    reports.require(config.decontamination, tokens, decontamination, store)


@training_step("enhancement.enhance", version=1, kinds=KINDS, check=check)
def enhance(
    config: EnhanceConfig,
    tokens: Manifest,
    base: Manifest,
    decontamination: Manifest,
    rehearsal: Manifest | None,
    ctx: WorkerContext,
) -> TrainingRun:
    """Continue Base on the domain set, which `check` has found decontaminated."""
    from tokenmill.model.folder import load_model
    from tokenmill.model.lora import trainable
    from tokenmill.training.stage import stage_run

    model = load_model(ctx.files(base))
    export = trainable(model, config.lora, config.seed)
    return stage_run(
        config,
        tokens,
        model,
        ctx,
        tokens_before=base.counts["tokens_seen"],
        rehearsal=rehearsal,
        rehearsal_share=config.rehearsal_share,
        export=export,
    )
