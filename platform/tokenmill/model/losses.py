"""Cross-entropy of every token, without ever holding the logits of a whole pack.

At a vocabulary of 92,544 the logits of 32K tokens are 12 GB in fp32; here a chunk of them exists at a time, forward and
backward, and the backward pass computes again what is beyond `KEPT_BYTES`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenmill.model import IGNORE
from tokenmill.model.linear import product

KEPT_BYTES = 64 << 20
"""Logits that stay in memory from the forward to the backward pass: all of a small model's, hardly any of a large one's."""


def token_losses(hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int | None = None) -> Tensor:
    """−log p(label) of each token under the head `weight`, in fp32; 0 where the label is IGNORE, which costs nothing.

    `chunk` is in tokens: by default few on a CPU, whose cache their logits should fit, and many on a GPU, to fill it.
    """
    chunk = chunk or (4096 if hidden.is_cuda else 256)
    kept = (labels != IGNORE).nonzero().squeeze(1)
    losses = _ChunkedCrossEntropy.apply(hidden[kept], weight, labels[kept], chunk)
    return torch.zeros(len(labels), device=hidden.device).index_put((kept,), losses)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Keeps the hidden states, one log-sum-exp a token and the first chunks of logits; the others are computed again."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> Tensor:
        normalisers, chosen, kept = [], [], []
        room = KEPT_BYTES
        for rows, targets in zip(hidden.split(chunk), labels.split(chunk), strict=True):
            logits = _logits(rows, weight)
            normalisers.append(logits.logsumexp(-1))
            chosen.append(logits.gather(1, targets[:, None]).squeeze(1))
            room -= logits.nbytes
            if room >= 0 and any(ctx.needs_input_grad):
                kept.append(logits)
        normaliser = torch.cat(normalisers)
        ctx.save_for_backward(hidden, weight, labels, normaliser, *kept)
        ctx.chunk = chunk
        return normaliser - torch.cat(chosen)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, labels, normaliser, *kept = ctx.saved_tensors
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros(
            weight.T.shape, dtype=torch.float32, device=weight.device
        )  # turned: so it is added up in rows
        for i, start in enumerate(range(0, len(hidden), ctx.chunk)):
            part = slice(start, start + ctx.chunk)
            rows, grad = hidden[part], grads[0][part, None]
            logits = kept[i] if i < len(kept) else _logits(rows, weight)
            # d loss / d logits = softmax − one-hot
            d_logits = (logits - normaliser[part, None]).exp_().mul_(grad)
            d_logits.scatter_add_(1, labels[part, None], -grad)
            d_logits = d_logits.to(rows.dtype)
            d_hidden[part] = product(d_logits, weight.T, len(rows))
            d_weight += product(rows.T, d_logits.T, len(rows))
        return d_hidden, d_weight.T.to(weight.dtype), None, None


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    return product(hidden, weight, len(hidden)).float()
