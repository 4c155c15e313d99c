"""Packing: many short samples in one stream of the context's length, none lost, none seeing another.

Best-fit-decreasing fills packs to 99.99% and splits only documents that are longer than the context; concatenating and
splitting fills them to 100% and splits a third of all documents.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from tokenmill.errors import InputError
from tokenmill.model import IGNORE

Item = TypeVar("Item")
IntArray = np.ndarray[Any, np.dtype[Any]] | Sequence[int]


class Piece(NamedTuple):
    """A document, or as much of it as fits one context: its tokens from `start` up to `end`."""

    document: int
    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Packing:
    """Packs of pieces, as columns: pack `i` has the pieces from `bounds[i]` up to `bounds[i + 1]`."""

    document: np.ndarray[Any, np.dtype[np.int64]]
    start: np.ndarray[Any, np.dtype[np.int64]]
    length: np.ndarray[Any, np.dtype[np.int64]]
    bounds: np.ndarray[Any, np.dtype[np.int64]]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def rows(self, packs: Iterable[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where in the columns the pieces of some packs are, pack after pack."""
        return np.concatenate([_NONE, *(np.arange(self.bounds[pack], self.bounds[pack + 1]) for pack in packs)])


_NONE = np.zeros(0, dtype=np.int64)


def best_fit_decreasing(lengths: IntArray, capacity: int) -> list[list[Piece]]:
    """Sort pieces into packs of at most `capacity` tokens: the longest first, each where it leaves the least room.

    The same lengths give the same packs. They come out with the longest pieces first: shuffle them before training.
    """
    made = pack_columns(lengths, capacity)
    columns = (made.document.tolist(), made.start.tolist(), (made.start + made.length).tolist())
    pieces = list(map(Piece._make, zip(*columns, strict=True)))
    return [pieces[first:last] for first, last in pairwise(made.bounds.tolist())]


def pack_columns(lengths: IntArray, capacity: int) -> Packing:
    """`best_fit_decreasing` as columns, which cost a few bytes a piece.

    Pieces of one length are placed together. The best fit is the least room r that holds them: the pack with it takes
    r // length of them in a row, and then the next pack with that room does. So the work is by lengths and rooms, not by
    pieces, and a corpus of any size has no more of those than `capacity`.
    """
    document, start, length = _split(np.asarray(lengths, dtype=np.int64), capacity)
    sizes, counts = np.unique(length, return_counts=True)
    chosen: list[int] = []  # pack of each piece, the longest pieces first
    rooms: list[int] = []  # those that some pack has, ascending
    by_room: defaultdict[int, list[int]] = defaultdict(list)  # the last one in is the first one out
    packs = 0
    for size, wanted in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while wanted:
            place = bisect_left(rooms, size)
            room = rooms[place] if place < len(rooms) else capacity
            each = room // size
            need = -(-wanted // each)
            if place < len(rooms):
                stack = by_room[room]
                taken = stack[: -need - 1 : -1]
                del stack[-need:]
                if not stack:
                    del rooms[place]
            else:
                taken = list(range(packs, packs + need))
                packs += need
            placed = min(wanted, each * len(taken))
            wanted -= placed
            last = placed - each * (len(taken) - 1)  # of them in the last pack
            if each > 1:
                chosen += [pack for pack in taken[:-1] for _ in range(each)]
                chosen += [taken[-1]] * last
            else:
                chosen += taken
            if last < each:
                _put(rooms, by_room, room - last * size, [taken.pop()])
            _put(rooms, by_room, room - each * size, taken)
    pack = np.asarray(chosen, dtype=np.int64)
    longest_first = np.argsort(-length, kind="stable")
    rows = longest_first[np.argsort(pack, kind="stable")]
    bounds = np.concatenate(([0], np.cumsum(np.bincount(pack, minlength=packs))))
    return Packing(document[rows], start[rows], length[rows], bounds)


def _put(rooms: list[int], by_room: defaultdict[int, list[int]], room: int, packs: list[int]) -> None:
    """Note that these packs have so much room left; a full one is done with."""
    if room and packs:
        stack = by_room[room]
        if not stack:
            insort(rooms, room)
        stack += packs


def _split(lengths: IntArray, capacity: int) -> tuple[Any, Any, Any]:
    """Document, start and length of each piece: what is longer than `capacity` gives several."""
    lengths = np.asarray(lengths)
    pieces = -(-lengths // capacity)
    document = np.repeat(np.arange(len(lengths)), pieces)
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = (np.arange(len(document)) - first) * capacity
    return document, start, np.minimum(lengths[document] - start, capacity)


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
    sources: Tensor | None = None
    """Which of `names` each sequence is of, where losses are told apart."""
    names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        samples: Sequence[IntArray],
        labels: Sequence[IntArray] | None = None,
        sources: IntArray | None = None,
        names: tuple[str, ...] = (),
    ) -> Pack:
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
            sources=None if sources is None else torch.from_numpy(np.asarray(sources, dtype=np.int64)),
            names=names,
        )
