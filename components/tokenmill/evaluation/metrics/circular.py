"""Multiple choice that no habit of choosing "A" can win: every question with its options turned round (CircularEval)."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def rotations(choices: Sequence[T], answer: int) -> list[tuple[list[T], int]]:
    """The question once for each option: its options moved up by 0, 1, …, and where the right one stands then."""
    n = len(choices)
    return [([*choices[turn:], *choices[:turn]], (answer - turn) % n) for turn in range(n)]


def circular(turns: Iterable[float]) -> float:
    """Of one question, by its turns' scores: 1 if every one is right, else 0 (Liu et al. 2023, MMBench)."""
    return float(all(score == 1 for score in turns))
