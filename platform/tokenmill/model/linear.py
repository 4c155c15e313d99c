"""Linear maps, x Wᵀ, by the fastest matrix product that is there.

On a GPU and in half precision that is PyTorch's. In fp32 on a CPU PyTorch asks MKL, which on processors of AMD keeps to
AVX2; oneDNN, which PyTorch brings for half precision and its compiler, takes what the processor has. One thread, 384 by
1,152 weights: 2.2 times as fast with AVX-512, 1.1 times with AVX2. Both are plain fp32; the last bits differ.

oneDNN makes code for every shape, 0.6 MB that it never gives back. So it is asked for multiples of `ROWS` rows alone, and
a stream of many is filled up to one (`InternLM2Model.packed`): which product computes is a function of the shape.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 128
"""Of which oneDNN gets multiples."""
FILLED_FROM = 512
"""Rows from which on a stream is filled up: fewer would gain little."""


class Linear(nn.Linear):
    """A linear map without bias. Its weight is drawn by the model's seed, not here from the process's random state."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ; x is (rows, in), the weight (out, in)."""
    if not (x.ndim == 2 and _by_onednn(x, len(x))):
        return F.linear(x, weight)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Linear.apply(x, weight)
    return product(x, weight, len(x))


def product(a: Tensor, b: Tensor, rows: int) -> Tensor:
    """a bᵀ of two matrices, without a gradient of its own; `rows` of the stream is what varies of their shapes."""
    if not _by_onednn(a, rows):
        return a @ b.T
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def filled(x: Tensor, rows: int) -> int:
    """Rows that a stream of `rows` is computed with, where its matrices are on the device and of the type of `x`."""
    return -(-rows // ROWS) * ROWS if rows >= FILLED_FROM and _by_onednn(x, ROWS) else rows


def _by_onednn(x: Tensor, rows: int) -> bool:
    here = x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    return here and rows > 0 and rows % ROWS == 0


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, len(x))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        return (
            product(grad, weight.T, len(x)) if ctx.needs_input_grad[0] else None,
            _weight_gradient(grad, x) if ctx.needs_input_grad[1] else None,
        )


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """gradᵀ x of the gradient (rows, out) of what came out and what went in (rows, in).

    oneDNN copies the turned one that it is asked for first, so that is the narrower.
    """
    if grad.shape[1] < x.shape[1]:
        return product(grad.T, x.T, len(x))
    return product(x.T, grad.T, len(x)).T
