"""Direct preference optimisation (Rafailov et al. 2023): the same pairs and loop, no reward model and no sampling.

Not in the report, whose method is PPO; here because it is what a team tries first, and what PPO is to be compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenmill.errors import InputError
from tokenmill.manifest import Manifest
from tokenmill.rlhf.config import DPOConfig
from tokenmill.steps import training_step

if TYPE_CHECKING:
    from tokenmill.training.run import TrainingRun
    from tokenmill.training.worker import WorkerContext

KINDS = {"preferences": "preferences", "patches": "preferences", "sft": "weights", "tokenizer": "tokenizer"}


@training_step("rlhf.dpo", version=2, kinds=KINDS)
def build(
    config: DPOConfig,
    preferences: Manifest,
    patches: list[Manifest] | None,
    sft: Manifest,
    tokenizer: Manifest,
    ctx: WorkerContext,
) -> TrainingRun:
    """One epoch from SFT, whose log-probabilities are computed once, before anything is learned.

    The policy reads no conditional prompt, so domains that contradict each other leave nothing to learn: name one.
    """
    from tokenmill.model.folder import load_model, save_model
    from tokenmill.model.tokenizer import Tokenizer
    from tokenmill.rlhf.direct import DPOBatches, answered_pairs, dpo_loss
    from tokenmill.rlhf.pairs import sound_pairs
    from tokenmill.training.engine import DTYPES
    from tokenmill.training.run import TrainingRun

    words = Tokenizer.load(ctx.files(tokenizer))
    given = [record for manifest in (preferences, *(patches or ())) for record in ctx.records(manifest)]
    records, _, aside = sound_pairs(given, words, config.max_length)
    aside.require_few(len(given), config.max_set_aside, "rlhf.dpo.max_set_aside", ctx.log)
    records = [record for record in records if config.domain in (None, record["domain"])]
    if config.domain and not records:
        raise InputError(f"rlhf.dpo: no pairs of domain {config.domain!r}: set rlhf.dpo.domain to one that there is")
    policy = load_model(ctx.files(sft), dtype=DTYPES[config.precision])
    batches = DPOBatches(
        answered_pairs(policy, records, words),
        config.batch_tokens,
        config.seed,
        micro_batch_tokens=config.execution.micro_batch_tokens,
    )
    return TrainingRun(
        model=policy,
        batches=batches,
        loss=dpo_loss(config.beta),
        optim=config.optim,
        export=save_model,
        facts=aside.facts(),
        tokens_before=sft.counts.get("tokens_seen", 0),
    )
