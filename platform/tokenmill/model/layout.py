"""Names and rows: a model's tensors as InternLM2 has them, with Wqkv packed, and as LLaMA has them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tokenmill.errors import CorruptError, InputError
from tokenmill.model.config import InternLM2Config

State = dict[str, Tensor]
"""A model's tensors by name."""

# Each part's name in InternLM2 and in LLaMA; Wqkv is the one part that is not merely renamed.
_NAMES = (
    ("tok_embeddings", "embed_tokens"),
    ("attention.wo", "self_attn.o_proj"),
    ("feed_forward.w1", "mlp.gate_proj"),
    ("feed_forward.w3", "mlp.up_proj"),
    ("feed_forward.w2", "mlp.down_proj"),
    ("attention_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("output", "lm_head"),
    ("v_head", "score"),
)
_WQKV, _QKV = "attention.wqkv.weight", tuple(f"self_attn.{part}_proj.weight" for part in "qkv")
_COMPUTED = "rotary_emb.inv_freq"
"""What LLaMA files of 2023 hold although it follows from the config."""


def split_wqkv(weight: Tensor, kv_heads: int, q_per_kv: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Wqkv's rows as three matrices: all queries (KV group after group), all keys, all values (report §2.2).

    Args:
        weight: (kv_heads · (q_per_kv + 2) · head_dim, hidden), or any other number of columns.

    Returns:
        q (kv_heads · q_per_kv · head_dim, hidden), k and v (kv_heads · head_dim, hidden), as LLaMA has them.

    Raises:
        InputError: the weight has another number of rows.
    """
    if len(weight) != kv_heads * (q_per_kv + 2) * head_dim:
        raise InputError(
            f"Wqkv has {len(weight)} rows, not {kv_heads} KV heads × ({q_per_kv} queries + key + value) × {head_dim}"
        )
    groups = weight.unflatten(0, (kv_heads, q_per_kv + 2, head_dim))
    return groups[:, :-2].flatten(0, 2), groups[:, -2].flatten(0, 1), groups[:, -1].flatten(0, 1)


def merge_wqkv(q: Tensor, k: Tensor, v: Tensor, kv_heads: int, q_per_kv: int, head_dim: int) -> Tensor:
    """The rows [q_0 … q_{g−1}, k, v] of each KV group, group after group: the inverse of `split_wqkv`, same shapes.

    A tensor-parallel rank owns one slice of contiguous rows (report §2.2, Figure 2).

    Raises:
        InputError: a matrix has another number of rows.
    """
    rows = len(q), len(k), len(v)
    wanted = kv_heads * q_per_kv * head_dim, kv_heads * head_dim, kv_heads * head_dim
    if rows != wanted:
        raise InputError(f"queries, keys and values have {rows} rows, not {wanted}")
    parts = ((q, q_per_kv), (k, 1), (v, 1))
    return torch.cat([x.unflatten(0, (kv_heads, heads, head_dim)) for x, heads in parts], dim=1).flatten(0, 2)


def llama_state(config: InternLM2Config, state: State) -> State:
    """InternLM2's tensors under LLaMA's names."""
    llama: State = {}
    for name, tensor in state.items():
        layer = name.removesuffix(_WQKV)
        if layer != name:
            parts = split_wqkv(tensor, *_heads(config))
            llama |= {layer + part: rows.contiguous() for part, rows in zip(_QKV, parts, strict=True)}
            continue
        for ours, theirs in _NAMES:
            name = name.replace(ours, theirs)
        llama[name] = tensor
    return llama


def internlm2_state(config: InternLM2Config, llama: State, *, tied: bool = False) -> State:
    """LLaMA's tensors under InternLM2's names; an output layer `tied` to the embedding becomes a matrix of its own.

    Raises:
        CorruptError: of a layer's queries, keys and values not all are there.
    """
    state: State = {}
    for name, tensor in llama.items():
        layer = name.removesuffix(_QKV[0])
        if layer != name:
            if lost := [layer + part for part in _QKV if layer + part not in llama]:
                raise CorruptError(f"the model's {lost[0]} is missing")
            q, k, v = (llama[layer + part] for part in _QKV)
            state[layer + _WQKV] = merge_wqkv(q, k, v, *_heads(config))
        elif not name.endswith((*_QKV, _COMPUTED)):
            for ours, theirs in _NAMES:
                name = name.replace(theirs, ours)
            state[name] = tensor
    if tied and "model.tok_embeddings.weight" in state:
        state.setdefault("output.weight", state["model.tok_embeddings.weight"].clone())
    return state


def _heads(config: InternLM2Config) -> tuple[int, int, int]:
    return config.num_key_value_heads, config.queries_per_kv, config.head_dim


def fit_vocabulary(config: InternLM2Config, state: State, size: int, known: int) -> tuple[InternLM2Config, State]:
    """The model with `size` rows of embedding and output; rows from `known` on, whose ids meant nothing, are the mean.

    With the mean of all outputs, n new tokens take at most n/known of the mass that the old ones had (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models"), so what the model said before stays what it says.

    Args:
        state: tensors under InternLM2's names; embedding and output (vocabulary, hidden).
        size: ids of the tokenizer, at least the model's rows.
        known: ids from 0 on that the model has learned.

    Raises:
        InputError: the tokenizer has fewer ids than the model rows.
    """
    if not 0 < known <= config.vocab_size <= size:
        raise InputError(f"a model of {config.vocab_size} rows, {known} of them learned, cannot have {size} token ids")
    fitted = dict(state)
    for name in ("model.tok_embeddings.weight", "output.weight"):
        if size > known and name in state:
            rows = state[name][:known]
            mean = rows.float().mean(0, keepdim=True).to(rows.dtype)
            fitted[name] = torch.cat((rows, mean.expand(size - known, -1)))
    return replace(config, vocab_size=size), fitted
