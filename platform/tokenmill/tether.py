"""Die with your parent: `kill -9` of a run or a step leaves nothing training (Linux; elsewhere the lease check ends it)."""

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading

PARENT = "TOKENMILL_PARENT"
"""Environment: the process id that a tethered process expects as its parent, so that one who died early is noticed too."""
OWNER = "TOKENMILL_OWNER"
"""Environment: the process that runs a local pipeline. Its tasks are no children of it: KFP puts a shell between."""
OWNER_WATCH = "owner-watch"
"""The thread that waits for the owner's end, in the kernel and for nothing else."""
_PR_SET_PDEATHSIG = 1


def die_with_parent(expected: int | None = None) -> None:
    """Have the kernel kill this process when its parent dies. Survives `exec`, not `fork`.

    `expected` is the parent's process id; by default what `TOKENMILL_PARENT` says.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    expected = expected or int(os.environ.get(PARENT, "0"))
    if expected and os.getppid() != expected:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def tethered() -> dict[str, str]:
    """Environment for a child that is to die with this process."""
    return {PARENT: str(os.getpid())}


def die_with_owner() -> None:
    """Kill this process when the one that `TOKENMILL_OWNER` names ends (Linux); without the variable, do nothing."""
    owner = os.environ.get(OWNER)
    if owner and sys.platform == "linux":
        threading.Thread(target=_outlive_never, args=(int(owner),), name=OWNER_WATCH, daemon=True).start()


def _outlive_never(owner: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it is gone already
        ended = os.pidfd_open(owner)
        select.select([ended], [], [])
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    die_with_parent()
    os.environ.update(tethered())  # for the children of what this process becomes
    os.execvp(sys.argv[1], sys.argv[1:])
