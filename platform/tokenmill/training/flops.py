"""What a training token costs in floating-point operations, and what an accelerator can do: MFU and HFU by one formula.

A weight that a token is multiplied with costs 6 operations a token (a multiplication and an addition, forward once and
backward twice; Kaplan et al. 2020), and causal attention 6·layers·hidden·context: half of 12·L·d·s, because a token sees
half of its sequence on average (PaLM, Chowdhery et al. 2022, B, counts the whole). The input embedding is a look-up and
costs nothing.
"""

from dataclasses import dataclass

from tokenmill.errors import ConfigError
from tokenmill.model.config import InternLM2Config


@dataclass(frozen=True)
class Accelerator:
    """One device, as its maker's data sheet has it."""

    name: str
    bf16_flops: float
    """Dense bf16 operations a second, without sparsity."""
    memory: float
    """Bytes."""
    watts: float


ACCELERATORS = {
    one.name: one
    for one in (
        Accelerator("a100", 312e12, 80e9, 400),
        Accelerator("h100", 989e12, 80e9, 700),
        Accelerator("h200", 989e12, 141e9, 700),
        Accelerator("b200", 2250e12, 180e9, 1000),
        Accelerator("l40s", 362e12, 48e9, 350),
    )
}


def accelerator(name: str) -> Accelerator:
    """The accelerator of that name (a100 and h100 are the SXM models of 80 GB)."""
    if name not in ACCELERATORS:
        raise ConfigError(f"unknown accelerator {name!r}; known are {', '.join(ACCELERATORS)}")
    return ACCELERATORS[name]


def named(device: str) -> Accelerator | None:
    """The accelerator that CUDA calls so (`NVIDIA H100 80GB HBM3`), if it is known."""
    return next((one for one in ACCELERATORS.values() if one.name in device.lower().split()), None)


def multiplied_weights(config: InternLM2Config) -> int:
    """Weights that every token is multiplied with: all but the input embedding."""
    return config.parameter_count() - config.vocab_size * config.hidden_size


def flops_per_token(config: InternLM2Config, context: float) -> float:
    """Operations to train on one token of a sequence of `context` tokens, forward and backward."""
    return 6.0 * multiplied_weights(config) + 6.0 * config.num_hidden_layers * config.hidden_size * context


def recomputed_flops_per_token(config: InternLM2Config, context: float) -> float:
    """Operations a token when every layer's forward pass is done twice: what the hardware does, not the model."""
    layers = multiplied_weights(config) - config.vocab_size * config.hidden_size
    again = 2.0 * layers + 2.0 * config.num_hidden_layers * config.hidden_size * context
    return flops_per_token(config, context) + again


def utilization(tokens_per_s: float, flops: float, peak: float) -> float:
    """Share of a device's peak: MFU with `flops_per_token`, HFU with what was recomputed counted too."""
    return tokens_per_s * flops / peak
