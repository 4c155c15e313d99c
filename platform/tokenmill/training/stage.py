"""A stage of language-model training: its samples and mixture, held-out loss, ledger and export."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy
import torch

from tokenmill.errors import InputError
from tokenmill.manifest import Manifest
from tokenmill.model.layouts import save_model
from tokenmill.training.data import PackedBatches, Sample, next_token_loss, summed_loss
from tokenmill.training.run import TrainingRun
from tokenmill.training.settings import StageConfig
from tokenmill.training.tokens import Document, read_documents
from tokenmill.training.worker import WorkerContext


def stage_run(
    config: StageConfig,
    tokens: Manifest,
    model: torch.nn.Module,
    ctx: WorkerContext,
    *,
    tokens_before: int,
    long: Manifest | None = None,
) -> TrainingRun:
    """Train `model` on `config.tokens` tokens of the shards, measuring held-out loss along the way.

    `long`: shards of the documents that count as long in phase 2.
    """
    documents = list(read_documents(ctx.files(tokens)))
    heldout = _heldout(documents, config)
    samples = mixture(documents, config, list(read_documents(ctx.files(long))) if long else None)
    packs = max(1, config.batch_tokens // config.context)
    batches = PackedBatches(
        samples,
        config.context,
        packs,
        config.seed,
        steps=max(1, config.tokens // config.batch_tokens),
        micro_batch_tokens=config.execution.micro_batch_tokens,
    )
    marks = numpy.linspace(0, len(batches), config.evaluations).round().astype(int)

    def evaluate(bare: torch.nn.Module) -> dict[str, float]:
        sums = {domain: summed_loss(bare, rows) for domain, rows in heldout.items()}
        losses = {f"heldout/{domain}": total / max(trained, 1) for domain, (total, trained) in sums.items()}
        totals, trained = zip(*sums.values(), strict=True)
        return losses | {"heldout/loss": sum(totals) / max(sum(trained), 1)}

    return TrainingRun(
        model=model,
        batches=batches,
        loss=next_token_loss,
        optim=config.optim,
        export=save_model,
        evaluate=evaluate,
        evaluate_at=frozenset(marks.tolist()),
        facts={"ledger": ledger(batches)},
        tokens_before=tokens_before,
    )


def mixture(
    documents: Sequence[Document], config: StageConfig, chosen: Sequence[Document] | None = None
) -> list[Sample]:
    """The stage's samples, in an order that the seed fixes, repeated until the budget is met.

    Phase 1 draws documents as they come. Phase 2 takes half of its tokens from documents of at most `short_context` tokens
    and half from longer ones: the `chosen`, or without a choice all (the report says "50% of the data"; by tokens is our
    reading). What `documents` holds out is learned from neither.
    """
    kept_back = {d.id for d in documents if d.heldout}
    documents = [d for d in documents if d.id not in kept_back]
    if not documents:
        raise InputError("no training documents: the corpus is empty or held out whole")
    if not config.short_context:
        return _draw(documents, config.tokens, config)
    short = [d for d in documents if len(d.tokens) <= config.short_context]
    candidates = documents if chosen is None else [d for d in chosen if d.id not in kept_back]
    long = [d for d in candidates if len(d.tokens) > config.short_context]
    if not short or not long:
        raise InputError(
            f"phase 2 mixes documents below and above {config.short_context} tokens, but there are {len(short)} and "
            f"{len(long)}; change pretraining.train_long.short_context, curation.select_long or the corpus"
        )
    half = config.tokens // 2
    return _draw(short, half, config) + _draw(long, half, config)


def _draw(documents: Sequence[Document], tokens: int, config: StageConfig) -> list[Sample]:
    """`tokens` tokens of documents, every domain's share as large as in `documents`: a part of an epoch has its mixture.

    What is longer than the context is split into pieces of it, which are drawn one by one: a novel is many samples. A
    document of several epochs is there as many times.
    """
    pieces: dict[str, list[Sample]] = {}
    for document in documents:
        domain = f"{document.type}/{document.lang}"
        pieces.setdefault(domain, []).extend(
            Sample(document.tokens[start : start + config.context], source=domain)
            for _ in range(document.epochs)
            for start in range(0, len(document.tokens), config.context)
        )
    sizes = {domain: sum(map(len, samples)) for domain, samples in sorted(pieces.items())}
    shares = {domain: round(tokens * size / sum(sizes.values())) for domain, size in sizes.items()}
    return [
        sample for domain, share in shares.items() for sample in _upto_in_epochs(pieces[domain], share, config.seed)
    ]


def _upto_in_epochs(samples: Sequence[Sample], tokens: int, seed: int) -> Iterator[Sample]:
    """Samples in seeded order, epoch after epoch, until `tokens` are drawn; the last one is cut to the budget."""
    for epoch in itertools.count():
        for i in numpy.random.default_rng([seed, epoch]).permutation(len(samples)):
            if tokens <= 1:
                return
            yield Sample(samples[i].ids[:tokens], source=samples[i].source)
            tokens -= len(samples[i])


def ledger(batches: PackedBatches) -> dict[str, dict[str, int]]:
    """Planned and seen tokens a source. They differ by the packs that the last whole step leaves out."""
    planned, seen = Counter[str](), Counter[str]()
    for sample in batches.samples:
        planned[sample.source] += len(sample)
    for step in range(len(batches)):
        for piece in batches.pieces(step):
            seen[batches.samples[piece.document].source] += piece.length
    return {source: {"planned": planned[source], "seen": seen[source]} for source in sorted(planned)}


def _heldout(documents: Sequence[Document], config: StageConfig) -> dict[str, list[Sample]]:
    """Held-out samples a domain, cut to the context, an equal share of the budget each."""
    by_domain: dict[str, list[Any]] = {}
    for document in documents:
        if document.heldout and len(document.tokens) > 1:
            by_domain.setdefault(f"{document.type}-{document.lang}", []).append(document.tokens[: config.context])
    if not by_domain:
        raise InputError("no held-out documents: raise pretraining.tokenize.heldout_share")
    share = config.heldout_tokens // len(by_domain)
    return {domain: _upto(rows, share) for domain, rows in sorted(by_domain.items())}


def _upto(rows: list[Any], tokens: int) -> list[Sample]:
    taken: list[Sample] = []
    for row in rows:
        if taken and sum(map(len, taken)) + len(row) > tokens:
            break
        taken.append(Sample(row))
    return taken
