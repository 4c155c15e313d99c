"""Suites by name, as shell patterns say them: `choice/*`."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase


def matching(patterns: Sequence[str], suites: Iterable[str]) -> list[str]:
    """The suites that match a pattern."""
    return [name for name in sorted(suites) if any(fnmatchcase(name, pattern) for pattern in patterns)]


def missing(patterns: Iterable[str], suites: Iterable[str]) -> list[str]:
    """Suites that are named in full, and are not there."""
    known = set(suites)
    return [pattern for pattern in patterns if not set(pattern) & set("*?[") and pattern not in known]


def strictest(bounds: Mapping[str, float], suites: Iterable[str]) -> dict[str, float]:
    """Suite → the lowest bound of all patterns that it matches."""
    matched = {suite: [b for pattern, b in bounds.items() if fnmatchcase(suite, pattern)] for suite in suites}
    return {suite: min(found) for suite, found in matched.items() if found}
