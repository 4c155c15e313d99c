"""Doubling: a number added to itself."""

from .addition import add


def double(number: int) -> int:
    """Twice a number."""
    return add(number, number)
