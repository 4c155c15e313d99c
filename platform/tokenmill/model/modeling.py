"""InternLM2: LLaMA's blocks with grouped-query attention out of one packed, interleaved Wqkv (report §2.2).

Every forward pass takes a packed stream, one dimension of tokens with `cu_seqlens`: training, scoring and the prompts
of a generation are the same path. Tensors are named as in the released checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmill.model.attention import attention
from tokenmill.model.config import InternLM2Config, Kernel, Recompute
from tokenmill.model.linear import Linear, filled, linear
from tokenmill.model.losses import token_losses
from tokenmill.model.recompute import layer_by

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of every token's rotation, each (tokens, 1, 1, head_dim/2) in fp32."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q, k, v) → attended values. What differs between a packed pass and one with a KV cache."""


class Embedding(nn.Embedding):
    """Token embedding, drawn by the model's seed."""

    def reset_parameters(self) -> None:
        pass


class RMSNorm(nn.Module):
    """w · x / sqrt(mean(x²) + ε); torch keeps the statistics in fp32 whatever x is."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


def inverse_frequencies(theta: float, head_dim: int, device: torch.device | None = None) -> Tensor:
    """θ^(−2i/d), i = 0 … d/2 − 1: how far each pair of dimensions turns from one token to the next, in radians."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)


def rotation(positions: Tensor, theta: float, head_dim: int) -> Rotation:
    """The angles of RoPE. Computed at every pass, not kept as a table that could go stale when the base changes."""
    angles = positions[:, None, None, None].float() * inverse_frequencies(theta, head_dim, positions.device)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn the pairs (i, i + d/2) of every head: the rotate-half layout of Hugging Face and vLLM."""
    cos, sin = by
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with the projections of queries, keys and values in one matrix (see `layout.merge_wqkv`)."""

    def __init__(self, config: InternLM2Config, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.groups, self.queries = config.num_key_value_heads, config.queries_per_kv
        self.wqkv = Linear(config.hidden_size, self.groups * (self.queries + 2) * self.head_dim)
        self.wo = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, rope: Rotation, attend: Attend) -> Tensor:
        blocks = self.wqkv(x).view(len(x), self.groups, self.queries + 2, self.head_dim)
        qk, v = blocks.split((self.queries + 1, 1), dim=2)
        q, k = rotate(qk, rope).split((self.queries, 1), dim=2)  # a group's queries and key lie together: one rotation
        return self.wo(attend(self.layer, q.flatten(1, 2), k.squeeze(2), v.squeeze(2)).flatten(1))


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) ⊙ w3 x); w1 is the gate, w3 up, w2 down."""

    def __init__(self, config: InternLM2Config) -> None:
        super().__init__()
        self.w1 = Linear(config.hidden_size, config.intermediate_size)
        self.w3 = Linear(config.hidden_size, config.intermediate_size)
        self.w2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """One layer: norm, attention, add; norm, feed-forward, add."""

    def __init__(self, config: InternLM2Config, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.ffn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rope: Rotation, attend: Attend) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, attend)
        return x + self.feed_forward(self.ffn_norm(x))


class InternLM2Model(nn.Module):
    """The body, from tokens to hidden states.

    `recompute` trades operations for the activations' memory; `kernel` is attention's. Neither changes what comes out.
    """

    def __init__(self, config: InternLM2Config) -> None:
        super().__init__()
        self.config = config
        self.recompute: Recompute = "none"
        self.kernel: Kernel = "auto"
        self.tok_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, input_ids: Tensor, positions: Tensor, attend: Attend, length: int) -> Tensor:
        """Hidden states after the last norm. `length`: of the longest sequence, on which a dynamic NTK base depends."""
        rope = rotation(positions, self.config.rope_theta_at(length), self.config.head_dim)
        x = self.tok_embeddings(input_ids)
        for layer in self.layers:
            x = layer_by(self.recompute, layer, x, rope, attend)
        return self.norm(x)

    def packed(self, input_ids: Tensor, cu_seqlens: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Hidden states of a packed stream. No `cu_seqlens`: it is one sequence. No `positions`: each starts at 0."""
        if cu_seqlens is None:
            cu_seqlens = torch.tensor([0, len(input_ids)], dtype=torch.int32, device=input_ids.device)
        if positions is None:
            positions = positions_of(cu_seqlens)
        longest, rows = int(cu_seqlens.diff().max()), len(input_ids)
        if spare := filled(self.norm.weight, rows) - rows:  # a sequence more, of which nothing is kept
            input_ids, positions = F.pad(input_ids, (0, spare)), F.pad(positions, (0, spare))
            cu_seqlens = F.pad(cu_seqlens, (0, 1), value=rows + spare)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(q, k, v, cu_seqlens, max(longest, spare), self.kernel)

        return self(input_ids, positions, attend, longest)[:rows]


def positions_of(cu_seqlens: Tensor) -> Tensor:
    """0, 1, 2, … within each sequence of a pack."""
    starts = cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff())
    return torch.arange(len(starts), device=cu_seqlens.device) - starts


class Head(Linear):
    """Logits, or the losses of given labels. Only this module touches its weight: ZeRO-3 gathers module by module."""

    def forward(self, hidden: Tensor, labels: Tensor | None = None) -> Tensor:
        return linear(hidden, self.weight) if labels is None else token_losses(hidden, self.weight, labels)


class InternLM2(nn.Module):
    """A body and a head, drawn from `seed`. Without a seed the memory stays unfilled: for a loader, which fills it."""

    def __init__(self, config: InternLM2Config, seed: int | None = 0) -> None:
        super().__init__()
        self.config = config
        self.model = InternLM2Model(config)
        self.add_head()
        initialize(self, seed)

    def add_head(self) -> None:
        raise NotImplementedError


class InternLM2ForCausalLM(InternLM2):
    """The language model."""

    def add_head(self) -> None:
        self.output = Head(self.config.hidden_size, self.config.vocab_size)

    def forward(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor | None = None,
        positions: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Logits (tokens, vocabulary) of a packed stream; with `labels` (already shifted) each token's loss instead."""
        return self.output(self.model.packed(input_ids, cu_seqlens, positions), labels)


class InternLM2ForRewardModel(InternLM2):
    """The body with one number a token: the conditional reward model (report §4.2.1), read at the reward token."""

    def add_head(self) -> None:
        self.v_head = Linear(self.config.hidden_size, 1)

    def forward(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor | None = None,
        positions: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Scores in fp32: of every token, or of the stream's tokens at the indices `at`."""
        hidden = self.model.packed(input_ids, cu_seqlens, positions)
        return self.v_head(hidden if at is None else hidden[at]).squeeze(-1).float()


class InternLM2Critic(InternLM2ForRewardModel):
    """PPO's critic, a value at every token. It starts as the reward model with a fresh head (report §4.2.3)."""


def initialize(model: InternLM2, seed: int | None, *, head_only: bool = False) -> None:
    """Draw the weights as InternEvo does: N(0, 0.02), norms 1; with `head_only` those outside the body.

    What layer i adds to the residual stream (wo, w2) has 0.02/√(2·(i+1)). Drawn on the CPU in fp32, in the order of the
    model's parameters, so that one seed is one model on every device. On the meta device there is nothing to draw.
    """
    if seed is None:
        return
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.is_meta or (head_only and name.startswith("model.")):
            continue
        std = model.config.initializer_range
        if name.endswith(("wo.weight", "w2.weight")):
            std /= math.sqrt(2 * (int(name.split(".")[2]) + 1))
        with torch.no_grad():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.copy_(torch.empty(parameter.shape, device="cpu").normal_(0.0, std, generator=generator))
