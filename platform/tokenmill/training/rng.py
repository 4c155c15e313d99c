"""Where chance stands in a rank: each keeps its own, since ranks may draw differently (dropout, sampling)."""

import random
from typing import Any

import numpy
import torch


def seed_everything(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Of Python, numpy, torch on the CPU, and on this rank's GPU where there is one.

    Numbers, strings and tensors alone: what `torch.load(weights_only=True)` reads, which runs no code of a file.
    """
    state: Any = numpy.random.get_state()
    kind, keys, *rest = state
    told = {"python": random.getstate(), "numpy": (kind, torch.tensor(keys.astype("int64")), *rest)}
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return told | {"torch": torch.get_rng_state()} | cuda


def restore_rng(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    numpy.random.set_state((kind, keys.numpy().astype("uint32"), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
