"""Cross-entropy of every token, without ever holding the logits of a whole pack.

At a vocabulary of 92,544 the logits of 32K tokens are 12 GB in fp32; here a chunk of them exists at a time, forward and
backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenmill.model import IGNORE


def token_losses(hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int | None = None) -> Tensor:
    """−log p(label) of each token under the head `weight`, in fp32; 0 where the label is IGNORE, which costs nothing.

    `chunk` is in tokens: by default few on a CPU, whose cache their logits should fit, and many on a GPU, to fill it.
    """
    chunk = chunk or (4096 if hidden.is_cuda else 256)
    kept = (labels != IGNORE).nonzero().squeeze(1)
    losses = _ChunkedCrossEntropy.apply(hidden[kept], weight, labels[kept], chunk)
    return torch.zeros(len(labels), device=hidden.device).index_put((kept,), losses)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Keeps the hidden states and one log-sum-exp a token; the backward pass computes each chunk of logits again."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> Tensor:
        normalisers, chosen = [], []
        for rows, targets in zip(hidden.split(chunk), labels.split(chunk), strict=True):
            logits = (rows @ weight.T).float()
            normalisers.append(logits.logsumexp(-1))
            chosen.append(logits.gather(1, targets[:, None]).squeeze(1))
        normaliser = torch.cat(normalisers)
        ctx.save_for_backward(hidden, weight, labels, normaliser)
        ctx.chunk = chunk
        return normaliser - torch.cat(chosen)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, labels, normaliser = ctx.saved_tensors
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, len(hidden), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            rows, grad = hidden[part], grads[0][part, None]
            # d loss / d logits = softmax − one-hot
            d_logits = ((rows @ weight.T).float() - normaliser[part, None]).exp_().mul_(grad)
            d_logits.scatter_add_(1, labels[part, None], -grad)
            d_hidden[part] = d_logits.to(rows.dtype) @ weight
            d_weight += d_logits.T.to(rows.dtype) @ rows
        return d_hidden, d_weight.to(weight.dtype), None, None
