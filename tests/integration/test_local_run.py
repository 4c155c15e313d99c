"""A pipeline on this machine ends with the command that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import psutil
import pytest
from life import Life

from tokenmill.tracking import read_events

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def working_on(store: Path) -> list[str]:
    """Command lines of the processes whose command line or environment names the store."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if str(store) in command or str(store) in process.environ().get("TOKENMILL_STORE", ""):
                found.append(command)
        except psutil.Error:  # it ended while it was looked at, or is not ours to look at
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

    def ranks() -> list[str]:
        return [command for command in working_on(store) if "tokenmill.training.worker" in command]

    assert until(lambda: len(ranks()) >= 2, 120), (tmp_path / "out.txt").read_text()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert until(lambda: not working_on(store), 10), working_on(store)


def test_how_a_run_is_computed_is_set_on_the_command_line_and_is_no_part_of_what_it_makes(tmp_path):
    life = Life(tmp_path, "pico", {})
    settings = ("--set", "curation.filter.execution.workers=3", "--set", "curation.ingest.max_rejected=0.5")
    done = life.tokenmill("run", "curation", "--preset", "pico", *settings, "--json")
    assert done.returncode == 0, done.stderr
    events = read_events(life.store, orjson.loads(done.stdout)["run"])
    started = {event.task: event.data for event in events if event.kind == "step_started"}
    assert started["curation.filter"]["options"]["execution"]["workers"] == 3
    assert started["curation.filter"]["config"] == {}
    assert started["curation.ingest"]["config"] == {"max_rejected": 0.5}
