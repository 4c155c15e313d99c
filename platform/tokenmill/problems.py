"""Problems whose answers a program knows: reasoning-gym's, drawn by a seed.

Equal seeds give equal problems. Problem i of a draw comes from `seed + i`: other problems of the same kind want a seed further
away than the draw is long.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from tokenmill.errors import InputError
from tokenmill.records import Record

FAMILIES = ("algebra", "arithmetic", "geometry", "probability")
"""The families of reasoning-gym that are mathematics; the others want a C compiler and a plotting library to import."""


def problems(task: str, size: int, seed: int) -> Iterator[Record]:
    """`size` problems of a task: question, answer, task. InputError where it cannot be made."""
    create_dataset = _reasoning_gym()
    try:
        made = create_dataset(task, size=size, seed=seed)
    except ValueError as unknown:
        raise InputError(f"reasoning-gym cannot make {task!r}: {unknown}") from None
    for number in range(size):
        question, answer = (str(made[number][name]).strip() for name in ("question", "answer"))
        yield {"question": question, "answer": answer, "task": task}


def _reasoning_gym() -> Callable[..., Any]:
    """reasoning-gym's `create_dataset`, with the mathematical families alone imported."""
    if "reasoning_gym" not in sys.modules:
        spec = find_spec("reasoning_gym")
        if spec is None or not spec.submodule_search_locations:
            raise InputError("run `python -m pip install --no-deps reasoning-gym` to generate problems")
        package = ModuleType("reasoning_gym")  # stands in for its __init__, which imports every family
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["reasoning_gym"] = package
    for family in FAMILIES:
        importlib.import_module(f"reasoning_gym.{family}")
    return importlib.import_module("reasoning_gym.factory").create_dataset
