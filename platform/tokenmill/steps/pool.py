"""`map` over worker processes that know the modules, and nothing of the script that is running.

A spawned process imports its parent's script first. Where no `if __name__ == "__main__"` guards that, it would start the
script's work once more, and wait for the lease that its own parent holds.
"""

import io
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from types import ModuleType
from typing import Any, Self, TypeVar

from tokenmill.errors import ConfigError
from tokenmill.tether import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")
_SCRIPT = "__main__"
_setting_aside = threading.Lock()


class WorkerPool:
    """The worker processes of one attempt at a step: started by its first `map`, and there for the next.

    Starting one costs a second of imports and compiled code. `kill -9` of this process leaves none.
    """

    def __init__(self, step: str) -> None:
        self._step = step
        self._size = 0
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
        """Results in order, of so many workers.

        Raises:
            ConfigError: the running script itself defines the function, or what it carries.
        """
        _refuse_script(self._step, (function, items[0]))
        with _script_set_aside():
            results = self._of(workers).map(function, items)  # starts every worker
        yield from results

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _of(self, workers: int) -> ProcessPoolExecutor:
        if self._pool is None or self._size < workers:
            self.close()
            self._size = workers
            self._pool = ProcessPoolExecutor(
                workers, get_context("spawn"), initializer=die_with_parent, initargs=(os.getpid(),)
            )
        return self._pool


@contextmanager
def _script_set_aside() -> Iterator[None]:
    with _setting_aside:
        script = sys.modules[_SCRIPT]
        sys.modules[_SCRIPT] = ModuleType(_SCRIPT)
        try:
            yield
        finally:
            sys.modules[_SCRIPT] = script


def _refuse_script(step: str, job: object) -> None:
    """`ConfigError` if only the running script defines something that the job is pickled with."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, value: Any) -> Any:
            if getattr(value, "__module__", None) == _SCRIPT:
                name = getattr(value, "__qualname__", type(value).__name__)
                raise ConfigError(
                    f"{step}: worker processes cannot import {name}, which the running script defines: "
                    f"move it into a module, or set {step}.execution.workers to 1"
                )
            return NotImplemented

    Pickler(io.BytesIO()).dump(job)
