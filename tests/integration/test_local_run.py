"""A pipeline on this machine ends with the command that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def working_on(store: Path) -> list[psutil.Process]:
    """Processes whose command line or environment names the store."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(store) in " ".join(process.cmdline()) or str(store) in process.environ().get("TOKENMILL_STORE", ""):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def until(condition, seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if condition():
            return True
        time.sleep(0.2)
    return False


def test_kill_9_of_a_run_leaves_no_task_and_no_rank(tmp_path):
    store = tmp_path / "store"
    command = [sys.executable, "-m", "tokenmill.cli", "run", "smoke", "--preset", "pico", "--store", f"file://{store}"]
    with (tmp_path / "out.txt").open("wb") as out:
        run = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out)

    def ranks() -> list[psutil.Process]:
        return [p for p in working_on(store) if "tokenmill.training.worker" in " ".join(p.cmdline())]

    assert until(lambda: len(ranks()) >= 2, 120), (tmp_path / "out.txt").read_text()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert until(lambda: not working_on(store), 10), [p.cmdline() for p in working_on(store)]
