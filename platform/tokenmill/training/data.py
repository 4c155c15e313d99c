"""Batches of packed samples: the global order is a function of the seed alone.

Samples are packed best-fit-decreasing, packs are shuffled by the seed, and a step takes the next ones. A rank takes every
`world`-th of them, so any number of ranks, or a restart, sees the same global order. All of it is columns of integers over
memory-mapped tokens: a rank reads what it computes on, and nothing else.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

import numpy
import torch
from torch.nn.functional import one_hot

from tokenmill.model.losses import IGNORE
from tokenmill.training.cursor import Plan
from tokenmill.training.packing import IntArray, Pack, in_groups, pack_columns
from tokenmill.training.run import LossOutput, StepBatch
from tokenmill.training.tokens import IntArray as Column


@dataclass(frozen=True)
class Sample:
    """Token ids; `labels` stand at their own tokens' places, IGNORE where nothing is learned. None = every token."""

    ids: IntArray
    labels: IntArray | None = None
    source: str = ""
    """What the ledger counts it under."""

    def __len__(self) -> int:
        return len(self.ids)


class Shards(Protocol):
    """Token ids by the number of their shard."""

    def __getitem__(self, number: int, /) -> Column: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class _Chain:
    first: Shards
    second: Shards

    def __getitem__(self, number: int) -> Column:
        return self.first[number] if number < len(self.first) else self.second[number - len(self.first)]

    def __len__(self) -> int:
        return len(self.first) + len(self.second)


@dataclass(frozen=True)
class Samples(Sequence[Sample]):
    """Samples as columns over token shards. A sample's number is its global id, the same in every rank and restart."""

    shards: Shards
    shard: Column
    offset: Column
    length: Column
    sources: tuple[str, ...]
    source: Column
    """Which of `sources`."""
    labels: Sequence[Column] | None = None
    """Beside every shard, where not every token is learned."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "Samples":
        """Samples that are in memory."""
        sources = sorted({sample.source for sample in samples})
        length = numpy.array([len(sample) for sample in samples], dtype=numpy.int64)
        ids = [numpy.asarray(sample.ids, dtype=numpy.int32) for sample in samples]
        labels = [
            own if sample.labels is None else numpy.asarray(sample.labels, dtype=numpy.int32)
            for own, sample in zip(ids, samples, strict=True)
        ]
        return cls(
            shards=[numpy.concatenate([numpy.zeros(0, numpy.int32), *ids])],
            shard=numpy.zeros(len(samples), dtype=numpy.int32),
            offset=numpy.cumsum(length) - length,
            length=length,
            sources=tuple(sources),
            source=numpy.array([sources.index(sample.source) for sample in samples], dtype=numpy.int16),
            labels=[numpy.concatenate([numpy.zeros(0, numpy.int32), *labels])],
        )

    def followed_by(self, others: "Samples") -> "Samples":
        """These, then others of other shards; no labels."""
        sources = sorted({*self.sources, *others.sources})
        mine, theirs = (numpy.array([sources.index(s) for s in one.sources], numpy.int16) for one in (self, others))
        return Samples(
            shards=_Chain(self.shards, others.shards),
            shard=numpy.concatenate([self.shard, others.shard + len(self.shards)]),
            offset=numpy.concatenate([self.offset, others.offset]),
            length=numpy.concatenate([self.length, others.length]),
            sources=tuple(sources),
            source=numpy.concatenate([mine[self.source], theirs[others.source]]),
        )

    def __len__(self) -> int:
        return len(self.length)

    @overload
    def __getitem__(self, number: int) -> Sample: ...
    @overload
    def __getitem__(self, number: slice) -> list[Sample]: ...
    def __getitem__(self, number: int | slice) -> Sample | list[Sample]:
        if isinstance(number, slice):
            return [self[i] for i in range(len(self))[number]]
        ids, labels = self.part(range(len(self))[number], 0, int(self.length[number]))
        return Sample(ids, None if self.labels is None else labels, self.sources[self.source[number]])

    def part(self, number: int, start: int, length: int) -> tuple[Column, Column]:
        """Ids and labels of a piece, as int64: shards hold narrower, unsigned integers."""
        shard, first = int(self.shard[number]), int(self.offset[number]) + start
        ids = numpy.asarray(self.shards[shard][first : first + length], dtype=numpy.int64)
        if self.labels is None:
            return ids, ids
        return ids, numpy.asarray(self.labels[shard][first : first + length], dtype=numpy.int64)

    def trained(self, number: int, start: int, length: int) -> int:
        """Tokens of a piece that are predicted: never its first."""
        if self.labels is None:
            return length - 1
        return int((self.part(number, start, length)[1][1:] != IGNORE).sum())

    def by_source(self, numbers: Column | slice, lengths: Column) -> dict[str, int]:
        """Tokens a source of some samples, of which `lengths` are taken."""
        sums = numpy.bincount(self.source[numbers], weights=lengths, minlength=len(self.sources))
        return {source: int(tokens) for source, tokens in zip(self.sources, sums, strict=True)}


class PackedBatches:
    """The `Batches` of samples.

    Args:
        samples: in any fixed order.
        context: capacity of a pack, in tokens; only longer samples are split, and nothing is lost.
        packs_per_step: packs an optimizer step, over all ranks; a function of the step where batches grow.
        seed: of the order.
        steps: stop after so many; None = once through all samples.
        micro_batch_tokens: what a rank computes on at once, at least a pack; the gradient is the same whatever it is.
    """

    def __init__(
        self,
        samples: Samples,
        context: int,
        packs_per_step: int | Callable[[int], int],
        seed: int,
        steps: int | None = None,
        *,
        micro_batch_tokens: int,
    ) -> None:
        self.samples = samples
        self.packs_at_once = max(1, micro_batch_tokens // context)
        self.packing = pack_columns(samples.length, context)
        self.order = numpy.random.default_rng(seed).permutation(len(self.packing))
        bounds = [0]
        while bounds[-1] < len(self.order) and (steps is None or len(bounds) <= steps):
            step = len(bounds) - 1
            size = packs_per_step if isinstance(packs_per_step, int) else packs_per_step(step)
            bounds.append(min(bounds[-1] + size, len(self.order)))
        self.bounds = numpy.array(bounds)
        """Step `s` has the packs from `bounds[s]` up to `bounds[s + 1]` of the order."""
        pieces = numpy.diff(self.packing.bounds)[self.order]
        self.first_samples = numpy.concatenate(([0], numpy.cumsum(pieces)))[self.bounds]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def accumulation(self, world: int) -> int:
        return -(-int(numpy.diff(self.bounds).max(initial=1)) // (world * self.packs_at_once))

    def resumable(self, step: int) -> bool:
        return True

    def first_sample(self, step: int) -> int:
        return int(self.first_samples[min(step, len(self))])

    def at(self, step: int, rank: int, world: int) -> StepBatch:
        mine = self._packs(step)[rank::world]
        at_once = [mine[i * self.packs_at_once :][: self.packs_at_once] for i in range(self.accumulation(world))]
        rows = self.packing.rows(self._packs(step))
        lengths = self.packing.length[rows]
        tokens = int(lengths.sum())
        trained = lengths - 1
        if self.samples.labels is not None:
            trained = numpy.array([self.samples.trained(*self._piece(row)) for row in rows], dtype=numpy.int64)
        return StepBatch(
            micro_batches=[self.pack(self.packing.rows(packs)) for packs in at_once],
            weight=float(max(trained.sum(), 1)),
            tokens=tokens,
            sources=self._by_source(rows),
            weights={loss_of(source): float(n) for source, n in self._sums(rows, trained).items()},
            attended=float((lengths**2).sum() / max(tokens, 1)),
        )

    def plan(self) -> Plan:
        """What the samples hold of each source, and what of that the steps do not reach."""
        return Plan(
            planned={source: n for source, n in self.samples.by_source(slice(None), self.samples.length).items() if n},
            remainder=self._by_source(self.packing.rows(self.order[self.bounds[-1] :])),
            of_step=lambda step: self._by_source(self.packing.rows(self._packs(step))),
        )

    def _packs(self, step: int) -> Column:
        return self.order[self.bounds[step] : self.bounds[step + 1]]

    def _by_source(self, rows: Column) -> dict[str, int]:
        return {source: tokens for source, tokens in self._sums(rows, self.packing.length[rows]).items() if tokens}

    def _sums(self, rows: Column, of: Column) -> dict[str, int]:
        return self.samples.by_source(self.packing.document[rows], of)

    def pack(self, rows: Iterable[int]) -> Pack:
        """Lay pieces end to end. Without any it is one token, which adds nothing to the loss."""
        rows = list(rows)
        parts = [self.samples.part(*self._piece(row)) for row in rows]
        names = self.samples.sources
        if not parts:
            return Pack.of([[0]], [[IGNORE]], [0], names)
        sources = self.samples.source[self.packing.document[rows]]
        return Pack.of([ids for ids, _ in parts], [labels for _, labels in parts], sources, names)

    def _piece(self, row: int) -> tuple[int, int, int]:
        return int(self.packing.document[row]), int(self.packing.start[row]), int(self.packing.length[row])


def next_token_loss(model: torch.nn.Module, pack: Pack) -> LossOutput:
    """Cross-entropy summed over the trained tokens of a pack, and over those of each source where there are several."""
    device = next(model.parameters()).device
    ends = pack.cu_seqlens.to(device)
    losses = model(pack.input_ids.to(device), ends, pack.positions.to(device), labels=pack.labels.to(device))
    if pack.sources is None or len(pack.names) < 2:
        return LossOutput(losses.sum())
    source = pack.sources.to(device).repeat_interleave(ends.diff(), output_size=len(losses))
    sums = losses.detach().double() @ one_hot(source, len(pack.names)).double()
    return LossOutput(losses.sum(), {loss_of(name): total for name, total in zip(pack.names, sums, strict=True)})


def loss_of(source: str) -> str:
    """The metric of a source's mean loss."""
    return f"loss/{source}"


@torch.no_grad()
def summed_loss(model: torch.nn.Module, samples: Sequence[Sample], tokens_at_once: int = 8192) -> tuple[float, int]:
    """Cross-entropy summed over the trained tokens, in nats, and how many those are."""
    total, trained = 0.0, 0
    for group in in_groups(samples, tokens_at_once, len):
        pack = _packed(group)
        total += float(next_token_loss(model, pack).loss)
        trained += int((pack.labels != IGNORE).sum())
    return total, trained


def _packed(samples: Sequence[Sample]) -> Pack:
    ids = [numpy.asarray(sample.ids, dtype=numpy.int64) for sample in samples]
    labels = [own if sample.labels is None else sample.labels for own, sample in zip(ids, samples, strict=True)]
    return Pack.of(ids, labels)


def mean_loss(model: torch.nn.Module, samples: Sequence[Sample]) -> float:
    """Mean cross-entropy a trained token, in nats."""
    total, trained = summed_loss(model, samples)
    return total / max(trained, 1)
