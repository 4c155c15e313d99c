"""LoRA (Hu et al. 2021): W stays as it is, and W + α/r · B A is learned through two thin matrices.

What leaves a training is the merged model, which everybody reads, and beside it the adapter in PEFT's files under LLaMA's
names, so that vLLM and PEFT put it on the exported model. The modules are our own: PEFT would rename every parameter of the
model, and with it what checkpoints, exports and digests are made of; a test holds the files and the arithmetic to PEFT.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tokenmill.errors import ConfigError, CorruptError, InputError
from tokenmill.model.folder import read_checkpoint, save_model, write_checkpoint
from tokenmill.model.layout import State, internlm2_state, llama_state
from tokenmill.model.linear import Linear, linear
from tokenmill.model.modeling import InternLM2

if TYPE_CHECKING:
    from tokenmill.training.settings import LoRAConfig

ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter", "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""What PEFT's wrapping puts before every name."""


class LoRALinear(Linear):
    """A frozen linear map and its adapter: x W ᵀ + α/r · dropout(x) Aᵀ Bᵀ."""

    def __init__(self, of: Linear, config: LoRAConfig, generator: torch.Generator) -> None:
        """Around `of`, whose weight it takes over. A is drawn as PEFT draws it, B is zero: at first nothing changes."""
        with torch.device("meta"):
            super().__init__(of.in_features, of.out_features)
        self.weight = of.weight
        bound = 1 / math.sqrt(of.in_features)  # Kaiming's, for a = √5
        down = torch.empty(config.rank, of.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_a = nn.Parameter(down.to(of.weight))
        self.lora_b = nn.Parameter(of.weight.new_zeros(of.out_features, config.rank))
        self.scale, self.dropout = config.alpha / config.rank, config.dropout

    def forward(self, x: Tensor) -> Tensor:
        small = linear(F.dropout(x, self.dropout, self.training), self.lora_a)
        return linear(x, self.weight) + self.scale * linear(small, self.lora_b)

    def merged(self) -> Tensor:
        """W + α/r · B A, added up in fp32."""
        return added(self.weight, self.lora_a, self.lora_b, self.scale)


def added(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """A weight with an adapter's product added, in the weight's own precision."""
    return (weight.detach().float() + scale * (up.detach().float() @ down.detach().float())).to(weight.dtype)


def add_adapters(model: InternLM2, config: LoRAConfig, seed: int) -> None:
    """Freeze the model and give every linear map that `targets` names an adapter, drawn from the seed."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, module in list(model.model.named_modules()):
        parent, _, own = name.rpartition(".")
        if own in config.targets and isinstance(module, Linear):
            setattr(model.model.get_submodule(parent), own, LoRALinear(module, config, generator))


def trainable(model: InternLM2, config: LoRAConfig, seed: int) -> Callable[[InternLM2, Path], None]:
    """Let of a model be trained what the config says, all or adapters; returns what writes it then."""
    if not config.rank:
        return save_model
    add_adapters(model, config, seed)
    return save_merged


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """The adapted linear maps by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear))


def save_merged(model: InternLM2, folder: Path) -> None:
    """Write the model with its adapters added, as `save_model` does, and the adapter beside it."""
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith((".lora_a", ".lora_b"))}
    for name, module in adapters(model):
        state[f"{name}.weight"] = module.merged()
    write_checkpoint(folder, model.config, state, architecture=type(model).__name__)
    save_adapter(model, folder / ADAPTER)


def save_adapter(model: InternLM2, folder: Path) -> None:
    """Write the adapter as PEFT does, for the model in LLaMA's layout.

    A part of Wqkv becomes three, which share A and have each their rows of B: that is exactly the same map.
    """
    tensors: State = {}
    found = dict(adapters(model))
    for name, module in found.items():
        for theirs, up in llama_state(model.config, {f"{name}.weight": module.lora_b.detach()}).items():
            path = _PREFIX + theirs.removesuffix(".weight")
            tensors |= {
                f"{path}.lora_A.weight": module.lora_a.detach().clone(),
                f"{path}.lora_B.weight": up.contiguous(),
            }
    some = next(iter(found.values()))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    told = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": len(some.lora_a),
        "lora_alpha": some.scale * len(some.lora_a),
        "lora_dropout": some.dropout,
        "bias": "none",
        "target_modules": sorted({name.split(".")[-3] for name in tensors}),
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(told, indent=2) + "\n", "utf-8")


# ---- adapters of anybody's ---------------------------------------------------------------------------------------------


def merge_adapter(base: Path, adapter: Path, target: Path) -> int:
    """Write the model in `base` with a PEFT adapter added, in InternLM2's layout; returns how many matrices it changed.

    The adapter may name its matrices as LLaMA does or as InternLM2 does, whatever the base's own layout is.

    Raises:
        InputError: there is no adapter in the folder, or it is not for this model.
        ConfigError: it is of a kind that is no sum of matrices.
    """
    scale, pairs = _read_adapter(adapter)
    config, ours = read_checkpoint(base)
    llama = llama_state(config, ours)
    changed: dict[str, Tensor] = {}
    for path, (down, up) in pairs.items():
        name = f"{path}.weight"
        weight = ours.get(name, llama.get(name))
        if weight is None or weight.shape != (len(up), down.shape[1]):
            raise InputError(
                f"{adapter} is not for the model in {base}: it adapts {path} of {len(up)} × {down.shape[1]}"
            )
        changed[name] = added(weight, down, up, scale)
    theirs = {name: tensor for name, tensor in changed.items() if name not in ours}
    state = (internlm2_state(config, llama | theirs) if theirs else ours) | {
        name: tensor for name, tensor in changed.items() if name in ours
    }
    write_checkpoint(target, config, state)
    return len(changed)


def _read_adapter(folder: Path) -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    """Scale, and module → (A, B)."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is no adapter: there is no {name}, which PEFT's save_pretrained writes")
    told: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    odd = [
        name
        for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")
        if told.get(name)
    ]
    if told.get("peft_type") != "LORA" or told.get("bias", "none") != "none" or odd:
        what = odd[0] if odd else f"peft_type {told.get('peft_type')}, bias {told.get('bias')}"
        raise ConfigError(
            f"{folder} is no plain LoRA ({what}), which is all that can be merged here: merge it with PEFT"
        )
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    ends = ".lora_A.weight", ".lora_B.weight"
    paths = {name.removesuffix(end) for name in tensors for end in ends if name.endswith(end)}
    if (
        not paths
        or any(f"{path}{end}" not in tensors for path in paths for end in ends)
        or len(tensors) != 2 * len(paths)
    ):
        raise CorruptError(f"{folder / ADAPTER_WEIGHTS} does not hold an A and a B for each module, and nothing else")
    pairs = {path.removeprefix(_PREFIX): (tensors[path + ends[0]], tensors[path + ends[1]]) for path in sorted(paths)}
    return told["lora_alpha"] / told["r"], pairs
