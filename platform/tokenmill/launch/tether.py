"""Die with your parent: `kill -9` of a step must leave no rank training (Linux; elsewhere the lease check ends them)."""

import ctypes
import os
import signal
import sys

PARENT = "TOKENMILL_PARENT"
"""Environment: the process id that a tethered process expects as its parent, so that one who died early is noticed too."""
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies. Survives `exec`, not `fork`."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    expected = os.environ.get(PARENT)
    if expected and os.getppid() != int(expected):  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def tethered() -> dict[str, str]:
    """Environment for a child that is to die with this process."""
    return {PARENT: str(os.getpid())}


if __name__ == "__main__":
    die_with_parent()
    os.environ.update(tethered())  # for the children of what this process becomes
    os.execvp(sys.argv[1], sys.argv[1:])
