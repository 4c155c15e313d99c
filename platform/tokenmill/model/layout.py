"""A model as a folder: config.json and model.safetensors, in InternLM2's names or in LLaMA's.

We keep InternLM2's. The release is LLaMA's (Wqkv split in three): vLLM and transformers read it without code of ours
and without `trust_remote_code`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tokenmill.errors import ConfigError, CorruptError, InputError, StepFailed
from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2, InternLM2ForCausalLM, initialize

CONFIG, WEIGHTS = "config.json", "model.safetensors"

Model = TypeVar("Model", bound=InternLM2)
State = dict[str, Tensor]


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


def save_model(model: InternLM2, folder: Path | str) -> None:
    """Write a model of ours. Only rank 0 of a training calls this, with whole tensors."""
    state = model.state_dict()
    _write(Path(folder), model.config.to_json(type(model).__name__, _dtype(state)), state)


@overload
def load_model(
    folder: Path | str, *, fresh_head: int | None = None, dtype: torch.dtype | None = None
) -> InternLM2ForCausalLM: ...


@overload
def load_model(
    folder: Path | str, cls: type[Model], *, fresh_head: int | None = None, dtype: torch.dtype | None = None
) -> Model: ...


def load_model(
    folder: Path | str,
    cls: type[InternLM2] = InternLM2ForCausalLM,
    *,
    fresh_head: int | None = None,
    dtype: torch.dtype | None = None,
) -> InternLM2:
    """Read a model in its own precision or in `dtype`.

    With `fresh_head`, a seed, only the body is read and the head drawn anew: so a reward model starts from SFT weights,
    and a critic from a reward model (report §4.2).
    """
    config, state = read_config(folder), read_state(folder)
    with torch.device("meta"):
        model = cls(config, seed=None)
    if fresh_head is not None:
        kind = next(iter(state.values())).dtype
        state = {name: tensor for name, tensor in state.items() if name.startswith("model.")}
        for name, parameter in model.named_parameters():
            if not name.startswith("model."):
                state[name] = torch.empty(parameter.shape, dtype=kind)
    _require(state, {name: parameter.shape for name, parameter in model.named_parameters()}, folder)
    model.load_state_dict(state, assign=True)
    if fresh_head is not None:
        initialize(model, fresh_head, head_only=True)
    return model.to(dtype)


def read_config(folder: Path | str) -> InternLM2Config:
    """The config of a model folder."""
    return InternLM2Config.from_json(_config_file(folder))


def read_state(folder: Path | str) -> State:
    """All tensors of a folder's safetensors files, by name.

    Copied out of the mapped file: fresh memory is aligned, on which the bits of a matrix product may depend.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise InputError(f"no weights in {folder}: expected {WEIGHTS}")
    state: State = {}
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                state |= {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise CorruptError(f"{file} is not a whole safetensors file ({error}): fetch or write it again") from error
    return state


def export_llama(
    source: Path | str,
    target: Path | str,
    *,
    rope_theta: float | None = None,
    max_position_embeddings: int | None = None,
    stop_ids: Sequence[int] = (),
) -> None:
    """Write the model in `source` as a LlamaForCausalLM.

    The RoPE base is fixed in the config and there is no `rope_scaling`: servers apply a "dynamic" one to all lengths
    alike. A variant for longer contexts is an export with its own `rope_theta`. `stop_ids` end a server's generation.
    """
    config = read_config(source)
    state = llama_state(config, read_state(source))
    values = asdict(config) | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": _dtype(state),
        "rope_theta": rope_theta or config.rope_theta,
        "max_position_embeddings": max_position_embeddings or config.max_position_embeddings,
    }
    for ours in ("rope_scaling", "bias", "reward_token_id"):
        del values[ours]
    _write(Path(target), json.dumps(values, indent=2) + "\n", state)
    if stop_ids:
        ends = {"bos_token_id": config.bos_token_id, "eos_token_id": [*stop_ids], "pad_token_id": config.pad_token_id}
        (Path(target) / "generation_config.json").write_text(json.dumps(ends, indent=2) + "\n", "utf-8")


def import_llama(source: Path | str, target: Path | str) -> InternLM2Config:
    """Write a LlamaForCausalLM in our layout; an output layer tied to the embedding becomes a matrix of its own."""
    values = json.loads(_config_file(source).read_text("utf-8"))
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    scaling = rope.get("rope_type", rope.get("type", "default"))
    biased = values.get("attention_bias") or values.get("mlp_bias")
    if values.get("model_type") != "llama" or biased or scaling != "default":
        raise ConfigError(f"{source} cannot become an InternLM2: it must be a LLaMA without biases and RoPE scaling")
    values |= {"model_type": "internlm2", "rope_scaling": None, "tie_word_embeddings": False}
    values["rope_theta"] = values.get("rope_theta") or rope.get("rope_theta", 10_000.0)
    values["num_key_value_heads"] = values.get("num_key_value_heads") or values["num_attention_heads"]
    config = InternLM2Config.from_json(json.dumps({key: value for key, value in values.items() if value is not None}))
    state = internlm2_state(config, read_state(source))
    _write(Path(target), config.to_json(dtype=_dtype(state)), state)
    return config


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
)
_WQKV, _QKV = "attention.wqkv.weight", tuple(f"self_attn.{part}_proj.weight" for part in "qkv")


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


def internlm2_state(config: InternLM2Config, llama: State) -> State:
    """LLaMA's tensors under InternLM2's names."""
    state: State = {}
    for name, tensor in llama.items():
        layer = name.removesuffix(_QKV[0])
        if layer != name:
            q, k, v = (llama[layer + part] for part in _QKV)
            state[layer + _WQKV] = merge_wqkv(q, k, v, *_heads(config))
        elif not name.endswith(_QKV):
            for ours, theirs in _NAMES:
                name = name.replace(theirs, ours)
            state[name] = tensor
    state.setdefault("output.weight", state["model.tok_embeddings.weight"].clone())
    return state


def _heads(config: InternLM2Config) -> tuple[int, int, int]:
    return config.num_key_value_heads, config.queries_per_kv, config.head_dim


def _require(state: State, shapes: dict[str, torch.Size], folder: Path | str) -> None:
    """Refuse a folder whose tensors are not exactly the model's."""
    found = {name: tensor.shape for name, tensor in state.items()}
    if found == shapes:
        return
    faults = [f"{name} is missing" for name in shapes.keys() - found.keys()] or [
        f"{name} is not part of it"
        if name not in shapes
        else f"{name} is {tuple(found[name])}, not {tuple(shapes[name])}"
        for name in found
        if found[name] != shapes.get(name)
    ]
    raise CorruptError(f"{folder} does not hold the model asked for: {min(faults)} ({len(faults)} such tensors)")


def _refuse_unsound(state: State) -> None:
    """No tensor that is empty (a share of one, under ZeRO stage 3) or not finite is ever written."""
    for name, tensor in state.items():
        fault = (
            "is empty" if not tensor.numel() else "" if tensor.isfinite().all() else "has values that are not finite"
        )
        if fault:
            raise StepFailed(f"{name} {fault}: no weights are written")


def _config_file(folder: Path | str) -> Path:
    file = Path(folder) / CONFIG
    if not file.is_file():
        raise InputError(f"no model in {folder}: expected {CONFIG}")
    return file


def _dtype(state: State) -> str:
    return str(next(iter(state.values())).dtype).removeprefix("torch.")


def _write(folder: Path, config: str, state: State) -> None:
    """The two files, weights first and under a passing name: who sees the config sees a whole model."""
    _refuse_unsound(state)
    folder.mkdir(parents=True, exist_ok=True)
    passing = folder / f"{WEIGHTS}.partial"
    # One metadata key only: with several, their order and so the file's bytes would differ between processes.
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    save_file(tensors, passing, metadata={"format": "pt"})
    passing.replace(folder / WEIGHTS)
    (folder / CONFIG).write_text(config, "utf-8")
