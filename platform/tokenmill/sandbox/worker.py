"""The process that becomes the code: walls itself in, tells what holds, and runs the interpreter, or refuses."""

import contextlib
import json
import os
import resource
import signal
from collections.abc import Iterator

from tokenmill.sandbox import kernel, landlock, root, seccomp
from tokenmill.sandbox.limits import Isolation, Order

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
FILES, PLACE = "files", "root"
"""Within an order's folder: what the code finds in its own, and where a root is built."""


class Holding:
    """Which isolations hold so far, and why others do not."""

    def __init__(self) -> None:
        self.held: set[Isolation] = set()
        self.missing: dict[Isolation, str] = {}

    @contextlib.contextmanager
    def attempt(self, name: Isolation) -> Iterator[None]:
        """What fails in here does not hold, and is no reason to stop yet."""
        try:
            yield
            self.held.add(name)
        except (OSError, ValueError, KeyError) as failure:
            self.missing[name] = reason(failure)


def reason(failure: BaseException) -> str:
    """In words, without a number."""
    if isinstance(failure, OSError) and failure.strerror:
        return f"{failure.filename}: {failure.strerror}" if failure.filename else failure.strerror
    return f"{type(failure).__name__}: {failure}"


def become(order: Order, holding: Holding, told: int, own_users: bool, user: int) -> None:
    """Never returns: the code, or exit code 127. What holds goes to `told` as JSON; `exec` closes it.

    Args:
        order: what to run, under what.
        holding: what the guard has done already.
        told: descriptor of a pipe.
        own_users: this is a user namespace, whose processes are counted apart.
        user: who to be where we are root; nobody else's, for the kernel counts processes by user.
    """
    try:
        os.setpgid(0, 0)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        home = _apart(order, holding)
        others = 2 if own_users else 0 if os.geteuid() == 0 else _tasks_of(os.getuid())
        with holding.attempt("unprivileged"):
            _unprivileged(user)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        with holding.attempt("limits"):
            _limit(order, others)
        _wall_in(order, holding, home)
        program, *argv = order.argv
        absent = sorted(set(order.required) - holding.held)
        os.write(told, json.dumps({"held": sorted(holding.held), "missing": holding.missing}).encode())
        if not absent:
            os.execve(program, argv, _environment(home))
    except BaseException as failure:
        os.write(told, ("\n" + json.dumps({"failed": reason(failure)})).encode())
    finally:
        os._exit(127)


def _apart(order: Order, holding: Holding) -> str:
    """Take the namespaces that a process can enter by itself; returns the private folder, which it is in."""
    flags: dict[Isolation, int] = {"network": kernel.CLONE_NEWNET, "ipc": kernel.CLONE_NEWIPC}
    for name, flag in flags.items():
        if name in order.wanted:
            with holding.attempt(name):
                kernel.unshare(flag)
    files, place = f"{order.folder}/{FILES}", f"{order.folder}/{PLACE}"
    if "mount" in order.wanted:
        with holding.attempt("mount"):
            kernel.unshare(kernel.CLONE_NEWNS)
            root.enter(place, files, order.readable, DEVICES, order.limits.folder)
    home = root.HOME if "mount" in holding.held else files
    os.chdir(home)
    return home


def _unprivileged(user: int) -> None:
    """No root, no capabilities; and none by a set-uid program either."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS)


def _limit(order: Order, others: int) -> None:
    limits = order.limits
    for which, soft, hard in (
        (resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 1),  # SIGXCPU, then SIGKILL
        (resource.RLIMIT_AS, limits.memory, limits.memory),
        (resource.RLIMIT_FSIZE, limits.file, limits.file),
        (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
        (resource.RLIMIT_NPROC, limits.processes + others, limits.processes + others),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ):
        most = resource.getrlimit(which)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(which, (soft, hard))


def _wall_in(order: Order, holding: Holding, home: str) -> None:
    """Landlock, then the filter, which would refuse what builds Landlock."""
    scoped = "pid" in holding.held
    mounted = "mount" in holding.held
    if "landlock" in order.wanted:
        with holding.attempt("landlock"):
            landlock.restrict(order.readable, home, [path for path in DEVICES if os.path.exists(path)])
            scoped = scoped or landlock.abi() >= landlock.SCOPES_FROM
    if "seccomp" in order.wanted:
        with holding.attempt("seccomp"):
            pid = None if scoped else os.getpid()
            seccomp.install(
                seccomp.program(kernel.MACHINE, pid=pid, mounted=mounted, grouped="pid" not in holding.held)
            )


def _environment(home: str) -> dict[str, str]:
    """Nothing of ours; one thread a library, since threads count as processes."""
    one = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8"} | one


def _tasks_of(user: int) -> int:
    """Threads of others that run as the user: the kernel counts them against the same limit."""
    found = -1  # this one
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid == user:
                found += len(os.listdir(f"/proc/{pid}/task"))
    return found
