"""What the benchmarks share: a table whose rows are functions, medians of contestants that take turns, the machine's name."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

Row = Callable[..., dict[str, Any]]


class Table:
    """Rows by name, run from a command line: `python benchmarks/<file>.py ROW|all [--json] [--OPTION N]`.

    Args:
        title: what the command says of itself.
        option: the number that every row takes, by name.
        default: of it.
    """

    def __init__(self, title: str, option: str, default: int | None, what: str) -> None:
        self.title, self.option, self.default, self.what = title, option, default, what
        self.rows: dict[str, Row] = {}

    def row(self, function: Row) -> Row:
        """Register a row under its function's name."""
        self.rows[function.__name__] = function
        return function

    def main(self) -> None:
        """Run what the command line asks for and print it."""
        parser = argparse.ArgumentParser(description=self.title)
        parser.add_argument("row", choices=[*self.rows, "all"])
        parser.add_argument("--json", action="store_true", help="print JSON for scripts")
        parser.add_argument(f"--{self.option}", dest="number", type=int, default=self.default, help=self.what)
        wanted = parser.parse_args()
        names = list(self.rows) if wanted.row == "all" else [wanted.row]
        found: dict[str, Any] = {"machine": machine()} | {name: self.rows[name](wanted.number) for name in names}
        if wanted.json:
            print(json.dumps(found, indent=2))
            return
        print(found["machine"])
        for name in names:
            print(name)
            for what, value in found[name].items():
                print(f"  {what:<60}{value:,.4g}" if isinstance(value, float) else f"  {what:<60}{value}")


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


def machine(*packages: str) -> str:
    """Day, processor, Python and versions of packages: what a result is worth little without."""
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    told = [
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"{platform.machine()} {model}".strip(),
        f"Python {platform.python_version()}",
    ]
    return ", ".join([*told, *(f"{package} {version(package)}" for package in packages)])


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
