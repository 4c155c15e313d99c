"""What a guarded command leaves behind: nothing, however it ends."""

import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tokenmill.deployment import guard

pytestmark = pytest.mark.integration

# A server with an engine that ignores SIGTERM and outlives it, as vLLM's does.
SERVER = "trap '' TERM; sleep 300 & echo started; {then}"


def guarded(parent: int, then: str, grace_s: float = 0.5) -> list[str]:
    return [sys.executable, "-I", guard.__file__, str(parent), str(grace_s), "sh", "-c", SERVER.format(then=then)]


def test_a_command_that_exits_takes_its_children_along_and_its_code_is_kept():
    with subprocess.Popen(guarded(os.getpid(), "sleep 1; exit 7"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "started\n"
        left = psutil.Process(process.pid).children(recursive=True)
        assert process.wait(10) == 7
    assert len(left) >= 2
    assert psutil.wait_procs(left, timeout=5)[1] == []


def test_sigterm_ends_even_a_command_that_ignores_it():
    with subprocess.Popen(guarded(os.getpid(), "wait; wait"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "started\n"
        left = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(10) == 128 + 9
    assert psutil.wait_procs(left, timeout=5)[1] == []


def test_a_parent_killed_with_9_takes_everything_along():
    command = guarded(0, "wait; wait")
    command[3] = "PARENT"
    starter = "import os, subprocess, sys; a = sys.argv[1:]; a[3] = str(os.getpid()); subprocess.run(a)"
    with subprocess.Popen([sys.executable, "-c", starter, *command], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "started\n"
        left = psutil.Process(parent.pid).children(recursive=True)
        assert len(left) >= 3
        parent.kill()
        assert psutil.wait_procs(left, timeout=5)[1] == []


def test_a_guard_whose_parent_is_already_gone_ends_at_once():
    begin = time.monotonic()
    subprocess.run(guarded(os.getpid() + 1, "wait"), stdout=subprocess.DEVNULL, timeout=10, check=False)
    assert time.monotonic() - begin < 5


def test_the_thread_that_started_a_guard_may_end():
    started = []

    def start():
        process = subprocess.Popen(guarded(os.getpid(), "wait"), stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "started\n"

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    with started[0] as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.terminate()
        process.wait(10)
