"""What a layer's backward pass computes again instead of keeping it from the forward pass (activation checkpointing).

`full` keeps a layer's input alone (Chen et al. 2016) and costs a third of the operations again. `selective` keeps what is dear
to compute, the results of matrix products and attention, and repeats norms, rotation and the gate's product, which are
dear to keep (Korthikanti et al. 2022 repeat attention's inside, which flash attention never keeps).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from tokenmill.model.config import Recompute

_DEAR = ("mm", "addmm", "bmm", "linear", "_linear_pointwise")
_ATTENTION = ("attention", "attn")
"""In the names of every attention kernel: flash-attn's, PyTorch's variable-length one, scaled dot product's."""


def layer_by(recompute: Recompute, layer: torch.nn.Module, *arguments: Any) -> Any:
    """`layer(*arguments)`, keeping for the backward pass what `recompute` says."""
    if recompute == "none" or not torch.is_grad_enabled():
        return layer(*arguments)
    if recompute == "full":
        return checkpoint(layer, *arguments, use_reentrant=False)
    contexts = partial(create_selective_checkpoint_contexts, policy)
    return checkpoint(layer, *arguments, use_reentrant=False, context_fn=contexts)


def policy(context: Any, operation: Any, *arguments: Any, **more: Any) -> CheckpointPolicy:
    """Whether the result of an operation is kept."""
    return CheckpointPolicy.MUST_SAVE if is_dear(operation) else CheckpointPolicy.PREFER_RECOMPUTE


def is_dear(operation: Any) -> bool:
    """Whether it is a matrix product or attention."""
    name = operation.name().partition("::")[2].partition(".")[0]
    return name in _DEAR or any(part in name for part in _ATTENTION)
