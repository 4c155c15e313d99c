"""Generated sources: problems whose answers a program knows."""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenmill.errors import InputError
from tokenmill.records import line_of

FAMILIES = ("algebra", "arithmetic", "geometry", "probability")
"""The families of reasoning-gym that are mathematics; the others want a C compiler and a plotting library to import."""


def generate(
    source: str, generator: str, tasks: list[str], options: Mapping[str, str], folder: Path
) -> Iterator[tuple[str, Path]]:
    """Write one JSONL file a task, `size` problems from `seed` on, and yield (name, path).

    Equal options give equal files; other seeds give other problems, so a test set is another seed.
    """
    if generator != "reasoning-gym":
        raise InputError(f"source {source!r}: unknown generator {generator!r}; there is: reasoning-gym")
    try:
        size, seed = int(options.get("size", "100")), int(options.get("seed", "0"))
    except ValueError:
        raise InputError(f"source {source!r}: size and seed must be whole numbers, not {dict(options)}") from None
    create_dataset = _reasoning_gym(source)
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        try:
            problems = create_dataset(task, size=size, seed=seed)
        except ValueError as unknown:
            raise InputError(f"source {source!r}: reasoning-gym cannot make {task!r}: {unknown}") from None
        path = folder / f"{task}.jsonl"
        path.write_bytes(b"".join(_line(task, problems[i]) for i in range(size)))
        yield path.name, path


def _line(task: str, problem: Mapping[str, Any]) -> bytes:
    question, answer = problem["question"].strip(), str(problem["answer"]).strip()
    record = {"text": f"Question: {question}\nAnswer: {answer}", "question": question, "answer": answer, "task": task}
    return line_of(record)


def _reasoning_gym(source: str) -> Callable[..., Any]:
    """reasoning-gym's `create_dataset`, with the mathematical families alone imported."""
    if "reasoning_gym" not in sys.modules:
        spec = find_spec("reasoning_gym")
        if spec is None or not spec.submodule_search_locations:
            raise InputError(f"source {source!r}: run `python -m pip install --no-deps reasoning-gym` to generate it")
        package = ModuleType("reasoning_gym")  # stands in for its __init__, which imports every family
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["reasoning_gym"] = package
    for family in FAMILIES:
        importlib.import_module(f"reasoning_gym.{family}")
    return importlib.import_module("reasoning_gym.factory").create_dataset
