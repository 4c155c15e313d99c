"""Does the far context make a text more predictable? The perplexity filter of long documents (report §3.1.3; LongWanjuan).

A document is cut into windows. The last tokens of each, S2, are read once behind all of the window and once behind as
many tokens as S2 has itself. In a coherent text the far context, S1, lowers the perplexity of S2; where it raises it, the
parts do not belong together. Only the difference is used, never the perplexity, which says more about the estimator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tokenmill.errors import InputError, StepFailed

if TYPE_CHECKING:
    from tokenmill.model.modeling import InternLM2ForCausalLM

WINDOW, TAIL = 4096, 1024
"""Tokens of a window and of its S2 (LongWanjuan's)."""


class WindowPerplexity(NamedTuple):
    """Perplexity of one window's S2."""

    far: float
    """Behind the whole window, ppl(S2 | S1)."""
    near: float
    """Behind as many tokens as S2 has."""


def perplexity_difference(
    model: InternLM2ForCausalLM, token_ids: Sequence[int], window: int = WINDOW, tail: int = TAIL
) -> float:
    """Mean over the windows of ppl(S2 | far context) − ppl(S2 | near context): negative keeps (the report's sign).

    Windows of `window` tokens do not overlap; a last one that is shorter is not read.

    Raises:
        InputError: fewer tokens than one window, or windows that the model or `tail` do not allow.
    """
    return mean_difference(window_perplexities(model, token_ids, window, tail))


def mean_difference(found: Sequence[WindowPerplexity]) -> float:
    """Mean of far − near."""
    return sum(one.far - one.near for one in found) / len(found)


def window_perplexities(
    model: InternLM2ForCausalLM,
    token_ids: Sequence[int],
    window: int = WINDOW,
    tail: int = TAIL,
    batch_tokens: int = 4 * WINDOW,
    most: int = 0,
) -> list[WindowPerplexity]:
    """The two perplexities of every window; `batch_tokens` a forward pass, one window at least.

    `most` windows are read, evenly spread over the document, the first and the last among them; 0 reads all.
    """
    _check(model, len(token_ids), window, tail)
    chunks = [token_ids[start : start + window] for start in range(0, len(token_ids) - window + 1, window)]
    if 0 < most < len(chunks):
        chunks = [chunks[round(place)] for place in np.linspace(0, len(chunks) - 1, most)]
    at_once = max(1, batch_tokens // (window + 2 * tail))
    found: list[WindowPerplexity] = []
    for start in range(0, len(chunks), at_once):
        group = chunks[start : start + at_once]
        perplexities = _tail_perplexities(model, [part for c in group for part in (c, c[-2 * tail :])], tail)
        found += map(WindowPerplexity, perplexities[::2], perplexities[1::2])
    return found


def _check(model: InternLM2ForCausalLM, n_tokens: int, window: int, tail: int) -> None:
    if not 0 < 2 * tail < window:
        raise InputError(f"a window of {window} tokens is not longer than twice its tail of {tail}: no far context")
    if window > (limit := model.config.max_position_embeddings):
        raise InputError(f"the model reads {limit} tokens, not a window of {window}: lower curation.select_long.window")
    if n_tokens < window:
        raise InputError(f"{n_tokens} tokens are less than one window of {window}: too short to be judged")


def _tail_perplexities(model: InternLM2ForCausalLM, sequences: Sequence[Sequence[int]], tail: int) -> list[float]:
    """exp(mean cross-entropy) of the last `tail` tokens of each sequence, all in one packed pass."""
    import torch

    from tokenmill.model import IGNORE

    device = model.output.weight.device
    lengths = [len(sequence) for sequence in sequences]
    ends = torch.tensor([0, *lengths], dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32)
    ids = torch.tensor([token for sequence in sequences for token in sequence], device=device)
    labels = torch.full_like(ids, IGNORE)
    for end in ends[1:].tolist():  # a position is labelled with the token behind it
        labels[end - tail - 1 : end - 1] = ids[end - tail : end]
    with torch.no_grad():
        losses = model(ids, ends, labels=labels)
    means = [float(part.double().sum()) / tail for part in losses.cpu().split(lengths)]
    if not all(map(math.isfinite, means)):
        raise StepFailed("the model's losses are not finite: it diverged, and cannot judge long documents")
    return [math.exp(min(mean, 700.0)) for mean in means]  # exp(710) is no number any more
