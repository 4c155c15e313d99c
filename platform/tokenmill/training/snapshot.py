"""A copy of an engine's state in memory: all that a checkpoint makes a step wait for."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch


def collect(engine: Any) -> dict[str, Any]:
    """What DeepSpeed would write on this rank: file name → state, its tensors by reference.

    DeepSpeed decides what a checkpoint is, so its universal checkpoint can regroup it; only the writing is ours.
    """
    catcher = _Catcher()
    usual, engine.checkpoint_engine = engine.checkpoint_engine, catcher
    engine._copy_recovery_script = lambda _: None  # scripts that turn a checkpoint into weights: we publish weights
    try:
        engine.save_checkpoint("nowhere", tag="none", save_latest=False)
    finally:
        engine.checkpoint_engine = usual
    return catcher.files


class _Catcher:
    """What of DeepSpeed's checkpoint engine saving asks for."""

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}

    def save(self, state_dict: Any, path: str) -> None:
        self.files[Path(path).name] = state_dict

    def create(self, info: Any) -> None: ...

    def makedirs(self, path: str, exist_ok: bool = False) -> None: ...

    def commit(self, info: Any) -> None: ...

    def is_decoupled(self) -> bool:
        return False

    def preserves_storage_sharing(self) -> bool:
        return False

    def is_data_parallel_writer(self, rank: int) -> bool:
        return rank == 0


class Memory:
    """Room for one copy of a state. It is kept for the next one: fresh pages cost more than copying into used ones."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[torch.Tensor]] = defaultdict(list)
        self._used: dict[tuple[torch.device, int], torch.Tensor] = {}

    def copy(self, state: Any) -> Any:
        """The state with its tensors on the CPU, copied; those that share storage do so again.

        It is valid until `release`. Containers are copied too; what else there is (numbers, names) does not change.
        """
        made = self._copy(state)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return made

    def release(self) -> None:
        """Let the next copy have the room."""
        for room in self._used.values():
            self._free[room.numel()].append(room)
        self._used = {}

    def _copy(self, item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return self._tensor(item.detach())
        if isinstance(item, dict):
            copied = ((key, self._copy(value)) for key, value in item.items())
            return dict(copied) if type(item) is dict else type(item)(copied)
        if type(item) in (list, tuple):
            return type(item)(self._copy(value) for value in item)
        return item

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        place = (tensor.device, storage.data_ptr())
        if place not in self._used:
            self._used[place] = self._room(storage.nbytes())
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            self._used[place].copy_(whole, non_blocking=True)
        room = self._used[place].untyped_storage()
        view = torch.empty(0, dtype=tensor.dtype)
        return view.set_(room, tensor.storage_offset(), tensor.size(), tensor.stride())

    def _room(self, size: int) -> torch.Tensor:
        free = self._free[size]
        return free.pop() if free else torch.empty(size, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
