"""The keys and values of what was read, so that a next token costs one token's work.

Every row of a batch keeps its own length: prompts are read packed, nothing is padded on the left.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmill.model.attention import attention
from tokenmill.model.modeling import InternLM2ForCausalLM, positions_of


class KVCache:
    """Keys and values of every layer for a batch of rows, allocated once; row r holds its first `lengths[r]` tokens."""

    def __init__(self, model: InternLM2ForCausalLM, rows: int, capacity: int) -> None:
        config, like = model.config, model.output.weight
        shape = (config.num_hidden_layers, 2, rows, config.num_key_value_heads, capacity, config.head_dim)
        self.body = model.model
        self.blocks = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=like.device)

    @torch.no_grad()
    def read(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Fill the rows with prompts in one packed pass; returns the hidden state of each prompt's last token."""
        device = self.lengths.device
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        cu_seqlens = F.pad(self.lengths.cumsum(0), (1, 0)).int()
        positions = positions_of(cu_seqlens)
        row = torch.arange(len(prompts), device=device).repeat_interleave(self.lengths)
        longest = int(self.lengths.max())

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.blocks[layer]
            keys[row, :, positions], values[row, :, positions] = k, v
            return attention(q, k, v, cu_seqlens, longest)

        ids = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        return self.body(ids, positions, attend, longest)[cu_seqlens[1:] - 1]

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every row; returns its hidden state."""
        positions, row = self.lengths, torch.arange(len(tokens), device=tokens.device)
        longest = int(positions.max()) + 1
        seen = (torch.arange(longest, device=tokens.device) <= positions[:, None])[:, None, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.blocks[layer]
            keys[row, :, positions], values[row, :, positions] = k, v
            grouped = q.unflatten(1, (k.shape[1], -1))  # queries of one KV head, as if they were a short sequence
            seen_keys, seen_values = keys[:, :, :longest], values[:, :, :longest]
            return F.scaled_dot_product_attention(grouped, seen_keys, seen_values, attn_mask=seen).flatten(1, 2)

        self.lengths = positions + 1
        return self.body(tokens, positions, attend, longest)

    def keep(self, rows: list[int]) -> None:
        """Forget all other rows."""
        self.blocks, self.lengths = self.blocks[:, :, rows], self.lengths[rows]
