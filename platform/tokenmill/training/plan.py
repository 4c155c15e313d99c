"""What a training stage needs, before anything is launched: memory of a device by part, time, cost, checkpoint size.

Memory follows from the layout: bf16 weights and gradients, fp32 weights and Adam's two moments (Rajbhandari et al. 2020), each
whole on every rank or a share of it by the ZeRO stage. Activations are not a formula: one layer of the model runs on torch's
meta device, where tensors have shapes and no memory, and what autograd keeps of it is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tokenmill.errors import ConfigError
from tokenmill.model.config import InternLM2Config, Recompute
from tokenmill.training.flops import (
    Accelerator,
    flops_per_token,
    recomputed_flops_per_token,
    utilization,
)

MFU = 0.5
"""Assumed where no measurement is given: the report has 0.64 on 8 GPUs and 0.53 on 1,024 (§2.1)."""
RESERVED = 0.06
"""Share of a device's memory that CUDA, NCCL and fragmentation take; not published."""


@dataclass(frozen=True)
class Layout:
    """How a stage lies on devices."""

    ranks: int
    zero_stage: int
    micro_batch_tokens: int
    recompute: Recompute
    precision: str = "bf16"


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Plan:
    """A stage's needs; times in seconds, sizes in bytes, energy in joules."""

    memory: Memory
    fits: bool
    tokens_per_s: float
    mfu: float
    hfu: float
    seconds: float
    energy: float
    checkpoint: float
    cost: float | None


def plan(
    config: InternLM2Config,
    context: int,
    tokens: int,
    layout: Layout,
    device: Accelerator,
    *,
    mfu: float = MFU,
    price: float | None = None,
) -> Plan:
    """Needs of training `config` on so many tokens.

    Args:
        context: tokens a sequence.
        tokens: of the whole stage.
        mfu: assumed, or measured, share of the device's peak.
        price: of one device for one hour.

    Raises:
        ConfigError: a micro-batch holds less than one sequence.
    """
    if layout.micro_batch_tokens < context:
        raise ConfigError(f"a micro-batch of {layout.micro_batch_tokens} tokens holds no sequence of {context}")
    needed = memory(config, layout)
    useful = flops_per_token(config, context)
    done = recomputed_flops_per_token(config, context) if layout.recompute == "full" else useful
    per_device = mfu * device.bf16_flops / useful
    seconds = tokens / (per_device * layout.ranks)
    return Plan(
        memory=needed,
        fits=needed.total <= device.memory * (1 - RESERVED),
        tokens_per_s=per_device * layout.ranks,
        mfu=mfu,
        hfu=utilization(per_device, done, device.bf16_flops),
        seconds=seconds,
        energy=seconds * layout.ranks * device.watts,
        checkpoint=14.0 * config.parameter_count(),  # bf16 weights, fp32 weights, two moments
        cost=None if price is None else price * layout.ranks * seconds / 3600,
    )


def memory(config: InternLM2Config, layout: Layout) -> Memory:
    """What one rank holds at the end of a forward pass, where memory peaks."""
    size = 2 if layout.precision == "bf16" else 4
    n = config.parameter_count()
    shared = {stage: layout.ranks if layout.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    master = 4 if layout.precision == "bf16" else 0  # fp32 weights are their own
    return Memory(
        weights=size * n / shared[3],
        gradients=size * n / shared[2],
        optimizer=(master + 8) * n / shared[1],
        activations=activations(config, layout),
        logits=logits(config, layout.micro_batch_tokens),
    )


def logits(config: InternLM2Config, tokens: int) -> float:
    """A chunk of logits in fp32 and its gradient, and the head's gradient in fp32 (see `model.losses`)."""
    chunk = min(tokens, 4096)
    return 8.0 * chunk * config.vocab_size + 4.0 * config.vocab_size * config.hidden_size


def activations(config: InternLM2Config, layout: Layout, *, fused: bool = True) -> float:
    """What autograd keeps of a micro-batch: of every layer, or with recomputation a part of each and one layer whole.

    Args:
        fused: norms keep no more than their input, as on a GPU; on a CPU they are several operations.
    """
    dtype_size = 2 if layout.precision == "bf16" else 4
    probe = 1024
    whole = _kept_by_a_layer(config, layout.precision, probe, fused) / probe
    inputs = dtype_size * config.hidden_size
    layers = whole * config.num_hidden_layers
    if layout.recompute != "none":
        dear = _dear_of_a_layer(config, dtype_size) if layout.recompute == "selective" else 0
        layers = whole + (inputs + dear) * config.num_hidden_layers
    return layout.micro_batch_tokens * (layers + 2 * inputs)  # and the last norm's input and output


def _dear_of_a_layer(config: InternLM2Config, dtype_size: int) -> float:
    """Bytes a token that selective recomputation keeps beside a layer's input: what products and attention gave."""
    d, kv = config.hidden_size, config.num_key_value_heads * config.head_dim
    products = (d + 2 * kv) + d + 2 * config.intermediate_size + d  # wqkv, wo, w1 and w3, w2
    return dtype_size * (products + d) + 4.0 * config.num_attention_heads


def _kept_by_a_layer(config: InternLM2Config, precision: str, tokens: int, fused: bool) -> float:
    """Bytes that autograd keeps of one layer's forward pass, with flash attention."""
    import torch

    from tokenmill.model.modeling import Block, rotation

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.device("meta"):
        block: Any = Block(config, 0).to(dtype)
        if fused:
            block.attention_norm, block.ffn_norm = _fused_norm(torch), _fused_norm(torch)
        x = torch.empty(tokens, config.hidden_size, dtype=dtype, requires_grad=True)
        rope = rotation(torch.arange(tokens), config.rope_theta, config.head_dim)
    weights = {p.untyped_storage()._cdata for p in block.parameters()} | {r.untyped_storage()._cdata for r in rope}
    kept: dict[int, Any] = {}

    def note(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that no later storage gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        block(x, rope, _flash(torch))
    return float(sum(storage.nbytes() for storage in kept.values()))


def _fused_norm(torch: Any) -> Callable[[Any], Any]:
    """A norm that keeps its input and one number a token, as CUDA's does."""

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x, torch.empty(len(x), device=x.device))
            return torch.empty_like(x)

    class Norm(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return Fused.apply(x)

    return Norm()


def _flash(torch: Any) -> Callable[..., Any]:
    """Attention that keeps its inputs, its output and one number a token and head."""

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any) -> Any:
            out = torch.empty_like(q)
            ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:2], device=q.device))
            return out

    return lambda layer, q, k, v: Fused.apply(q, k, v)
