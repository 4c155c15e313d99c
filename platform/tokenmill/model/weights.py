"""Weights in safetensors files: `model.safetensors` or, beyond a size, numbered files with Hugging Face's index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tokenmill.errors import CorruptError, InputError, StepFailed
from tokenmill.model.layout import State

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9
"""Of one weights file, as transformers cuts them."""


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


def write_state(folder: Path, state: State, max_shard_bytes: int) -> None:
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


def refuse_unsound(state: State) -> None:
    """No tensor that is empty (a share of one, under ZeRO stage 3) or not finite is ever written."""
    for name, tensor in state.items():
        fault = (
            "is empty" if not tensor.numel() else "" if tensor.isfinite().all() else "has values that are not finite"
        )
        if fault:
            raise StepFailed(f"{name} {fault}: no weights are written")
