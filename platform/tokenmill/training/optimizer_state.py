"""Adam's state from one stage to the next: moments and fp32 weights by parameter, whatever ranks and ZeRO stage wrote them.

Pretraining changes context, data and RoPE base between its stages and keeps its optimizer (spec §16.5): with fresh moments the
first steps would be taken at the full rate from a handful of gradients.
"""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from tokenmill.errors import InputError
from tokenmill.training.engine import adam_of

MOMENTS = ("exp_avg", "exp_avg_sq")
SETTINGS = "optimizer.json"
FILE_BYTES = 4 << 30
"""Held in memory at once on rank 0, while the whole is gathered tensor by tensor."""


def save_optimizer(engine: Any, model: torch.nn.Module, folder: Path) -> None:
    """Write the optimizer's state from rank 0; every rank takes part.

    Args:
        engine: DeepSpeed's, after at least one step.
    """
    held: dict[str, torch.Tensor] = {}
    files = size = 0
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensor in _gathered(engine, model):
        if dist.get_rank():
            continue
        held[name] = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        size += held[name].nbytes
        if size >= FILE_BYTES:
            save_file(held, folder / f"optimizer-{files:05d}.safetensors")
            held, files, size = {}, files + 1, 0
    if dist.get_rank() == 0:
        save_file(held, folder / f"optimizer-{files:05d}.safetensors")
        steps = max(float(state["step"]) for state in adam_of(engine).state.values() if "step" in state)
        (folder / SETTINGS).write_text(json.dumps({"steps": steps}) + "\n", "utf-8")


def load_optimizer(engine: Any, model: torch.nn.Module, folder: Path) -> None:
    """Go on with the state that `save_optimizer` wrote, in every rank, before the first step; `model` has the weights.

    Raises:
        InputError: it is another model's.
    """
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    places = {name: path for path in sorted(folder.glob("*.safetensors")) for name in _names(path)}
    _begin_states(engine, steps=float(json.loads((folder / SETTINGS).read_text("utf-8"))["steps"]))
    whole = _unsharded(engine)
    for name, parameter in _trained(model):
        weight, *moments = (_read(places, f"{part}/{name}", parameter) for part in ("weight", *MOMENTS))
        if parameter in whole:
            master, state = whole[parameter]
            master.data.copy_(weight)
            for moment, value in zip(MOMENTS, moments, strict=True):
                state[moment].copy_(value)
            continue
        safe_set_full_fp32_param(parameter, weight)
        for moment, value in zip(MOMENTS, moments, strict=True):
            safe_set_full_optimizer_state(parameter, value, moment)


def _trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _gathered(engine: Any, model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the state, whole, in one order on all ranks."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    whole = _unsharded(engine)
    _link_states(engine)
    for name, parameter in _trained(model):
        master, state = whole.get(parameter, (None, {}))
        yield f"weight/{name}", safe_get_full_fp32_param(parameter) if master is None else master
        for moment in MOMENTS:
            yield f"{moment}/{name}", state[moment] if state else safe_get_full_optimizer_state(parameter, moment)


def _unsharded(engine: Any) -> dict[torch.Tensor, tuple[torch.Tensor, dict[str, Any]]]:
    """Parameter → its fp32 weight and AdamW's state of it, at ZeRO stage 0; nothing where DeepSpeed shards them."""
    if engine.zero_optimization_stage():
        return {}
    optimizer, state = engine.optimizer, adam_of(engine).state
    if not hasattr(optimizer, "fp32_groups"):  # fp32 weights are their own
        return {p: (p, state[p]) for group in optimizer.param_groups for p in group["params"]}
    pairs = zip(chain(*optimizer.fp16_groups), chain(*optimizer.fp32_groups), strict=True)
    return {half: (master, state[master]) for half, master in pairs}


def _begin_states(engine: Any, steps: float) -> None:
    """AdamW's states as after `steps` steps, with moments of zero: DeepSpeed makes them only when it takes a step."""
    optimizer, adam = engine.optimizer, adam_of(engine)
    flat = getattr(optimizer, "fp32_partitioned_groups_flat", None)  # stage 3
    flat = flat or getattr(optimizer, "single_partition_of_fp32_groups", None)  # 1 and 2
    flat = flat or getattr(optimizer, "fp32_groups", None) or [group["params"] for group in adam.param_groups]  # 0
    for tensor in chain(*flat) if isinstance(flat[0], list) else flat:
        moments = {moment: torch.zeros_like(tensor) for moment in MOMENTS}
        adam.state[tensor] = {"step": torch.tensor(steps), **moments}
    _link_states(engine)


def _link_states(engine: Any) -> None:
    """Let DeepSpeed find states by parameter. At stages 1 and 2 it links them once, after the first group's first step,
    where those of the other groups are not there yet."""
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _names(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


def _read(places: dict[str, Path], name: str, parameter: torch.Tensor) -> torch.Tensor:
    shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
    if name not in places:
        raise InputError(f"the optimizer's state has no {name}: it is another model's")
    with safe_open(places[name], "pt") as file:
        found: torch.Tensor = file.get_tensor(name)
    if tuple(found.shape) != shape:
        raise InputError(
            f"the optimizer's state has {name} of shape {tuple(found.shape)}, not {shape}: it is another model's"
        )
    return found.to(parameter.device)
