"""How garbage collection and writers keep out of each other's way, on a store that knows no transactions.

A collector first *posts a notice* of what it will delete and then looks once more who needs it. A writer first *writes*
and then looks whether a notice names what it relies on. Whoever comes second sees the first: the collector spares what
it sees in use, the writer waits until the notice is gone and then writes again what has been deleted.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import orjson

from tokenmill.store.backend import Backend, NotFoundError

NOTICE_S = 30.0  # a collector deletes under one notice for no longer than this,
PATIENCE_S = 300.0  # and a writer that has seen one for this long holds its collector for dead

_first_seen: dict[str, float] = {}  # notice → by this process's monotonic clock


@contextmanager
def notice(backend: Backend, keys: Iterable[str]) -> Iterator[Callable[[], bool]]:
    """Post that `keys` will be deleted; yields whether the notice still allows it."""
    name = f"gc/{uuid.uuid4().hex}"
    backend.put(name, orjson.dumps(sorted(keys)))
    posted = time.monotonic()
    try:
        yield lambda: time.monotonic() - posted < NOTICE_S
    finally:
        backend.delete(name)


def wait_until_spared(backend: Backend, keys: Iterable[str]) -> bool:
    """Wait while a notice names any of `keys`; True if there was one, and so some of them may be gone."""
    wanted, waited = set(keys), False
    while any(_threatens(backend, entry.key, wanted) for entry in backend.list("gc/")):
        waited = True
        time.sleep(0.1)
    return waited


def _threatens(backend: Backend, name: str, keys: set[str]) -> bool:
    first_seen = _first_seen.setdefault(name, time.monotonic())
    if time.monotonic() - first_seen > PATIENCE_S:
        return False
    try:
        return not keys.isdisjoint(_posted(backend.uri, name, backend.get))
    except NotFoundError:  # what it named, and so may have deleted, cannot be known any more
        return True


@lru_cache(maxsize=8)
def _posted(uri: str, name: str, get: Callable[[str], bytes]) -> frozenset[str]:
    """A notice's keys; it never changes."""
    return frozenset(orjson.loads(get(name)))
