"""Batches of preference pairs: whole pairs, a fixed token budget, a mean over the pairs of the global batch."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy
import torch
from torch import Tensor

from tokenmill.errors import InputError
from tokenmill.model.chat import answer_ids
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.records import Record
from tokenmill.rlhf.conditional import NO_PROMPT, Query, reward_input, unreadable
from tokenmill.rlhf.config import RewardModelConfig
from tokenmill.rlhf.reward import pair_loss
from tokenmill.rlhf.set_aside import SetAside
from tokenmill.training.packing import Pack, in_groups
from tokenmill.training.run import LossOutput, StepBatch

Pair = tuple[list[int], list[int]]
"""What the reward model reads of the chosen and of the rejected answer."""
One = TypeVar("One")
Packed = TypeVar("Packed")


def sound_pairs(
    records: Sequence[Record], tokenizer: Tokenizer, max_length: int
) -> tuple[list[Record], list[Pair], SetAside]:
    """The records that say something, their pairs of whole sides, and the others, set aside with their reason.

    `max_length` counts the conditional prompt too. A side that is longer is not cut: it might lose what was preferred.
    """
    sound, pairs, aside = [], [], SetAside()
    for record in records:
        try:
            if not Query.of(record).condition:
                aside.add(record, f"of domain {record['domain']!r}, {NO_PROMPT}")
            elif record["chosen"].strip() == record["rejected"].strip():
                aside.add(record, "with equal sides")
            elif max(map(len, pair := _encode(record, tokenizer, max_length + 1))) > max_length:
                aside.add(record, f"longer than max_length = {max_length} tokens")
            else:
                sound.append(record)
                pairs.append(pair)
        except (InputError, KeyError, TypeError, AttributeError) as error:
            aside.add(record, unreadable(error))
    return sound, pairs, aside


def encode_pairs(
    records: Sequence[Record], tokenizer: Tokenizer, max_length: int, *, conditional: bool = True
) -> list[Pair]:
    """Both sides of every preference, as token ids."""
    return [_encode(record, tokenizer, max_length, conditional=conditional) for record in records]


def _encode(record: Record, tokenizer: Tokenizer, max_length: int, *, conditional: bool = True) -> Pair:
    query = Query.of(record)
    chosen, rejected = (
        reward_input(query, said, tokenizer, max_length=max_length, conditional=conditional)
        for said in (answer_ids(record[side], tokenizer) for side in ("chosen", "rejected"))
    )
    return chosen, rejected


def with_shuffled_labels(records: Sequence[Record], seed: int) -> list[Record]:
    """Half of the pairs swapped, in every domain and kind alike, so that nothing is left to learn."""
    kinds: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        kinds[record["domain"], record.get("template"), record.get("conflict")].append(index)
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


class PairBatches(ABC, Generic[One, Packed]):
    """The `Batches` of pairs: shuffled by the seed, cut where the next pair would exceed the budget.

    A rank computes on at most `micro_batch_tokens` of its pairs at once, at least on one; the gradient is the same.
    """

    def __init__(self, pairs: Sequence[One], batch_tokens: int, seed: int, *, micro_batch_tokens: int) -> None:
        if not pairs:
            raise InputError("no preference pairs to train on")
        self.pairs, self.micro_batch_tokens = pairs, micro_batch_tokens
        if (longest := max(map(self._tokens, range(len(pairs))))) > batch_tokens:
            raise InputError(f"a pair has {longest} tokens, more than a batch may have ({batch_tokens})")
        self.bins: list[list[int]] = []
        self._accumulation: dict[int, int] = {}
        room = 0
        for index in numpy.random.default_rng(seed).permutation(len(pairs)).tolist():
            if self._tokens(index) > room:
                self.bins.append([])
                room = batch_tokens
            self.bins[-1].append(index)
            room -= self._tokens(index)

    @abstractmethod
    def tokens_of(self, pair: One) -> int:
        """What a pair costs of the budget."""

    @abstractmethod
    def packed(self, pairs: Sequence[One]) -> Packed:
        """What the loss is given of some pairs. Without a pair it is one token, which is computed on for nothing."""

    def __len__(self) -> int:
        return len(self.bins)

    def accumulation(self, world: int) -> int:
        """What the step and rank with most groups needs; the others compute on nothing in the rest."""
        if world not in self._accumulation:
            shares = [(step, rank, world) for step in range(len(self.bins)) for rank in range(world)]
            self._accumulation[world] = max(len(self._at_once(*share)) for share in shares)
        return self._accumulation[world]

    def resumable(self, step: int) -> bool:
        return True

    def first_sample(self, step: int) -> int:
        return sum(map(len, self.bins[:step]))

    def at(self, step: int, rank: int, world: int) -> StepBatch:
        everything, at_once = self.bins[step], self._at_once(step, rank, world)
        groups = at_once + [[]] * (self.accumulation(world) - len(at_once))
        tokens = sum(map(self._tokens, everything))
        packs = [self.packed([self.pairs[index] for index in group]) for group in groups]
        return StepBatch(packs, float(len(everything)), tokens)

    def _at_once(self, step: int, rank: int, world: int) -> list[list[int]]:
        return list(in_groups(self.bins[step][rank::world], self.micro_batch_tokens, self._tokens))

    def _tokens(self, index: int) -> int:
        return self.tokens_of(self.pairs[index])


class RewardBatches(PairBatches[Pair, PairPack]):
    """`PairBatches` of what the reward model reads."""

    def tokens_of(self, pair: Pair) -> int:
        chosen, rejected = pair
        return len(chosen) + len(rejected)

    def packed(self, pairs: Sequence[Pair]) -> PairPack:
        return PairPack(Pack.of([side for pair in pairs for side in pair] or [[0]]), len(pairs))


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
