"""Rate and batch size as pure functions of the step: linear warm-up, then cosine to a share of the peak (report §3.3)."""

import math
from dataclasses import dataclass

from tokenmill.training.settings import OptimConfig


def learning_rate(optim: OptimConfig, step: int, steps: int) -> float:
    """Rate of optimizer step `step` (from 0) of a stage of `steps`.

    At the middle of the cosine the rate is 0.55 of the peak, at its end `final_lr_ratio` of it. Stages that share one
    schedule say how many steps of it are before and after theirs.
    """
    step, steps = optim.steps_before + step, optim.steps_before + steps + optim.steps_after
    warmup = round(optim.warmup_ratio * steps)
    if step < warmup:
        return optim.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    low = optim.final_lr_ratio
    return optim.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@dataclass(frozen=True)
class BatchRamp:
    """A batch that grows linearly from `first` to `full` tokens over `steps` optimizer steps."""

    full: int
    first: int = 0
    steps: int = 0


def batch_tokens(ramp: BatchRamp, step: int) -> int:
    """Tokens of optimizer step `step`: `first` at step 0, `full` from step `ramp.steps` on."""
    if step >= ramp.steps:
        return ramp.full
    return ramp.first + (ramp.full - ramp.first) * step // ramp.steps


def steps_of(ramp: BatchRamp, tokens: int) -> int:
    """Optimizer steps whose batches fit into a budget of tokens, at least one."""
    taken = steps = 0
    while steps < ramp.steps and taken + batch_tokens(ramp, steps) <= tokens:
        taken += batch_tokens(ramp, steps)
        steps += 1
    return max(1, steps + (tokens - taken) // ramp.full if steps == ramp.steps else steps)
