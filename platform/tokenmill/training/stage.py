"""A stage of language-model training: its samples and mixture, held-out loss, ledger and export."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch

from tokenmill.errors import InputError
from tokenmill.manifest import Manifest
from tokenmill.model.folder import save_model
from tokenmill.training.data import PackedBatches, Sample, Samples, next_token_loss, summed_loss
from tokenmill.training.prefetch import Prefetched
from tokenmill.training.run import TrainingRun
from tokenmill.training.schedule import BatchRamp, batch_tokens, steps_of
from tokenmill.training.settings import StageConfig
from tokenmill.training.tokens import Documents, read_documents
from tokenmill.training.tokens import IntArray as Column
from tokenmill.training.worker import WorkerContext


def stage_run(
    config: StageConfig,
    tokens: Manifest,
    model: torch.nn.Module,
    ctx: WorkerContext,
    *,
    tokens_before: int,
    long: Manifest | None = None,
    rehearsal: Manifest | None = None,
    rehearsal_share: float = 0.0,
    export: Callable[[Any, Path], None] = save_model,
) -> TrainingRun:
    """Train `model` on `config.tokens` tokens of the shards, measuring held-out loss along the way.

    Args:
        long: shards of the documents that count as long in phase 2.
        rehearsal: shards that `rehearsal_share` of the tokens are drawn from: what the model has read before.
        export: what writes the weights folder in the end.
    """
    documents = read_documents(ctx.store, tokens)
    heldout = _heldout(documents, config)
    chosen = read_documents(ctx.store, long) if long else None
    before = read_documents(ctx.store, rehearsal) if rehearsal and rehearsal_share else None
    samples = mixture(documents, config, chosen, before, rehearsal_share)
    ramp = BatchRamp(config.batch_tokens, config.ramp_tokens, config.ramp_steps)
    batches = PackedBatches(
        samples,
        config.context,
        lambda step: max(1, batch_tokens(ramp, step) // config.context),
        config.seed,
        steps=steps_of(ramp, config.tokens),
        micro_batch_tokens=config.execution.micro_batch_tokens,
    )
    marks = numpy.linspace(0, len(batches), config.evaluations).round().astype(int)
    kept = numpy.linspace(0, len(batches), config.kept + 1).round().astype(int)[1:]

    def evaluate(bare: torch.nn.Module) -> dict[str, float]:
        sums = {domain: summed_loss(bare, rows) for domain, rows in heldout.items()}
        losses = {f"heldout/{domain}": total / max(trained, 1) for domain, (total, trained) in sums.items()}
        totals, trained = zip(*sums.values(), strict=True)
        return losses | {"heldout/loss": sum(totals) / max(sum(trained), 1)}

    return TrainingRun(
        model=model,
        batches=Prefetched(batches),
        loss=next_token_loss,
        optim=config.optim,
        export=export,
        evaluate=evaluate,
        evaluate_at=frozenset(marks.tolist()),
        kept_at=frozenset(kept.tolist()) if config.kept else None,
        plan=batches.plan(),
        tokens_before=tokens_before,
    )


def mixture(
    documents: Documents,
    config: StageConfig,
    chosen: Documents | None = None,
    rehearsed: Documents | None = None,
    rehearsal_share: float = 0.0,
) -> Samples:
    """The stage's samples, in an order that the seed fixes, repeated until the budget is met.

    Phase 1 draws documents as they come. Phase 2 takes half of its tokens from documents of at most `short_context` tokens
    and half from longer ones: the `chosen`, or without a choice all (the report says "50% of the data"; by tokens is our
    reading). What `documents` holds out is learned from neither. Of the budget, `rehearsal_share` is drawn from `rehearsed`:
    what a model read before it is continued on something else, so that it is forgotten less (Ibrahim et al. 2024). In the
    ledger those are sources of their own, `rehearsal/book/en`.
    """
    if rehearsed is not None and (old := round(config.tokens * rehearsal_share)):
        rest = config.model_copy(update={"tokens": config.tokens - old})
        kept = rehearsed.where(~rehearsed.heldout & ~numpy.isin(rehearsed.identity, documents.identity))
        if not len(kept):
            raise InputError(
                "nothing to rehearse: all of those documents are held out, or are in the stage's own tokens"
            )
        drawn = _draw(kept, old, config)
        drawn = replace(drawn, sources=tuple(f"rehearsal/{source}" for source in drawn.sources))
        return mixture(documents, rest, chosen).followed_by(drawn)
    kept_back = documents.identity[documents.heldout]
    documents = documents.where(~numpy.isin(documents.identity, kept_back))
    if not len(documents):
        raise InputError("no training documents: the corpus is empty or held out whole")
    if not config.short_context:
        return _draw(documents, config.tokens, config)
    short = documents.where(documents.length <= config.short_context)
    candidates = documents if chosen is None else chosen.where(~numpy.isin(chosen.identity, kept_back))
    long = candidates.where(candidates.length > config.short_context)
    if not len(short) or not len(long):
        raise InputError(
            f"phase 2 mixes documents below and above {config.short_context} tokens, but there are {len(short)} and "
            f"{len(long)}; change pretraining.pretrain.long.short_context, curation.select_long or the corpus"
        )
    half = config.tokens // 2
    return _draw(short, half, config).followed_by(_draw(long, half, config))


def _draw(documents: Documents, tokens: int, config: StageConfig) -> Samples:
    """`tokens` tokens of documents, every domain's share as large as in `documents`: a part of an epoch has its mixture.

    What is longer than the context is split into pieces of it, which are drawn one by one: a novel is many samples. A
    document of several epochs is there as many times.
    """
    domains = {f"{kind}/{lang}": number for number, (kind, lang) in enumerate(documents.kinds)}
    sources = sorted(domains)
    pieces = [_pieces(documents, documents.kind == domains[source], config.context) for source in sources]
    whole = sum(int(length.sum()) for *_, length in pieces)
    drawn = []
    for number, (document, start, length) in enumerate(pieces):
        share = round(tokens * int(length.sum()) / whole)
        rows, taken = _upto_in_epochs(length, share, config.seed)
        drawn.append((document[rows], start[rows], taken, numpy.full(len(rows), number, dtype=numpy.int16)))
    document, start, length, source = (numpy.concatenate(columns) for columns in zip(*drawn, strict=True))
    return Samples(
        shards=documents.shards,
        shard=documents.shard[document],
        offset=documents.offset[document] + start,
        length=length,
        sources=tuple(sources),
        source=source,
    )


def _pieces(documents: Documents, chosen: Column, context: int) -> tuple[Column, Column, Column]:
    """Document, start and length of every piece of the chosen ones, in their order, epoch after epoch of each."""
    rows = numpy.flatnonzero(chosen)
    once = -(-documents.length[rows] // context)
    times = once * documents.epochs[rows]
    document, once = numpy.repeat(rows, times), numpy.repeat(once, times)
    start = (numpy.arange(len(document)) - numpy.repeat(numpy.cumsum(times) - times, times)) % once * context
    return document, start, numpy.minimum(documents.length[document] - start, context)


def _upto_in_epochs(lengths: Column, tokens: int, seed: int) -> tuple[Column, Column]:
    """Which pieces, in seeded order, epoch after epoch, until `tokens` are drawn, and their lengths: the last one's is cut."""
    rows, taken = [numpy.zeros(0, dtype=numpy.int64)], [numpy.zeros(0, dtype=numpy.int64)]
    for epoch in itertools.count():
        if tokens <= 1:
            break
        order = numpy.random.default_rng([seed, epoch]).permutation(len(lengths))
        left = tokens - (numpy.cumsum(lengths[order]) - lengths[order])  # before each
        order, left = order[left > 1], left[left > 1]
        rows.append(order)
        taken.append(numpy.minimum(lengths[order], left))
        tokens -= int(taken[-1].sum())
    return numpy.concatenate(rows), numpy.concatenate(taken)


def _heldout(documents: Documents, config: StageConfig) -> dict[str, list[Sample]]:
    """Held-out samples a domain, cut to the context, an equal share of the budget each."""
    measured = documents.heldout & (documents.length > 1)
    domains = {f"{kind}-{lang}": measured & (documents.kind == n) for n, (kind, lang) in enumerate(documents.kinds)}
    domains = {domain: chosen for domain, chosen in sorted(domains.items()) if chosen.any()}
    if not domains:
        raise InputError("no held-out documents: raise pretraining.tokenize.heldout_share")
    share = config.heldout_tokens // len(domains)
    return {domain: _upto(documents, chosen, share, config.context) for domain, chosen in domains.items()}


def _upto(documents: Documents, chosen: Column, tokens: int, context: int) -> list[Sample]:
    """The first of the chosen ones that fit into `tokens` together, at least one."""
    rows = numpy.flatnonzero(chosen)
    lengths = numpy.minimum(documents.length[rows], context)
    fitting = max(1, int((numpy.cumsum(lengths) <= tokens).sum()))
    return [Sample(documents.tokens(int(row))[:context]) for row in rows[:fitting]]
