"""The learning rate: linear warm-up, then cosine to a share of the peak (report §3.3)."""

import math

from tokenmill.training.settings import OptimConfig


def learning_rate(optim: OptimConfig, step: int, steps: int) -> float:
    """Rate of optimizer step `step` (from 0) of `steps`.

    At the middle of the cosine the rate is 0.55 of the peak, at its end `final_lr_ratio` of it.
    """
    warmup = round(optim.warmup_ratio * steps)
    if step < warmup:
        return optim.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    low = optim.final_lr_ratio
    return optim.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
