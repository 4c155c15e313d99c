"""`map` over worker processes that know the modules, and nothing of the script that is running.

A spawned process imports its parent's script first. Where no `if __name__ == "__main__"` guards that, it would start the
script's work once more, and wait for the lease that its own parent holds.
"""

import io
import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

from tokenmill.errors import ConfigError
from tokenmill.tether import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")
_SCRIPT = "__main__"
_setting_aside = threading.Lock()


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, step: str
) -> Iterator[Result]:
    """Results in order, for `step`. `kill -9` of this process leaves no worker.

    Raises:
        ConfigError: the running script itself defines the function, or what it carries.
    """
    _refuse_script(step, (function, items[0]))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=die_with_parent, initargs=(os.getpid(),)) as pool:
        with _script_set_aside():
            results = pool.map(function, items)  # starts every worker
        yield from results


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
