"""Losses of the conditional reward model (report §4.2.1), one number a pair or a score."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

_MARGIN = 0.01
"""How close to the bound the barrier is logarithmic; from there on it goes straight on."""


def focal_ranking_loss(chosen: Tensor, rejected: Tensor, gamma: float = 2.0) -> Tensor:
    """−(1 − 2·max(0, P − ½))^γ · log P with P = σ(chosen − rejected).

    Pairs in the right order count less the surer they are; pairs in the wrong order count in full.
    """
    difference = chosen - rejected
    decay = (1 - 2 * (difference.sigmoid() - 0.5).clamp(min=0)) ** gamma
    return decay * F.softplus(-difference)


def barrier_penalty(scores: Tensor, bound: float = 5.0) -> Tensor:
    """−(log(x + bound) + log(bound − x)), negative inside, steep at the bound.

    Just before the bound it continues linearly, value and slope unbroken: a score that escapes is pulled back, where a
    clamp would leave it without gradient.
    """
    edge = bound - _MARGIN
    inside = scores.clamp(-edge, edge)
    slope = 2 * edge / (bound**2 - edge**2)
    return -((inside + bound).log() + (bound - inside).log()) + slope * (scores.abs() - edge).clamp(min=0)


def pair_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    gamma: float = 2.0,
    penalty: float = 0.02,
    bound: float = 5.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Ranking loss and barrier of each pair; `reduction` is over a pair's two barriers (the report does not say)."""
    barrier = barrier_penalty(chosen, bound) + barrier_penalty(rejected, bound)
    if reduction == "mean":
        barrier = barrier / 2
    return focal_ranking_loss(chosen, rejected, gamma) + penalty * barrier
