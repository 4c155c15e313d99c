"""How much of a device a training uses: MFU and HFU of a step, by the formula of `flops`."""

import torch

from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.training.flops import (
    Accelerator,
    accelerator,
    flops_per_token,
    named,
    recomputed_flops_per_token,
    utilization,
)
from tokenmill.training.settings import TrainingExecution


def device_of(execution: TrainingExecution) -> Accelerator | None:
    """The accelerator that is configured, or else the one that CUDA names; None where its peak is not known."""
    if execution.accelerator:
        return accelerator(execution.accelerator)
    return named(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def used(
    model: torch.nn.Module, device: Accelerator | None, attended: float, tokens_per_s: float, recompute: str
) -> dict[str, float]:
    """MFU and HFU as metrics; none where the device's peak or the model's operations are not known.

    Args:
        attended: length of the sequence that a token is in, on average over tokens.
        tokens_per_s: of one device.
        recompute: `none`, `selective` or `full`; only `full` repeats what the formula counts.
    """
    if device is None or not attended or not isinstance(model, InternLM2ForCausalLM):
        return {}
    useful = flops_per_token(model.config, attended)
    done = recomputed_flops_per_token(model.config, attended) if recompute == "full" else useful
    return {
        "perf/mfu": utilization(tokens_per_s, useful, device.bf16_flops),
        "perf/hfu": utilization(tokens_per_s, done, device.bf16_flops),
    }
