"""Curation side by side with named peers, in the same run, on the same documents.

`python benchmarks/curation.py rules|all [--json] [--documents N]`; a row is a function registered under its name. Each
gives what was measured as a flat mapping; peers and we are measured in turns, one worker, median of five, without the
time to start.
"""

from collections.abc import Sequence
from typing import Any

from rows import Table, seconds

TABLE = Table(__doc__, "documents", None, "documents to measure on")


def megabytes(texts: Sequence[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


@TABLE.row
def rules(documents: int | None = None) -> dict[str, Any]:
    """Gopher's quality and repetition rules against datatrove's, on the same documents."""
    from curation_rules import compare

    return compare(documents or 400, seconds, megabytes)


@TABLE.row
def pipeline(documents: int | None = None) -> dict[str, Any]:
    """The text pipeline, Raw to Clean to High-quality, ours alone, on 100 MB whatever `documents` says."""
    from curation_pipeline import measure

    return measure(100, rounds=3)


if __name__ == "__main__":
    TABLE.main()
