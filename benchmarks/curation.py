"""Curation side by side with named peers, in the same run, on the same documents.

`python benchmarks/curation.py rules|all [--json] [--documents N]`; a row is a function registered under its name. Each
gives what was measured as a flat mapping; peers and we are measured in turns, one worker, median of five, without the
time to start.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

Row = Callable[[int | None], dict[str, Any]]
ROWS: dict[str, Row] = {}


def row(function: Row) -> Row:
    """Register a row of the table under its name. It takes the number of documents, or None for its own."""
    ROWS[function.__name__] = function
    return function


def seconds(*contestants: Callable[[], object], rounds: int = 5) -> list[float]:
    """Median processor seconds of each, measured in turns so that a busy moment hits all alike.

    Processor time, not the clock's: other work on the machine is not theirs, and each has one thread.
    """
    spent: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for times, work in zip(spent, contestants, strict=True):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
    return [statistics.median(times) for times in spent]


def megabytes(texts: Sequence[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


@row
def rules(documents: int | None = None) -> dict[str, Any]:
    """Gopher's quality and repetition rules against datatrove's, on the same documents."""
    from curation_rules import compare

    return compare(documents or 400, seconds, megabytes)


@row
def pipeline(documents: int | None = None) -> dict[str, Any]:
    """The text pipeline, Clean to High-quality, ours alone, on 10 MB whatever `documents` says."""
    from curation_pipeline import measure

    return measure(10, rounds=5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", choices=[*ROWS, "all"])
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    parser.add_argument("--documents", type=int, help="documents to measure on")
    wanted = parser.parse_args()
    names = list(ROWS) if wanted.row == "all" else [wanted.row]
    found = {"machine": f"{platform.machine()}, Python {platform.python_version()}"} | {
        name: ROWS[name](wanted.documents) for name in names
    }
    if wanted.json:
        print(json.dumps(found, indent=2))
        return
    for name in names:
        print(name)
        for what, value in found[name].items():
            print(f"  {what:<60}{value:,.4g}" if isinstance(value, float) else f"  {what:<60}{value}")


if __name__ == "__main__":
    main()
