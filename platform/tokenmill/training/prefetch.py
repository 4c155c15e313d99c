"""The next batches are made while the model computes on this one."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from tokenmill.training.run import Batches, StepBatch

AHEAD = 2


class Prefetched:
    """Batches that do not ask the model, made `AHEAD` steps before they are asked for, in a thread of their own.

    The order stays theirs: what `at` gives depends on the step, not on what was made before. A step that is skipped, or
    gone back to, is only made later than others.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._made: dict[tuple[int, int, int], Future[StepBatch]] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def accumulation(self, world: int) -> int:
        return self.batches.accumulation(world)

    def resumable(self, step: int) -> bool:
        return self.batches.resumable(step)

    def first_sample(self, step: int) -> int:
        return self.batches.first_sample(step)

    def at(self, step: int, rank: int, world: int) -> StepBatch:
        """The batch, and a start on those that follow."""
        wanted = [(s, rank, world) for s in range(step, min(step + 1 + AHEAD, len(self.batches)))]
        self._forget(self._made.keys() - set(wanted))
        for key in wanted:
            if key not in self._made:
                self._made[key] = self._thread.submit(self.batches.at, *key)
        return self._made.pop(wanted[0]).result()

    def _forget(self, keys: Iterable[tuple[int, int, int]]) -> None:
        for key in keys:
            self._made.pop(key).cancel()
