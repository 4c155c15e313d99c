"""The process beside the code: starts it, watches it, kills all of it, tells how it ended.

Started by `tokenmill.sandbox.run`, which keeps the other end of its standard input: when that closes, because a limit of
output is met or the caller has died, everything is killed.

    caller ── guard ── [init of a PID namespace] ── worker = the code ── whatever it starts
"""

import contextlib
import json
import os
import select
import signal
import struct
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from tokenmill.sandbox import kernel
from tokenmill.sandbox.limits import Order
from tokenmill.sandbox.worker import FILES, Holding, become

_LOOK_MS = 10
_FIRST_USER, _USERS = 61184, 4336
"""Who the code is where we are root: ids that no package gives to anybody (systemd's range for dynamic users)."""
_START_S = 10.0
_ENDED = struct.Struct("idq")  # wait status, seconds of CPU, KiB at the most


class Child(NamedTuple):
    """What the guard has under it: the worker, or the init of its namespace."""

    pid: int
    told: int
    """The worker's word of what holds."""
    ended: int
    """The init's word of how the worker ended; -1 where the guard sees that itself."""


def main(report: int) -> None:
    """One order from standard input; one report, JSON, to the descriptor."""
    os.set_inheritable(report, False)  # ours alone: the code would otherwise find it open
    order = Order.read(json.loads(_line(0)))
    holding = Holding()
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER)  # what the code leaves behind becomes ours
    own_users = _namespaces(order, holding)
    child = _start(order, holding, own_users)
    said = _hear(child)
    began = time.monotonic()
    try:
        limit, peak = _watch(child, order, began) if "held" in said else (None, 0)
    finally:  # whatever becomes of the guard, nothing of the code stays
        wall_s = time.monotonic() - began
        status, cpu_s, largest = _end(child)
    if limit is None and _by_cpu(status, cpu_s, order):
        limit = "cpu"
    code = os.waitstatus_to_exitcode(status)
    document = {"limit": limit, "exit_code": code, "wall_s": wall_s, "cpu_s": cpu_s, "peak": max(peak, largest << 10)}
    os.write(report, json.dumps(said | document).encode())


def _line(file: int) -> bytes:
    """To the end of a line, and no byte beyond: what follows is the end of the file, which is a signal."""
    found = b""
    while not found.endswith(b"\n"):
        if not (some := os.read(file, 1 << 16)):
            os._exit(0)
        found += some
    return found


def _namespaces(order: Order, holding: Holding) -> bool:
    """Take a user namespace, where that is what the others need, and one of processes; returns whether the first was had."""
    own_users = False
    if os.geteuid() != 0 and {"pid", "mount", "network", "ipc"} & set(order.wanted):
        user, group = os.geteuid(), os.getegid()
        with contextlib.suppress(OSError):  # then those that need it say why they are missing
            kernel.unshare(kernel.CLONE_NEWUSER)
            own_users = True
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{user} {user} 1")
            _write("/proc/self/gid_map", f"{group} {group} 1")
    if "pid" in order.wanted:
        with holding.attempt("pid"):
            kernel.unshare(kernel.CLONE_NEWPID)  # for what is forked from here on
    return own_users


def _start(order: Order, holding: Holding, own_users: bool) -> Child:
    told, telling = os.pipe()
    user = _FIRST_USER + os.getpid() % _USERS
    if "pid" not in holding.held:
        if not (pid := os.fork()):
            become(order, holding, telling, own_users, user)
        os.close(telling)
        return Child(pid, told, -1)
    ended, ending = os.pipe()
    if not (pid := os.fork()):
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if not (worker := os.fork()):
            become(order, holding, telling, own_users, user)
        os.close(telling)
        _init(worker, ending)
    os.close(telling)
    os.close(ending)
    return Child(pid, told, ended)


def _init(worker: int, ending: int) -> None:
    """Process 1 of a namespace: buries orphans; the kernel kills all the rest when it ends, which is when the worker does."""
    while True:
        pid, status, used = os.wait4(-1, 0)
        if pid == worker:
            os.write(ending, _ENDED.pack(status, used.ru_utime + used.ru_stime, used.ru_maxrss))
            os._exit(0)


def _hear(child: Child) -> dict[str, Any]:
    """What holds, or what failed; the pipe ends when the code begins."""
    heard = b""
    deadline = time.monotonic() + _START_S
    while select.select([child.told], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if not (some := os.read(child.told, 1 << 16)):
            break
        heard += some
    said: dict[str, Any] = {}
    for line in heard.splitlines():
        said |= json.loads(line) if line else {}
    if not heard:
        said["failed"] = "the sandbox was not built in time"
    return said


def _watch(child: Child, order: Order, began: float) -> tuple[str | None, int]:
    """Until the code has ended or met a limit: which one, and the most memory seen."""
    poll, peak = select.poll(), 0
    handle = os.pidfd_open(child.pid)
    poll.register(handle, select.POLLIN)
    poll.register(0, select.POLLIN | select.POLLHUP)
    while True:
        events = {file for file, _ in poll.poll(_LOOK_MS)}
        if handle in events:
            return None, peak
        if 0 in events:
            return "stopped", peak
        if time.monotonic() - began > order.limits.wall_s:
            return "wall", peak
        peak = max(peak, used := sum(map(_resident, _tree(child.pid))))
        if used > order.limits.memory:
            return "memory", peak
        if _bytes_beneath(f"{order.folder}/{FILES}") > order.limits.folder:
            return "folder", peak


def _tree(pid: int) -> Iterator[int]:
    """The process and its descendants."""
    yield pid
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in _read(f"/proc/{pid}/task/{task}/children").split():
                yield from _tree(int(child))


def _resident(pid: int) -> int:
    """Bytes of anonymous and shared memory; what a child still shares with its parent counts for both."""
    with contextlib.suppress(OSError, IndexError):
        fields = dict(line.split(":", 1) for line in _read(f"/proc/{pid}/status").splitlines())
        return sum(int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem") if name in fields)
    return 0


def _bytes_beneath(folder: str) -> int:
    """What stands in the private folder; in a mount namespace nothing does, and the kernel holds the limit.

    An empty file counts too, and no depth of folders ends the guard.
    """
    total, folders = 0, [folder]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    total += max(512, entry.stat(follow_symlinks=False).st_blocks * 512)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
    return total


def _end(child: Child) -> tuple[int, float, int]:
    """Kill and bury everything; how the worker ended, its seconds of CPU, its KiB at the most."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(child.pid, signal.SIGKILL)
    found: tuple[int, float, int] = (signal.SIGKILL, 0.0, 0)
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status, used = os.wait4(-1, 0)
            if pid == child.pid and child.ended < 0:
                found = status, used.ru_utime + used.ru_stime, used.ru_maxrss
    if child.ended >= 0 and len(told := os.read(child.ended, _ENDED.size)) == _ENDED.size:
        found = _ENDED.unpack(told)
    return found


def _by_cpu(status: int, cpu_s: float, order: Order) -> bool:
    by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return by == signal.SIGXCPU or (by == signal.SIGKILL and cpu_s >= order.limits.cpu_s)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
