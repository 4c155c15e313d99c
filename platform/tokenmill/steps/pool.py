"""`map` over this process and others, which know the modules, and nothing of the script that is running.

This process, with all of its modules and compiled code, is a worker like the others. They are forked from it before it has a
thread, which costs nothing, and where that cannot be (not Linux, a notebook, a test under xdist) they are spawned, which takes
each a second: so none is before the work has shown that it outlasts that.

A spawned process imports its parent's script first. Where no `if __name__ == "__main__"` guards that, it would start the
script's work once more, and wait for the lease that its own parent holds.
"""

import io
import os
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

from tokenmill.errors import ConfigError
from tokenmill.tether import OWNER_WATCH, die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")
_SCRIPT = "__main__"
_setting_aside = threading.Lock()
WORTH_S = {"fork": 0.5, "spawn": 2.0}
"""Seconds of work that are left, from which on others help with it: twice what they need to import or to start."""
AHEAD = 8
"""How far before the result that is waited for this process works itself, and so, how many it may hold."""


class WorkerPool:
    """The processes of one attempt at a step, this one and others: they share a `map` that is worth it, then the next.

    `kill -9` of this process leaves none.
    """

    def __init__(self, step: str, workers: int) -> None:
        self._step, self._others = step, workers - 1
        self._way = "fork" if _may_fork() else "spawn"
        self._pool: ProcessPoolExecutor | None = None
        if self._others and self._way == "fork":
            self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Results in order. The first failure, in that order, is raised.

        Raises:
            ConfigError: the running script itself defines the function, or what it carries.
        """
        if not items:
            return
        work = _Work(function, items)
        if self._others:
            _pickled(self._step, items[0])
            work.pickled = _pickled(self._step, function)
        worth_s = WORTH_S[self._way]
        early = threading.Timer(worth_s / len(items), self._share, (work,))
        if self._pool:  # they are there: let them begin while the first item is done here
            early.start()
        try:
            for number in range(len(items)):
                while not work.results[number].done():
                    if self._others and work.seconds_left() >= worth_s:
                        self._share(work)
                    if not work.do_one(number + AHEAD):
                        break
                yield work.results.pop(number).result()
        finally:
            early.cancel()
            work.stop()

    def _share(self, work: "_Work") -> None:
        with work.sharing:
            for _ in range(0 if work.shared else self._others):
                work.hand_out(self._pool or self._start())
            work.shared = True

    def _start(self) -> ProcessPoolExecutor:
        """The thread that starts them must outlive them: the kernel ends them with it.

        So all are started here: an executor starts none while one is idle, and would start the rest in whichever thread
        submits when none is. The first does nothing before the last is there.
        """
        context = get_context(self._way)
        started = context.Event()
        self._pool = ProcessPoolExecutor(self._others, context, initializer=_begin, initargs=(os.getpid(), started))
        try:
            with _script_set_aside():
                for _ in range(self._others):
                    self._pool.submit(int)
        finally:
            started.set()
        return self._pool


class _Work:
    """One `map`: what is left of it, and what became of the rest."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        self._function, self._items = function, items
        self._spent, self._done = 0.0, 0
        self.left = deque(range(len(items)))
        self.results: dict[int, Future[Any]] = {number: Future() for number in self.left}
        self.pickled = b""
        """The function, for the others."""
        self._taking = threading.Lock()
        self.shared = False
        self.sharing = threading.Lock()

    def seconds_left(self) -> float:
        """Of the items that nobody has begun, going by those that were done here."""
        return self._spent / max(self._done, 1) * len(self.left)

    def do_one(self, below: int) -> bool:
        """Do the next item, if it is before so many, in this process; says whether there was one."""
        if (number := self._take(below)) is None:
            return False
        begun = time.monotonic()
        try:
            self.results[number].set_result(self._function(self._items[number]))
        except Exception as failure:
            self.results[number].set_exception(failure)
        self._done, self._spent = self._done + 1, self._spent + time.monotonic() - begun
        return True

    def hand_out(self, pool: ProcessPoolExecutor) -> None:
        """Have another process do the next item and, whenever it is done with one, the next.

        No more at once: what the executor queues for a process that is busy, nobody else can do.
        """
        if (number := self._take(len(self._items))) is None:
            return
        result = self.results[number]

        def done(other: Future[Any]) -> None:
            if other.cancelled():  # nobody waits any more
                return
            if failure := other.exception():
                result.set_exception(failure)
            else:
                result.set_result(other.result())
            self.hand_out(pool)

        try:
            pool.submit(_do, self.pickled, self._items[number]).add_done_callback(done)
        except RuntimeError as broken:  # a process was killed
            result.set_exception(broken)

    def stop(self) -> None:
        """Nobody begins another item."""
        with self._taking:
            self.left.clear()

    def _take(self, below: int) -> int | None:
        with self._taking:
            return self.left.popleft() if self.left and self.left[0] < below else None


def _begin(parent: int, started: Event) -> None:
    die_with_parent(parent)
    started.wait()


def _may_fork() -> bool:
    """Whether no lock can be held while this process is forked: it has no thread, or the one that awaits its owner's end."""
    harmless = sum(thread.name == OWNER_WATCH for thread in threading.enumerate())
    return sys.platform == "linux" and len(list(Path("/proc/self/task").iterdir())) == 1 + harmless


@contextmanager
def _script_set_aside() -> Iterator[None]:
    with _setting_aside:
        script = sys.modules[_SCRIPT]
        sys.modules[_SCRIPT] = ModuleType(_SCRIPT)
        try:
            yield
        finally:
            sys.modules[_SCRIPT] = script


_function: tuple[bytes, Callable[[Any], Any]] = (b"", int)
"""What another process did last, pickled and not."""


def _do(pickled: bytes, item: Any) -> Any:
    """Unpickle a function once, not for every item: it may build tables when it is first called."""
    global _function
    if _function[0] != pickled:
        _function = pickled, pickle.loads(pickled)  # noqa: S301 - of the process that forked or spawned this one
    return _function[1](item)


def _pickled(step: str, job: object) -> bytes:
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

    pickled = io.BytesIO()
    Pickler(pickled).dump(job)
    return pickled.getvalue()
