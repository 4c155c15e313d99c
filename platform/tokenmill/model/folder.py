"""A model as a folder: config.json and weights, in InternLM2's layout or in LLaMA's, whole or a part a rank.

We keep InternLM2's. The release is LLaMA's (Wqkv split in three): vLLM and transformers read it without code of ours
and without `trust_remote_code`. A tensor-parallel model has a folder `tp-<rank>-of-<n>` of weights for each rank.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, overload

import torch

from tokenmill.errors import ConfigError, CorruptError, InputError
from tokenmill.model.config import MODEL_TYPE, InternLM2Config
from tokenmill.model.layout import State, internlm2_state, llama_state
from tokenmill.model.modeling import InternLM2, InternLM2ForCausalLM, InternLM2ForRewardModel, initialize
from tokenmill.model.tensor_parallel import require_divisible, shard, unshard
from tokenmill.model.weights import MAX_SHARD_BYTES, read_state, refuse_unsound, write_state

CONFIG = "config.json"
RM_PROMPTS = "rm_prompts.yaml"
"""Of a reward model: domain → system prompt that it is to be asked under."""

Model = TypeVar("Model", bound=InternLM2)


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
    named = str((config_values(folder).get("architectures") or ["LlamaForCausalLM"])[0])
    return "InternLM2ForRewardModel" if named == _REWARD["architectures"][0] else named.replace("Llama", "InternLM2")


_REWARD: dict[str, Any] = {
    "architectures": ["LlamaForSequenceClassification"],
    "num_labels": 1,
    "id2label": {"0": "reward"},
    "label2id": {"reward": 0},
    "problem_type": "regression",  # the score as it is: of a class, servers would tell its sigmoid
}
"""What a reward model is in LLaMA's layout: transformers and vLLM read one label's logit at the last token."""


def export_llama(
    source: Path | str,
    target: Path | str,
    *,
    stop_ids: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the model in `source` as LLaMA's of its kind, in its own precision or in `dtype`.

    A language model becomes a LlamaForCausalLM, a reward model a LlamaForSequenceClassification of one label.

    The RoPE base is fixed in the config and there is no `rope_scaling`: servers apply a "dynamic" one to all lengths
    alike. A variant for longer contexts is a model of its own (`deployment.extend`). `stop_ids` end a server's generation.

    Raises:
        InputError: there is no model in `source`, or a file of it is missing.
    """
    config, ours = read_checkpoint(source)
    judges = "v_head.weight" in ours
    state = llama_state(config, {name: tensor.to(dtype) for name, tensor in ours.items()})
    values = asdict(config) | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": _dtype(state),
    }
    values |= _REWARD if judges else {}
    for own in ("rope_scaling", "bias", *(() if judges else ("reward_token_id",))):
        del values[own]
    _write(Path(target), json.dumps(values, indent=2) + "\n", state, max_shard_bytes)
    if stop_ids:
        write_generation_config(target, config, stop_ids)


def reshard(source: Path | str, target: Path | str, tp: int, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write the model in `source`, whole or of any tensor-parallel degree, for `tp` ranks; 1 writes a whole model.

    Raises:
        ConfigError: the model does not fall into `tp` equal parts.
    """
    config, state = read_checkpoint(source)
    require_divisible(config, tp)
    architecture = _architecture(source)
    if tp == 1:
        write_checkpoint(target, config, state, architecture=architecture, max_shard_bytes=max_shard_bytes)
        return
    target = Path(target)
    for rank in range(tp):
        folder = target / f"tp-{rank}-of-{tp}"
        folder.mkdir(parents=True, exist_ok=True)
        write_state(folder, shard(state, config, tp, rank), max_shard_bytes)
    (target / CONFIG).write_text(config.to_json(architecture, _dtype(state)), "utf-8")


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
    refuse_unsound(state)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    write_state(folder, state, max_shard_bytes)
    (folder / CONFIG).write_text(config, "utf-8")
