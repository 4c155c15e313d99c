"""Losses of many sequences that begin alike, with every common beginning computed once.

The options of a question share the question, the questions of a benchmark its examples. Such sequences are a tree of
segments: a token sees the segments above its own, and its own up to itself, which is all that it would see in its sequence
alone. One pass over the tree gives each of its tokens' losses; a sequence is a way from a root down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmill.model.linear import filled
from tokenmill.model.modeling import InternLM2ForCausalLM

LEAST = 8
"""Tokens that a common beginning must have: a shorter one costs more as a segment than it saves."""
TOGETHER = 256
"""Rows of segments with one parent that attend in one call, each seeing only itself of them."""

Ids = np.ndarray[tuple[int], np.dtype[np.int64]]
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True)
class Segment:
    """Tokens that stand together, at rows `start` up to `end` of the stream."""

    start: int
    end: int
    parent: Segment | None

    @property
    def way(self) -> list[Segment]:
        """From the root down to here."""
        return [*(self.parent.way if self.parent else ()), self]


@dataclass(frozen=True)
class PrefixTree:
    """Sequences as one stream of tokens, in which what they begin with alike stands once; siblings stand together."""

    ids: Ids
    positions: Ids
    """Of each token in its sequence."""
    before: Ids
    """Row of the token that each one follows; −1 of a sequence's first."""
    segments: list[Segment]
    ends: list[Segment]
    """The last segment of each sequence."""

    @classmethod
    def of(cls, sequences: Sequence[Ids]) -> PrefixTree:
        """Of at least one sequence, none of them empty."""
        order, shared = sorted_by_beginning(sequences)
        parts: list[Ids] = []
        positions: list[Ids] = []
        before: list[Ids] = []
        segments: list[Segment] = []
        ends: dict[int, Segment] = {}
        rows = 0
        level: list[tuple[int, int, int, Segment | None]] = [(0, len(order), 0, None)]
        while level:  # sequences from, up to; tokens that stand above them; the segment that ends these
            below: list[tuple[int, int, int, Segment | None]] = []
            for first, last, depth, parent in level:
                for start, end in _runs(shared, first, last, depth + LEAST):
                    sequence = sequences[order[start]]
                    reach = min(shared[start + 1 : end], default=len(sequence))
                    if reach == depth:  # it ends with the segment above
                        ends[order[start]] = parent  # type: ignore[assignment] # a sequence has a token
                        continue
                    segment = Segment(rows, rows + reach - depth, parent)
                    rows = segment.end
                    parts.append(sequence[depth:reach])
                    positions.append(np.arange(depth, reach))
                    before.append(np.arange(segment.start - 1, segment.end - 1))
                    before[-1][0] = parent.end - 1 if parent else -1
                    segments.append(segment)
                    if end - start > 1:
                        below.append((start, end, reach, segment))
                    else:
                        ends[order[start]] = segment
            level = below
        ids, places, follows = (np.concatenate(arrays) for arrays in (parts, positions, before))
        return cls(ids, places, follows, segments, [ends[i] for i in range(len(sequences))])

    @torch.no_grad()
    def losses(self, model: InternLM2ForCausalLM, counted: Sequence[Mask]) -> list[Tensor]:
        """−log p of every counted token of each sequence, fp32 on the CPU.

        Args:
            counted: of each sequence, which of its tokens count; the first never does, as nothing stands before it.
        """
        wanted = np.zeros(len(self.ids), dtype=np.bool_)
        for end, mask in zip(self.ends, counted, strict=True):
            for segment, part in _along(end, mask):
                wanted[segment.start : segment.end] |= part
        wanted &= self.before >= 0
        device = model.output.weight.device
        hidden = self._hidden(model)[torch.from_numpy(self.before[wanted]).to(device)]
        found = torch.zeros(len(self.ids))
        found[torch.from_numpy(wanted)] = model.output(hidden, torch.from_numpy(self.ids[wanted]).to(device)).cpu()
        told = []
        for end, mask in zip(self.ends, counted, strict=True):
            parts = [found[s.start : s.end][torch.from_numpy(part)] for s, part in _along(end, mask)]
            told.append(torch.cat(parts)[1 if mask[0] else 0 :])
        return told

    def _hidden(self, model: InternLM2ForCausalLM) -> Tensor:
        """Hidden states of the stream's rows."""
        device, rows = model.output.weight.device, len(self.ids)
        spare = filled(model.output.weight, rows) - rows  # rows of which nothing is kept
        ids, positions = (F.pad(torch.from_numpy(x).to(device), (0, spare)) for x in (self.ids, self.positions))
        blocks = [block.to(device) for block in self._blocks()]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = torch.zeros_like(q)
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
            for block in blocks:
                out[block.start : block.end] = block.attend(q, k, v).transpose(0, 1)
            return out

        return model.model(ids, positions, attend, int(self.positions.max()) + 1)[:rows]

    def _blocks(self) -> Iterator[_Block]:
        """Segments, those with one parent together while they are short."""
        group: list[Segment] = []
        for segment in self.segments:
            alone = not segment.parent or not group or group[0].parent is not segment.parent
            if group and (alone or segment.end - group[0].start > TOGETHER):
                yield _Block.of(group)
                group = []
            group.append(segment)
        if group:
            yield _Block.of(group)


@dataclass(frozen=True)
class _Block:
    """Segments that attend in one call: to what is above them all, and each to itself."""

    start: int
    end: int
    above: list[tuple[int, int]]
    seen: Tensor | None
    """(rows, rows above and own), True where it is seen; None: own rows alone, up to oneself."""

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> _Block:
        start, end, parent = segments[0].start, segments[-1].end, segments[0].parent
        if parent is None:
            return cls(start, end, [], None)
        own = torch.block_diag(*(torch.ones(s.end - s.start, s.end - s.start).tril() for s in segments)).bool()
        above = [(s.start, s.end) for s in parent.way]
        seen = F.pad(own, (sum(last - first for first, last in above), 0), value=True)
        return cls(start, end, above, seen)

    def to(self, device: torch.device) -> _Block:
        return _Block(self.start, self.end, self.above, None if self.seen is None else self.seen.to(device))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(heads, rows, head_dim) of this block, out of such of the whole stream."""
        places = [*self.above, (self.start, self.end)]
        keys, values = (torch.cat([x[:, a:b] for a, b in places], dim=1) for x in (k, v))
        own = q[:, self.start : self.end]
        return F.scaled_dot_product_attention(
            own[None], keys[None], values[None], self.seen, is_causal=self.seen is None, enable_gqa=True
        )[0]


def sorted_by_beginning(sequences: Sequence[Ids]) -> tuple[list[int], list[int]]:
    """The sequences' indices, those that begin alike beside each other; and how many tokens each shares with the one
    before it in this order."""
    listed = [sequence.tolist() for sequence in sequences]
    order = sorted(range(len(listed)), key=listed.__getitem__)
    return order, [0, *(_shared(sequences[a], sequences[b]) for a, b in pairwise(order))]


def _shared(one: Ids, other: Ids) -> int:
    """Tokens that two sequences begin with alike."""
    n = min(len(one), len(other))
    differs = one[:n] != other[:n]
    return int(differs.argmax()) if differs.any() else n


def _runs(shared: Sequence[int], first: int, last: int, least: int) -> Iterator[tuple[int, int]]:
    """Of the sequences `first` up to `last`, those beside each other that share `least` tokens."""
    start = first
    for place in range(first + 1, last + 1):
        if place == last or shared[place] < least:
            yield start, place
            start = place


def _along(end: Segment, mask: Mask) -> Iterator[tuple[Segment, Mask]]:
    """A sequence's segments, each with its part of what is of the sequence's length."""
    done = 0
    for segment in end.way:
        length = segment.end - segment.start
        yield segment, mask[done : done + length]
        done += length
