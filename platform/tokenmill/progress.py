"""A progress bar where a person looks (a terminal), silence elsewhere: logs and events tell the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bar(Protocol):
    def advance(self, amount: float = 1) -> None: ...


class _Silent:
    def advance(self, amount: float = 1) -> None:
        pass


class _Rich:
    def __init__(self, live: Progress, task: TaskID) -> None:
        self.live, self.task = live, task

    def advance(self, amount: float = 1) -> None:
        self.live.advance(self.task, amount)


@contextmanager
def progress(total: float, what: str) -> Iterator[Bar]:
    """Show `what` with `total` units of work on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as live:
        yield _Rich(live, live.add_task(what, total=total))
