"""Runs a command that must not outlive the process that asked for it: `python guard.py PARENT_PID GRACE_S COMMAND…`

vLLM's API server starts an engine process, and that one survives a `kill -9` of the server (seen with 0.32.0). So it is
not enough to tie the server to its parent: a process beside it watches the parent and ends the whole group. It polls
instead of asking for PR_SET_PDEATHSIG, because that signal comes when the *thread* that started the child ends.
Standard library only.
"""

import contextlib
import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from types import FrameType

POLL_S = 0.2


def _die_with_guard() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: for the case that the guard itself is killed


def run(parent: int, grace_s: float, command: list[str]) -> int:
    """Run `command` in a process group of its own; the group is gone when this returns.

    SIGTERM is passed on to the command; `grace_s` later, and at once when the parent is gone, the group is killed.
    """
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    child = subprocess.Popen(command, process_group=0, preexec_fn=_die_with_guard)
    kill_at = math.inf
    try:
        while child.poll() is None and os.getppid() == parent and time.monotonic() < kill_at:
            if stopping and kill_at == math.inf:
                kill_at = time.monotonic() + grace_s
                child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
