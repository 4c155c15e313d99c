"""A model as a folder: config.json and safetensors, in InternLM2's names or in LLaMA's, whole or a part a rank.

We keep InternLM2's. The release is LLaMA's (Wqkv split in three): vLLM and transformers read it without code of ours
and without `trust_remote_code`. Weights lie in `model.safetensors` or, beyond `max_shard_bytes`, in numbered files with
Hugging Face's index. A tensor-parallel checkpoint has a folder `tp-<rank>-of-<n>` of such files for each rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tokenmill.errors import ConfigError, CorruptError, InputError, StepFailed
from tokenmill.model.config import MODEL_TYPE, InternLM2Config
from tokenmill.model.modeling import InternLM2, InternLM2ForCausalLM, InternLM2ForRewardModel, initialize

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9
"""Of one weights file, as transformers cuts them."""

Model = TypeVar("Model", bound=InternLM2)
State = dict[str, Tensor]


# ---- Wqkv ------------------------------------------------------------------------------------------------------------


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


# ---- models ----------------------------------------------------------------------------------------------------------


def save_model(model: InternLM2, folder: Path | str, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write a model of ours, whole. Only rank 0 of a training calls this, with whole tensors."""
    write_checkpoint(
        folder, model.config, model.state_dict(), architecture=type(model).__name__, max_shard_bytes=max_shard_bytes
    )


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
    """Read a model, in either layout, in its own precision or in `dtype`.

    With `fresh_head`, a seed, only the body is read and the head drawn anew: so a reward model starts from SFT weights,
    and a critic from a reward model (report §4.2).

    Raises:
        InputError: there is no model, or a file of it is missing.
        ConfigError: it is not of a kind that InternLM2 can hold.
        CorruptError: its tensors are not those that its config asks for.
    """
    config, state = read_checkpoint(folder)
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


# ---- checkpoints: a config and tensors under InternLM2's names -------------------------------------------------------


def read_config(folder: Path | str) -> InternLM2Config:
    """The config of a model folder; LLaMA's becomes the InternLM2 that computes the same."""
    return _as_internlm2(config_values(folder), folder)


def read_checkpoint(folder: Path | str) -> tuple[InternLM2Config, State]:
    """Config and tensors of a folder in either layout, whole or tensor-parallel, under InternLM2's names.

    Raises:
        InputError: there is no model, or a file of it is missing.
        ConfigError: it is a LLaMA with biases, RoPE scaling or another activation, or another kind of model.
        CorruptError: a file is damaged, or the tensors are not those that the config asks for.
    """
    values = config_values(folder)
    config = _as_internlm2(values, folder)
    if ranks := tensor_parallel_folders(folder):
        state = unshard([read_state(rank) for rank in ranks], config)
    else:
        state = read_state(folder)
    if values.get("model_type") == "llama":
        state = internlm2_state(config, state, tied=bool(values.get("tie_word_embeddings")))
    _require(
        state, _shapes(InternLM2ForRewardModel if "v_head.weight" in state else InternLM2ForCausalLM, config), folder
    )
    return config, state


def write_checkpoint(
    folder: Path | str,
    config: InternLM2Config,
    state: State,
    *,
    architecture: str = "InternLM2ForCausalLM",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a model in InternLM2's layout. `architecture` is the class that config.json names."""
    _write(Path(folder), config.to_json(architecture, _dtype(state)), state, max_shard_bytes)


def copy_checkpoint(
    source: Path | str,
    target: Path | str,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the model in `source`, of either layout, whole and in InternLM2's; in its own precision or in `dtype`."""
    config, state = read_checkpoint(source)
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    write_checkpoint(target, config, state, architecture=_architecture(source), max_shard_bytes=max_shard_bytes)


def _architecture(folder: Path | str) -> str:
    """The class of ours that a folder's config.json names, or whose LLaMA it does."""
    return (config_values(folder).get("architectures") or ["LlamaForCausalLM"])[0].replace("Llama", "InternLM2")


def export_llama(
    source: Path | str,
    target: Path | str,
    *,
    rope_theta: float | None = None,
    max_position_embeddings: int | None = None,
    stop_ids: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the model in `source` as a LlamaForCausalLM, in its own precision or in `dtype`.

    The RoPE base is fixed in the config and there is no `rope_scaling`: servers apply a "dynamic" one to all lengths
    alike. A variant for longer contexts is an export with its own `rope_theta`. `stop_ids` end a server's generation.

    Raises:
        InputError: there is no language model in `source`, or a file of it is missing.
    """
    config, ours = read_checkpoint(source)
    if "output.weight" not in ours:
        raise InputError(
            f"{source} is no language model, which is all that a LLaMA of this name can be: it has no output"
        )
    state = llama_state(config, {name: tensor.to(dtype) for name, tensor in ours.items()})
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
    for own in ("rope_scaling", "bias", "reward_token_id"):
        del values[own]
    _write(Path(target), json.dumps(values, indent=2) + "\n", state, max_shard_bytes)
    if stop_ids:
        write_generation_config(target, config, stop_ids)


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


def write_generation_config(folder: Path | str, config: InternLM2Config, stop_ids: Sequence[int]) -> None:
    """What transformers and vLLM end a generation at, unless a request says otherwise."""
    ends = {"bos_token_id": config.bos_token_id, "eos_token_id": [*stop_ids], "pad_token_id": config.pad_token_id}
    (Path(folder) / "generation_config.json").write_text(json.dumps(ends, indent=2) + "\n", "utf-8")


def _as_internlm2(values: dict[str, Any], folder: Path | str) -> InternLM2Config:
    """The InternLM2 that computes what a config.json describes."""
    kind = values.get("model_type")
    if kind in (MODEL_TYPE, "llama") and (lost := [name for name in _DIMENSIONS if not values.get(name)]):
        raise CorruptError(f"{Path(folder) / CONFIG} does not say the model's {lost[0]}: fetch or write it again")
    if kind == MODEL_TYPE:
        return InternLM2Config.from_json(json.dumps(values))
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    scaling = rope.get("rope_type", rope.get("type", "default"))
    biased = values.get("attention_bias") or values.get("mlp_bias")
    if kind != "llama" or biased or scaling != "default" or values.get("hidden_act", "silu") != "silu":
        raise ConfigError(
            f"{folder} cannot become an InternLM2: it must be an InternLM2, or a LLaMA with SiLU and without biases and "
            f"RoPE scaling; its config.json says model_type {kind!r}"
        )
    known = {key: value for key, value in values.items() if value is not None}
    known.setdefault("num_key_value_heads", known["num_attention_heads"])
    ends = known.get("eos_token_id", 2)
    ends = ends if isinstance(ends, list) else [ends]
    known |= {"model_type": MODEL_TYPE, "tie_word_embeddings": False, "eos_token_id": ends[0]}
    known["rope_theta"] = known.get("rope_theta") or rope.get("rope_theta", 10_000.0)
    known.pop("rope_scaling", None)
    known.setdefault("bos_token_id", ends[0])
    known.setdefault("pad_token_id", ends[0])
    return InternLM2Config.from_json(json.dumps(known))


_DIMENSIONS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


# ---- LLaMA's names ---------------------------------------------------------------------------------------------------

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
_COMPUTED = "rotary_emb.inv_freq"
"""What LLaMA files of 2023 hold although it follows from the config."""


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


# ---- files -----------------------------------------------------------------------------------------------------------


def read_state(folder: Path | str) -> State:
    """All tensors of a folder, by the names that its files give them: from model.safetensors, or as the index says.

    Copied out of the mapped file: fresh memory is aligned, on which the bits of a matrix product may depend.
    """
    state: State = {}
    for file, names in _files(Path(folder)).items():
        with _opened(file, names) as opened:
            for name in names or opened.keys():
                state[name] = opened.get_tensor(name).clone()
    return state


def read_shapes(folder: Path | str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype (as safetensors writes it, e.g. BF16) of every tensor of a folder; no tensor is read."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for file, names in _files(Path(folder)).items():
        with _opened(file, names) as opened:
            for name in names or opened.keys():
                tensor = opened.get_slice(name)
                found[name] = (tuple(tensor.get_shape()), tensor.get_dtype())
    return found


def _files(folder: Path) -> dict[Path, list[str]]:
    """A folder's weights files, each with the tensors that the index looks for in it; without an index: all."""
    index = folder / INDEX
    if not index.is_file():
        if (folder / WEIGHTS).is_file():
            return {folder / WEIGHTS: []}
        if some := sorted(folder.glob("*.safetensors")):
            raise InputError(f"{folder} has {some[0].name} and neither {WEIGHTS} nor {INDEX}: fetch the index too")
        raise InputError(f"no weights in {folder}: expected {WEIGHTS} or {INDEX}")
    try:
        places = json.loads(index.read_text("utf-8"))["weight_map"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CorruptError(f"{index} is not an index of weights: fetch or write it again") from None
    files: dict[Path, list[str]] = {}
    for name, file in places:
        if Path(file).name != file:
            raise CorruptError(f"{index} places {name} in {file!r}, which is not a file of its folder")
        files.setdefault(folder / file, []).append(name)
    for path, names in files.items():
        if not path.is_file():
            raise InputError(f"{folder} lacks {path.name}, which its index names for {len(names)} tensors: fetch it")
    return dict(sorted(files.items()))


@contextmanager
def _opened(file: Path, names: Sequence[str]) -> Iterator[Any]:
    """A safetensors file that holds all of `names`."""
    try:
        with safe_open(file, "pt") as opened:
            if lost := set(names).difference(opened.keys()):
                raise CorruptError(f"{file} does not hold {min(lost)}, which its index says it does: fetch both again")
            yield opened
    except SafetensorError as error:
        raise CorruptError(f"{file} is not a whole safetensors file ({error}): fetch or write it again") from error


def _shapes(cls: type[InternLM2], config: InternLM2Config) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in cls(config, seed=None).named_parameters()}


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


def config_values(folder: Path | str) -> dict[str, Any]:
    """A folder's config.json as it is."""
    file = Path(folder) / CONFIG
    if not file.is_file():
        raise InputError(f"no model in {folder}: expected {CONFIG}")
    try:
        return dict(json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError):
        raise CorruptError(f"{file} is not a JSON object: fetch or write it again") from None


def _dtype(state: State) -> str:
    return str(next(iter(state.values())).dtype).removeprefix("torch.")


def _write(folder: Path, config: str, state: State, max_shard_bytes: int) -> None:
    """Weights first and under passing names, the config last: who sees the config sees a whole model."""
    _refuse_unsound(state)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    _write_state(folder, state, max_shard_bytes)
    (folder / CONFIG).write_text(config, "utf-8")


def _write_state(folder: Path, state: State, max_shard_bytes: int) -> None:
    """The weights files of a folder, in place of any that it has."""
    groups = _groups(state, max_shard_bytes)
    files = (
        {WEIGHTS: groups[0]}
        if len(groups) == 1
        else {f"model-{n:05}-of-{len(groups):05}.safetensors": names for n, names in enumerate(groups, 1)}
    )
    for file, names in files.items():
        # One metadata key only: with several, their order and so the file's bytes would differ between processes.
        tensors = {name: state[name].detach().contiguous() for name in names}
        save_file(tensors, folder / f"{file}.partial", metadata={"format": "pt"})
    for old in (folder / INDEX, *folder.glob("model*.safetensors")):
        old.unlink(missing_ok=True)
    for file in files:
        (folder / f"{file}.partial").replace(folder / file)
    if len(files) > 1:
        places = {name: file for file, names in files.items() for name in names}
        total = {"total_size": sum(tensor.nbytes for tensor in state.values())}
        index = {"metadata": total, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _groups(state: State, max_bytes: int) -> list[list[str]]:
    """The tensors' names by file, in their order; one that is larger than a file may be has a file of its own."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in state.items():
        if groups[-1] and size + tensor.nbytes > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor.nbytes
    return groups


# ---- tensor parallelism ----------------------------------------------------------------------------------------------

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
    _require_divisible(config, tp)
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
    _require_divisible(config, len(shards))
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


def reshard(source: Path | str, target: Path | str, tp: int, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write the model in `source`, whole or of any tensor-parallel degree, for `tp` ranks; 1 writes a whole model.

    Raises:
        ConfigError: the model does not fall into `tp` equal parts.
    """
    config, state = read_checkpoint(source)
    _require_divisible(config, tp)
    architecture = (config_values(source).get("architectures") or ["LlamaForCausalLM"])[0].replace("Llama", "InternLM2")
    if tp == 1:
        write_checkpoint(target, config, state, architecture=architecture, max_shard_bytes=max_shard_bytes)
        return
    target = Path(target)
    for rank in range(tp):
        folder = target / f"tp-{rank}-of-{tp}"
        folder.mkdir(parents=True, exist_ok=True)
        _write_state(folder, shard(state, config, tp, rank), max_shard_bytes)
    (target / CONFIG).write_text(config.to_json(_architecture(source), _dtype(state)), "utf-8")


def tensor_parallel_folders(folder: Path | str) -> list[Path]:
    """The ranks' folders of a tensor-parallel checkpoint, in the order of ranks; none: it is whole."""
    found = sorted(Path(folder).glob("tp-*-of-*"))
    if not found:
        return []
    ranks = found[0].name.rpartition("-")[2]
    wanted = [Path(folder) / f"tp-{rank}-of-{ranks}" for rank in range(int(ranks) if ranks.isdigit() else 0)]
    if set(found) != set(wanted):
        names = ", ".join(path.name for path in found)
        raise InputError(f"{folder} does not hold every rank of one tensor-parallel checkpoint: it has {names}")
    return wanted


def is_split(name: str) -> bool:
    """Whether a tensor is cut between tensor-parallel ranks, and not held whole by each."""
    return _split_dim(name) is not None


def _split_dim(name: str) -> int | None:
    return next((dim for end, dim in _SPLIT.items() if name.endswith(end)), None)


def _require_divisible(config: InternLM2Config, tp: int) -> None:
    kv, ffn, vocabulary = config.num_key_value_heads, config.intermediate_size, config.vocab_size
    common = math.gcd(kv, ffn, vocabulary)
    if tp < 1 or common % tp:
        possible = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise ConfigError(
            f"a tensor-parallel degree of {tp} does not divide {kv} KV heads, an FFN of {ffn} and a vocabulary of "
            f"{vocabulary}: use {possible}"
        )
