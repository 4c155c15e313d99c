"""`map` over this process and others, which know the modules, and nothing of the script that is running.

A process costs a second to start, so none is before the work has shown that it outlasts that; and the one that is running
already, with all of its modules and compiled code, is a worker like the others.

A spawned process imports its parent's script first. Where no `if __name__ == "__main__"` guards that, it would start the
script's work once more, and wait for the lease that its own parent holds.
"""

import io
import os
import pickle
import sys
import threading
import time
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
WORTH_S = 2.0
"""Seconds of work that are left, from which on others help with it: twice what starting one takes."""
AHEAD = 8
"""Results that this process may hold while one before them is not done."""


class WorkerPool:
    """The processes of one attempt at a step: started when a `map` is worth it, and there for the next.

    `kill -9` of this process leaves none.
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
        """Results in order, of so many workers, this process one of them.

        Raises:
            ConfigError: the running script itself defines the function, or what it carries.
        """
        _refuse_script(self._step, (function, items[0]))
        done, spent = 0, 0.0
        while done < len(items) and not self._worth_it(done, spent, len(items) - done):
            begun = time.monotonic()
            result = function(items[done])
            spent += time.monotonic() - begun
            done += 1
            yield result
        if done < len(items):
            yield from self._share(function, items[done:], workers - 1)

    def _worth_it(self, done: int, spent: float, left: int) -> bool:
        return self._pool is not None or WORTH_S <= 0 or (done > 0 and spent / done * left > WORTH_S)

    def _share(self, function: Callable[[Item], Result], items: Sequence[Item], others: int) -> Iterator[Result]:
        """Results in order; what no other process has begun when the next result is waited for is done here."""
        with _script_set_aside():
            pool = self._of(others)
            waiting = {number: pool.submit(function, item) for number, item in enumerate(items)}  # starts them
        mine: dict[int, Result] = {}
        for number in range(len(items)):
            while number in waiting and not waiting[number].done() and len(mine) < AHEAD:
                free = next((i for i, result in waiting.items() if result.cancel()), None)
                if free is None:
                    break
                del waiting[free]
                mine[free] = function(items[free])
            yield waiting.pop(number).result() if number in waiting else mine.pop(number)  # and keeps none

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _of(self, others: int) -> ProcessPoolExecutor:
        if self._pool is None or self._size < others:
            self.close()
            self._size = others
            self._pool = ProcessPoolExecutor(
                others, get_context("spawn"), initializer=die_with_parent, initargs=(os.getpid(),)
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
