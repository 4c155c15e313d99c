"""Where the time of a step goes, and the memory that it took."""

from collections import Counter
from time import perf_counter
from typing import Any

import psutil
import torch

STEP_PHASES = ("data", "forward", "backward", "optimizer", "metrics")
"""Of a step itself; evaluation and checkpoints lie between steps."""


class Stopwatch:
    """Seconds by phase of a step.

    A GPU works on while Python goes ahead, so there a phase's borders are events in the GPU's own stream, which cost a
    microsecond and wait for nothing until the end of the step.
    """

    def __init__(self) -> None:
        self.cuda = torch.cuda.is_available()
        self._borders: list[tuple[str, Any]] = []

    def begin(self, phase: str) -> None:
        """A phase begins, and the one before it ends."""
        self._borders.append((phase, self._now()))

    def lap(self) -> dict[str, float]:
        """Seconds of every phase since the last lap; the running one is split here."""
        if not self._borders:
            return {}
        phase, end = self._borders[-1][0], self._now()
        if self.cuda:
            end.synchronize()
        spent = Counter[str]()
        for (name, start), (_, following) in zip(self._borders, [*self._borders[1:], ("", end)], strict=True):
            spent[name] += start.elapsed_time(following) / 1000 if self.cuda else following - start
        self._borders = [(phase, end)]
        return dict(spent)

    def _now(self) -> Any:
        if not self.cuda:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def peak_memory() -> int:
    """Bytes: the most that tensors took on this rank's GPU, or without one what the process takes now."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss
