"""Tensor parallelism: what each rank holds of a model, and the whole from its ranks (report §2.2, Figure 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tokenmill.errors import ConfigError, CorruptError
from tokenmill.model.config import InternLM2Config
from tokenmill.model.layout import State

_SPLIT = {
    "attention.wqkv.weight": 0,
    "attention.wo.weight": 1,
    "feed_forward.w1.weight": 0,
    "feed_forward.w3.weight": 0,
    "feed_forward.w2.weight": 1,
    "tok_embeddings.weight": 0,
    "output.weight": 0,
}
"""Which dimension of a tensor is cut, by the end of its name. What is not here every rank holds whole."""


def shard(state: State, config: InternLM2Config, tp: int, rank: int) -> State:
    """What rank `rank` of `tp` holds of a model, copied: contiguous rows of Wqkv (whole KV groups), w1, w3, embedding
    and output, contiguous columns of Wo and w2, and all norms and value heads (report §2.2, Figure 2).

    The ranks' outputs of Wo and w2 and their embeddings add up, their logits follow one another.

    Args:
        state: whole tensors under InternLM2's names.
        tp: tensor-parallel degree; it must divide the KV heads, the FFN's width and the vocabulary.

    Raises:
        ConfigError: the model does not fall into `tp` equal parts, or there is no such rank.
    """
    require_divisible(config, tp)
    if not 0 <= rank < tp:
        raise ConfigError(f"there is no rank {rank} of {tp}: they count from 0")
    part: State = {}
    for name, tensor in state.items():
        dim = _split_dim(name)
        own = tensor if dim is None else tensor.chunk(tp, dim)[rank]
        part[name] = own.clone(memory_format=torch.contiguous_format)
    return part


def unshard(shards: Sequence[State], config: InternLM2Config) -> State:
    """The whole model from what its ranks hold, in the order of ranks: the inverse of `shard`.

    Raises:
        ConfigError: so many ranks cannot hold this model.
        CorruptError: the ranks do not belong together.
    """
    require_divisible(config, len(shards))
    first, *others = shards
    whole: State = {}
    for name in first:
        if any(name not in other for other in others):
            raise CorruptError(f"not every rank holds {name}: the ranks are of different models")
        parts = [rank[name] for rank in shards]
        dim = _split_dim(name)
        if dim is not None:
            whole[name] = torch.cat(parts, dim)
        elif all(torch.equal(parts[0], part) for part in parts):
            whole[name] = parts[0].clone()
        else:
            raise CorruptError(f"the ranks hold different {name}, which every rank must hold alike")
    rows, wanted = len(whole["model.tok_embeddings.weight"]), config.vocab_size
    if rows != wanted:
        raise CorruptError(f"{len(shards)} ranks hold {rows} rows of the embedding, not {wanted}: some are missing")
    return whole


def is_split(name: str) -> bool:
    """Whether a tensor is cut between tensor-parallel ranks, and not held whole by each."""
    return _split_dim(name) is not None


def _split_dim(name: str) -> int | None:
    return next((dim for end, dim in _SPLIT.items() if name.endswith(end)), None)


def require_divisible(config: InternLM2Config, tp: int) -> None:
    """Refuse a degree that a model does not fall into, with those that it does."""
    kv, ffn, vocabulary = config.num_key_value_heads, config.intermediate_size, config.vocab_size
    common = math.gcd(kv, ffn, vocabulary)
    if tp < 1 or common % tp:
        possible = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise ConfigError(
            f"a tensor-parallel degree of {tp} does not divide {kv} KV heads, an FFN of {ffn} and a vocabulary of "
            f"{vocabulary}: use {possible}"
        )
