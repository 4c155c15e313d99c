"""Fine-tuning on conversations (report §4.1)."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from tokenmill.errors import InputError
from tokenmill.manifest import Manifest
from tokenmill.sft.config import SFTTrainConfig
from tokenmill.steps import training_step

if TYPE_CHECKING:
    import torch

    from tokenmill.training.run import TrainingRun
    from tokenmill.training.worker import WorkerContext

HELDOUT = "heldout/loss"
KINDS = {
    "conversations": "conversations",
    "base": "weights",
    "tokenizer": "tokenizer",
    "tokens": "tokens",
    "heldout": "conversations",
    "repositories": "conversations",
}


@training_step("sft.train", version=6, kinds=KINDS)
def build(
    config: SFTTrainConfig,
    conversations: Manifest,
    base: Manifest,
    tokenizer: Manifest,
    tokens: Manifest | None,
    heldout: Manifest | None,
    repositories: Manifest | None,
    ctx: WorkerContext,
) -> TrainingRun:
    """One epoch of packed ChatML conversations, with pieces of `tokens` among them that keep alive what Base has read.

    `repositories` are long conversations (`sft.repositories`), among the others.

    The loss is a mean over the trained tokens of the global batch: the assistant's, and all of a piece.
    """
    from tokenmill.model.folder import load_model
    from tokenmill.model.lora import trainable
    from tokenmill.model.tokenizer import Tokenizer
    from tokenmill.sft.samples import chat_samples, pretraining_samples
    from tokenmill.training.data import PackedBatches, Samples, mean_loss, next_token_loss
    from tokenmill.training.prefetch import Prefetched
    from tokenmill.training.run import Best, TrainingRun, evenly
    from tokenmill.training.tokens import read_documents

    if config.pretraining_share and not tokens:
        raise InputError(
            "no token shards to keep alive what Base knows: give `tokens`, or set sft.train.pretraining_share=0"
        )
    words = Tokenizer.load(ctx.files(tokenizer))
    given = chain.from_iterable(ctx.records(one) for one in (conversations, repositories) if one)
    samples, left_out = chat_samples(given, words, config.context)
    if left_out and ctx.log:
        ctx.log.warning(f"{left_out} conversations are not learned: no answer begins within {config.context} tokens")
    if tokens:
        samples += pretraining_samples(read_documents(ctx.store, tokens), samples, config)
    batches = PackedBatches(
        Samples.of(samples),
        config.context,
        config.packs_per_step,
        config.seed,
        micro_batch_tokens=config.execution.micro_batch_tokens,
    )
    kept_back = (
        chat_samples(ctx.records(heldout), words, config.context)[0] if heldout and heldout.counts["records"] else []
    )

    if config.evaluations and not kept_back:
        raise InputError(
            "no held-out conversations to choose weights by: give `heldout`, or set sft.train.evaluations=0"
        )

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        return {HELDOUT: mean_loss(model, kept_back)}

    model = load_model(ctx.files(base))
    export = trainable(model, config.lora, config.seed)
    return TrainingRun(
        model=model,
        batches=Prefetched(batches),
        loss=next_token_loss,
        optim=config.optim,
        export=export,
        evaluate=evaluate if kept_back else None,
        evaluate_at=evenly(config.evaluations or 2, 0, len(batches)),
        best_by=Best(HELDOUT, smallest=True) if config.evaluations else None,
        facts={"unlearned": left_out} if left_out else {},
        tokens_before=base.counts.get("tokens_seen", 0),
    )
