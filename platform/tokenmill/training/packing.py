"""Packing: many short samples in one stream of the context's length, none lost, none seeing another.

Best-fit-decreasing fills packs to 99.99% and splits only documents that are longer than the context; concatenating and
splitting fills them to 100% and splits a third of all documents.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from tokenmill.errors import InputError
from tokenmill.model import IGNORE

Item = TypeVar("Item")
IntArray = np.ndarray[Any, np.dtype[Any]] | Sequence[int]


class Piece(NamedTuple):
    """A document, or as much of it as fits one context."""

    document: int
    start: int
    length: int


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[Piece]]:
    """Sort pieces into packs of at most `capacity` tokens: the longest first, each where it leaves the least room.

    The same lengths give the same packs. They come out with the longest pieces first: shuffle them before training.
    """
    pieces = [
        Piece(document, start, min(capacity, length - start))
        for document, length in enumerate(lengths)
        for start in range(0, length, capacity)
    ]
    pieces.sort(key=lambda piece: -piece.length)
    packs: list[list[Piece]] = []
    by_room: defaultdict[int, list[list[Piece]]] = defaultdict(list)
    rooms = 0  # bit r is set while a pack has room for exactly r tokens: the best fit is the lowest bit from length up
    for piece in pieces:
        fitting = rooms >> piece.length
        if fitting:
            room = piece.length + (fitting & -fitting).bit_length() - 1
            pack = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, pack = capacity, []
            packs.append(pack)
        pack.append(piece)
        left = room - piece.length
        by_room[left].append(pack)
        rooms |= 1 << left
    return packs


def in_groups(samples: Iterable[Item], capacity: int, length: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Samples in their order, as many together as `capacity` tokens hold; a longer one stands alone."""
    group: list[Item] = []
    tokens = 0
    for sample in samples:
        if group and tokens + length(sample) > capacity:
            yield group
            group, tokens = [], 0
        group.append(sample)
        tokens += length(sample)
    if group:
        yield group


@dataclass(frozen=True)
class Pack:
    """One packed stream, as the model reads it. `labels[t]` is the token to say after `input_ids[t]`."""

    input_ids: Tensor
    labels: Tensor
    positions: Tensor
    cu_seqlens: Tensor

    @classmethod
    def of(cls, samples: Sequence[IntArray], labels: Sequence[IntArray] | None = None) -> Pack:
        """Join samples. `labels` stand at their tokens' places, IGNORE where nothing is learned; default: all."""
        lengths = [len(sample) for sample in samples]
        if not all(lengths):
            raise InputError(f"sample {lengths.index(0)} of a pack is empty: drop empty samples before packing")
        ends = np.cumsum(lengths)
        targets = np.roll(np.concatenate(labels or samples), -1)
        targets[ends - 1] = IGNORE  # the last token of a sample predicts nothing: the next one belongs to another
        starts = np.repeat(ends - lengths, lengths)
        return cls(
            input_ids=torch.from_numpy(np.concatenate(samples).astype(np.int64)),
            labels=torch.from_numpy(targets.astype(np.int64)),
            positions=torch.from_numpy(np.arange(ends[-1]) - starts),
            cu_seqlens=torch.from_numpy(np.concatenate(([0], ends)).astype(np.int32)),
        )
