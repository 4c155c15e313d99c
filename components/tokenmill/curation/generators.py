"""Generated sources: problems whose answers a program knows, as files."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from tokenmill.errors import InputError
from tokenmill.problems import problems
from tokenmill.records import Record, line_of


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
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        try:
            made = [_line(problem) for problem in problems(task, size, seed)]
        except InputError as wrong:
            raise InputError(f"source {source!r}: {wrong}") from None
        path = folder / f"{task}.jsonl"
        path.write_bytes(b"".join(made))
        yield path.name, path


def _line(problem: Record) -> bytes:
    return line_of({"text": f"Question: {problem['question']}\nAnswer: {problem['answer']}"} | problem)
