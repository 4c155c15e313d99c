"""What code may use, what it ran under, and what became of it. Imported in every started process: kept light."""

from typing import Any, Literal, NamedTuple

Isolation = Literal["unprivileged", "limits", "landlock", "seccomp", "pid", "mount", "network", "ipc"]
"""unprivileged: no root, no capability, none to be had by `exec`. limits: rlimits, and the tree's memory watched.
landlock: reads its interpreter and libraries, writes its folder, and nothing else. seccomp: no system call but those of an
ordinary program; no socket, no ptrace. pid, mount, network, ipc: a namespace of its own of that kind."""

BASE: frozenset[Isolation] = frozenset({"unprivileged", "limits", "landlock", "seccomp"})
"""What an unprivileged user of Linux 5.13 or later has; together they hold everything in `docs/concepts/sandbox.md`."""
NAMESPACES: frozenset[Isolation] = frozenset({"pid", "mount", "network", "ipc"})
"""A second wall, where the kernel lets this user have one."""
ALL = BASE | NAMESPACES

Status = Literal["ok", "error", "cpu", "wall", "memory", "folder", "output"]
"""ok: exit code 0. error: any other end by itself. The others name the limit at which all was killed."""


class Limits(NamedTuple):
    """What code may use. Sizes in bytes; a limit that one process meets by an error is not a kill."""

    wall_s: float = 10.0
    """From the start of the interpreter; then everything is killed."""
    cpu_s: int = 10
    """Of each process, in whole seconds (RLIMIT_CPU)."""
    memory: int = 1 << 30
    """Address space of each process (RLIMIT_AS: MemoryError), and resident memory of all together (killed). Memory
    that a child shares with its parent counts for both."""
    processes: int = 16
    """And threads, at one time (RLIMIT_NPROC: BlockingIOError)."""
    file: int = 16 << 20
    """Of one file (RLIMIT_FSIZE: OSError)."""
    folder: int = 64 << 20
    """Of the private folder: a full disk in a mount namespace, else watched and killed."""
    open_files: int = 128
    output: int = 1 << 20
    """Of stdout and stderr together; then everything is killed."""


class Result(NamedTuple):
    """How it ended."""

    status: Status
    exit_code: int | None
    """Negative: the signal; None where a limit ended it."""
    stdout: str
    stderr: str
    wall_s: float
    cpu_s: float
    """Of the code and the processes that it waited for."""
    peak_memory: int
    """Bytes: the largest process, or the most seen of all together."""
    held: frozenset[Isolation]
    """The isolations it ran under."""
    missing: dict[Isolation, str]
    """Those that could not be had, and why."""


class Order(NamedTuple):
    """What the starting process asks the guard for; JSON between them."""

    argv: list[str]
    """The program, then its argv from the zeroth on."""
    folder: str
    """Private to this run; the current folder of the code."""
    readable: list[str]
    """Files and folders that may be read, and executed from."""
    limits: Limits
    required: list[Isolation]
    wanted: list[Isolation]

    @classmethod
    def read(cls, document: dict[str, Any]) -> "Order":
        return cls(**document | {"limits": Limits(**document["limits"])})

    def document(self) -> dict[str, Any]:
        return self._asdict() | {"limits": self.limits._asdict()}
