"""Batches of preference pairs: whole pairs, a fixed token budget, a mean over the pairs of the global batch."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from tokenmill.errors import InputError
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.records import Record
from tokenmill.rlhf.conditional import Query, answer_ids, reward_input
from tokenmill.rlhf.config import RewardModelConfig
from tokenmill.rlhf.reward import pair_loss
from tokenmill.training.packing import Pack
from tokenmill.training.run import LossOutput, StepBatch

Pair = tuple[list[int], list[int]]
"""What the reward model reads of the chosen and of the rejected answer."""


def encode_pairs(
    records: Sequence[Record], tokenizer: Tokenizer, max_length: int, *, conditional: bool = True
) -> list[Pair]:
    """Both sides of every preference, as token ids."""
    pairs = []
    for record in records:
        query = Query.of(record)
        chosen, rejected = (
            reward_input(query, said, tokenizer, max_length=max_length, conditional=conditional)
            for said in (answer_ids(record[side], tokenizer) for side in ("chosen", "rejected"))
        )
        pairs.append((chosen, rejected))
    return pairs


def with_shuffled_labels(records: Sequence[Record], seed: int) -> list[Record]:
    """Half of the pairs swapped, in every domain and kind alike, so that nothing is left to learn."""
    kinds: defaultdict[tuple[str, str, bool], list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        kinds[record["domain"], record["template"], record["conflict"]].append(index)
    shuffled, draw = list(records), numpy.random.default_rng(seed)
    for members in kinds.values():
        for index in draw.permutation(members)[: (len(members) + draw.integers(2)) // 2]:
            record = records[index]
            shuffled[index] = record | {"chosen": record["rejected"], "rejected": record["chosen"]}
    return shuffled


@dataclass(frozen=True)
class PairPack:
    """Some pairs in one stream: chosen, rejected, chosen, rejected, …"""

    pack: Pack
    pairs: int


class PairBatches:
    """The `Batches` of preference pairs: shuffled by the seed, cut where the next pair would exceed the budget."""

    def __init__(self, pairs: Sequence[Pair], batch_tokens: int, seed: int) -> None:
        if not pairs:
            raise InputError("no preference pairs to train on")
        self.pairs = pairs
        self.bins: list[list[int]] = []
        room = 0
        for index in numpy.random.default_rng(seed).permutation(len(pairs)).tolist():
            if self._tokens(index) > room:
                self.bins.append([])
                room = batch_tokens
            self.bins[-1].append(index)
            room -= self._tokens(index)

    def __len__(self) -> int:
        return len(self.bins)

    def accumulation(self, world: int) -> int:
        return 1

    def resumable(self, step: int) -> bool:
        return True

    def at(self, step: int, rank: int, world: int) -> StepBatch:
        everything = self.bins[step]
        mine = [self.pairs[index] for index in everything[rank::world]]
        rows = [side for pair in mine for side in pair] or [
            [0]
        ]  # a rank without a pair computes one token, for nothing
        tokens = sum(map(self._tokens, everything))
        return StepBatch([PairPack(Pack.of(rows), len(mine))], float(len(everything)), tokens)

    def _tokens(self, index: int) -> int:
        chosen, rejected = self.pairs[index]
        return len(chosen) + len(rejected)


def reward_loss(config: RewardModelConfig) -> Callable[[torch.nn.Module, PairPack], LossOutput]:
    """The loss of some pairs, summed, with how many are in the right order and by how much."""

    def loss(model: torch.nn.Module, batch: PairPack) -> LossOutput:
        device = next(model.parameters()).device
        ids, ends = batch.pack.input_ids.to(device), batch.pack.cu_seqlens.to(device)
        scores: Tensor = model(ids, ends, at=ends[1:] - 1)
        if not batch.pairs:
            zeros = dict.fromkeys(("accuracy", "margin"), 0.0)
            return LossOutput(0 * scores.sum(), zeros)
        chosen, rejected = scores.view(-1, 2).unbind(1)
        each = pair_loss(
            chosen,
            rejected,
            gamma=config.gamma,
            penalty=config.penalty,
            bound=config.bound,
            reduction=config.penalty_reduction,
        )
        margin = (chosen - rejected).detach()
        return LossOutput(each.sum(), {"accuracy": float((margin > 0).sum()), "margin": float(margin.sum())})

    return loss
