"""One attempt works on a key, even if launchers on several hosts want to.

A store's only atomic operation is exclusive create, so a lease is a row of numbered files, `work/<key>/lease/<n>`: the
highest number rules, and taking over is creating the next one, which only one of any number of takers can. The holder
rewrites its own file as a heartbeat. No clocks are compared: a waiter takes a lease for expired when it has watched the
same heartbeat for the lease's whole time to live, by its own monotonic clock (or when the holder was a process of this
very host and is gone). A holder finds out that it was taken over when it sees a higher number.
"""

import os
import platform
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel

from tokenmill.errors import LeaseLost, StoreError
from tokenmill.store import layout
from tokenmill.store.artifacts import ArtifactStore
from tokenmill.store.backend import Backend, NotFoundError
from tokenmill.store.guard import wait_until_spared


class LeaseRecord(BaseModel):
    """What a lease file says."""

    holder: str
    attempt: str
    host: str
    place: str
    """Host, boot and process namespace: within one, process ids can be compared."""
    pid: int
    pid_started: str
    since: str
    ttl_s: float
    beat: int = 0
    released: bool = False
    protects: list[str] = []
    """Digests of the manifests that the attempt reads, which gc must keep."""


class Lease:
    """A held lease; a context manager that releases it."""

    def __init__(self, backend: Backend, key: str, number: int, record: LeaseRecord):
        self.key, self.attempt, self.holder = key, record.attempt, record.holder
        self._backend, self._number, self._record = backend, number, record
        self._taken_by: LeaseRecord | None = None
        self._looked = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name=f"lease-{key[:12]}", daemon=True)

    def check(self) -> None:
        """Raise `LeaseLost` if another attempt took over. Cheap: it looks at the store only when the heartbeat is late.

        While the store cannot be reached nothing is known, and the holder goes on: publishing is first-wins anyway.
        """
        if time.monotonic() - self._looked > self._record.ttl_s / 2:
            with suppress(StoreError):
                self._look()
        if self._taken_by:
            by = f"attempt {self._taken_by.attempt} on {self._taken_by.host}"
            raise LeaseLost(f"{self.key[:12]}: attempt {self.attempt} was taken over by {by}")

    def release(self) -> None:
        """Let the next one in at once."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(StoreError):  # then it expires by itself
            if self._look():
                self._write(released=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.release()

    def start(self) -> Self:
        self._thread.start()
        return self

    def _keep_beating(self) -> None:
        while not self._taken_by and not self._stop.wait(self._record.ttl_s / 4):
            with suppress(StoreError):
                if self._look():
                    self._write(beat=self._record.beat + 1)

    def _look(self) -> bool:
        """See whether this lease still rules."""
        self._looked = time.monotonic()
        current = _current(self._backend, self.key)
        if current and current[0] > self._number:
            self._taken_by = current[1]
        return self._taken_by is None

    def _write(self, **changes: object) -> None:
        self._record = self._record.model_copy(update=changes)
        self._backend.put(_lease_key(self.key, self._number), self._record.model_dump_json().encode())


def acquire(
    store: ArtifactStore,
    key: str,
    *,
    ttl_s: float = 60.0,
    protects: Iterable[str] = (),
    done: Callable[[], bool] = lambda: False,
    on_wait: Callable[[LeaseRecord], None] = lambda record: None,
    timeout_s: float | None = None,
) -> Lease | None:
    """Take the lease on a key: at once if it is free, else when its holder releases it or has died.

    Args:
        ttl_s: how long a holder may be silent before it counts as dead.
        protects: digests of the manifests that the attempt will read.
        done: says that the work has been done by somebody else meanwhile.
        on_wait: called once for every holder that is waited for.
        timeout_s: give up waiting after so long.

    Returns:
        The lease, its heartbeat running; None if the work is `done`.

    Raises:
        StoreError: the time is up.
    """
    record = _new_record(ttl_s, protects)
    started, watched, since = time.monotonic(), None, 0.0
    while not done():
        current = _current(store.backend, key)
        if current != watched:
            new_holder = not (current and watched and current[0] == watched[0])
            watched, since = current, time.monotonic()
            if current and new_holder and not _is_over(current[1]):
                on_wait(current[1])
        if current is None or _is_over(current[1]) or time.monotonic() - since > current[1].ttl_s:
            lease = _claim(store.backend, key, current[0] + 1 if current else 1, record)
            if lease and done():
                lease.release()
                return None
            if lease:
                return lease.start()
        elif timeout_s is not None and time.monotonic() - started > timeout_s:
            who = f"process {current[1].pid} on {current[1].host} since {current[1].since}"
            raise StoreError(f"{key[:12]} is being worked on by {who}: wait for it, or stop it")
        else:
            time.sleep(min(current[1].ttl_s / 10, 5.0) * random.uniform(0.5, 1.0))
    return None


def _claim(backend: Backend, key: str, number: int, record: LeaseRecord) -> Lease | None:
    """Create the next lease file; None if somebody else did, now or long ago."""
    record = record.model_copy(update={"attempt": f"{number:06d}"})
    if not backend.create(_lease_key(key, number), record.model_dump_json().encode()):
        return None
    earlier = [n for n in _numbers(backend, key) if n < number]
    current = _current(backend, key)
    if current and current[0] > number:  # we were slow: the number had been used and cleared away
        backend.delete(_lease_key(key, number))
        return None
    wait_until_spared(backend, [_lease_key(key, n) for n in earlier])  # gc may be clearing the former attempts' work
    for n in earlier:
        backend.delete(_lease_key(key, n))
    return Lease(backend, key, number, record)


def watch_lease(store: ArtifactStore, key: str, attempt: str) -> Lease:
    """A lease that another process holds (a launcher's, in its workers): only for `check`."""
    current = _current(store.backend, key)
    if current is None or current[1].attempt != attempt:
        raise LeaseLost(f"{key[:12]}: attempt {attempt} does not hold the lease")
    return Lease(store.backend, key, current[0], current[1])


def current_lease(store: ArtifactStore, key: str) -> LeaseRecord | None:
    """Who holds, or last held, the lease on a key."""
    current = _current(store.backend, key)
    return current[1] if current else None


def _current(backend: Backend, key: str) -> tuple[int, LeaseRecord] | None:
    while numbers := _numbers(backend, key):
        with suppress(NotFoundError):  # its successor cleared it away: look again
            return max(numbers), LeaseRecord.model_validate_json(backend.get(_lease_key(key, max(numbers))))
    return None


def _numbers(backend: Backend, key: str) -> list[int]:
    return [int(entry.key.rpartition("/")[2]) for entry in backend.list(layout.work_key(key, "lease") + "/")]


def _lease_key(key: str, number: int) -> str:
    return layout.work_key(key, "lease", f"{number:06d}")


def _new_record(ttl_s: float, protects: Iterable[str]) -> LeaseRecord:
    pid = os.getpid()
    return LeaseRecord(
        holder=uuid.uuid4().hex,
        attempt="",
        host=platform.node(),
        place=_place(),
        pid=pid,
        pid_started=_started(pid) or "",
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        ttl_s=ttl_s,
        protects=sorted(protects),
    )


def _is_over(record: LeaseRecord) -> bool:
    """Released, or held by a process of this host that is gone: then nobody needs to wait for its expiry."""
    same_place = bool(record.place) and record.place == _place()
    return record.released or (same_place and _started(record.pid) != record.pid_started)


@cache
def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()}/{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""  # no Linux: processes cannot be told apart, and leases just expire


def _started(pid: int) -> str | None:
    """When a process started, in ticks since boot (process ids are used again); None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
