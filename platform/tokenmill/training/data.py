"""Batches of packed samples: the global order is a function of the seed alone.

Samples are packed best-fit-decreasing, packs are shuffled by the seed, and step `s` takes packs `[s·P, (s+1)·P)`. A rank takes
every `world`-th of them, so any number of ranks, or a restart, sees the same global order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch

from tokenmill.model.losses import IGNORE
from tokenmill.training.packing import IntArray, Pack, Piece, best_fit_decreasing, in_groups
from tokenmill.training.run import LossOutput, StepBatch


@dataclass(frozen=True)
class Sample:
    """Token ids; `labels` stand at their own tokens' places, IGNORE where nothing is learned. None = every token."""

    ids: IntArray
    labels: IntArray | None = None
    source: str = ""
    """What the ledger counts it under."""

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, piece: Piece) -> tuple[IntArray, IntArray]:
        """Ids and labels of one piece, as int64: shards hold narrower, unsigned integers."""
        span = slice(piece.start, piece.end)
        ids = numpy.asarray(self.ids[span], dtype=numpy.int64)
        return ids, ids if self.labels is None else numpy.asarray(self.labels[span], dtype=numpy.int64)

    def trained(self, piece: Piece) -> int:
        """Tokens of a piece that are predicted: never its first."""
        if self.labels is None:
            return piece.length - 1
        labels = numpy.asarray(self.labels[piece.start + 1 : piece.end])
        return int((labels != IGNORE).sum())


class PackedBatches:
    """The `Batches` of a list of samples.

    Args:
        samples: in any fixed order.
        context: capacity of a pack, in tokens; only longer samples are split, and nothing is lost.
        packs_per_step: packs an optimizer step, over all ranks.
        seed: of the order.
        steps: stop after so many; None = once through all samples.
        micro_batch_tokens: what a rank computes on at once, at least a pack; the gradient is the same whatever it is.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        context: int,
        packs_per_step: int,
        seed: int,
        steps: int | None = None,
        *,
        micro_batch_tokens: int,
    ) -> None:
        self.samples, self.context, self.packs_per_step = samples, context, packs_per_step
        self.packs_at_once = max(1, micro_batch_tokens // context)
        packs = best_fit_decreasing([len(sample) for sample in samples], context)
        self.packs = [packs[i] for i in numpy.random.default_rng(seed).permutation(len(packs))]
        once = -(-len(self.packs) // packs_per_step)
        self.steps = once if steps is None else min(once, steps)

    def __len__(self) -> int:
        return self.steps

    def accumulation(self, world: int) -> int:
        return -(-self.packs_per_step // (world * self.packs_at_once))

    def resumable(self, step: int) -> bool:
        return True

    def pieces(self, step: int) -> list[Piece]:
        """What all ranks together see in a step."""
        return [piece for pack in self._packs(step) for piece in pack]

    def at(self, step: int, rank: int, world: int) -> StepBatch:
        mine = self._packs(step)[rank::world]
        at_once = [mine[i * self.packs_at_once :][: self.packs_at_once] for i in range(self.accumulation(world))]
        everything = self.pieces(step)
        trained = sum(self.samples[piece.document].trained(piece) for piece in everything)
        return StepBatch(
            [self.pack([piece for pack in packs for piece in pack]) for packs in at_once],
            float(max(trained, 1)),
            sum(piece.length for piece in everything),
        )

    def pack(self, pieces: Sequence[Piece]) -> Pack:
        """Lay pieces end to end. A rank without any computes on one token that adds nothing to the loss."""
        if not pieces:
            return Pack.of([[0]], [[IGNORE]])
        parts = [self.samples[piece.document].part(piece) for piece in pieces]
        return Pack.of([ids for ids, _ in parts], [labels for _, labels in parts])

    def _packs(self, step: int) -> list[list[Piece]]:
        return self.packs[step * self.packs_per_step : (step + 1) * self.packs_per_step]


def next_token_loss(model: torch.nn.Module, pack: Pack) -> LossOutput:
    """Cross-entropy summed over the trained tokens of a pack."""
    device = next(model.parameters()).device
    losses = model(
        pack.input_ids.to(device), pack.cu_seqlens.to(device), pack.positions.to(device), labels=pack.labels.to(device)
    )
    return LossOutput(losses.sum())


@torch.no_grad()
def summed_loss(model: torch.nn.Module, samples: Sequence[Sample], tokens_at_once: int = 8192) -> tuple[float, int]:
    """Cross-entropy summed over the trained tokens, in nats, and how many those are."""
    total, trained = 0.0, 0
    for group in in_groups(samples, tokens_at_once, len):
        parts = [sample.part(Piece(0, 0, len(sample))) for sample in group]
        pack = Pack.of([ids for ids, _ in parts], [labels for _, labels in parts])
        total += float(next_token_loss(model, pack).loss)
        trained += int((pack.labels != IGNORE).sum())
    return total, trained


def mean_loss(model: torch.nn.Module, samples: Sequence[Sample]) -> float:
    """Mean cross-entropy a trained token, in nats."""
    total, trained = summed_loss(model, samples)
    return total / max(trained, 1)
