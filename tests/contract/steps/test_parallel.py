"""`ctx.parallel` from a script that nothing guards: no `if __name__ == "__main__"`."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from tokenmill.steps.pool import WorkerPool

SCRIPT = """
from tokenmill.steps import pool
from tokenmill.config import Execution, StepConfig
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import effect, run_step, step
from tokenmill.store import open_store
from tokenmill.tracking import RunRef

pool.WORTH_S = 0

def own(record):
    return record

@effect("toy.register", version=1)
def register(config: StepConfig, ctx) -> Draft:
    return ctx.write_records("sources", {f"part-0000{i}.jsonl.zst": [{"id": str(i)}] for i in range(4)})

@step("toy.copy", version=1)
def copy(config: StepConfig, corpus: Manifest, ctx) -> Draft:
    return ctx.map_shards(corpus, FUNCTION)

print("begun")
store, run, config = open_store(), RunRef.new("test"), StepConfig(execution=Execution(workers=WORKERS))
sources = run_step("toy.register", config, {}, store=store, run=run)["output"]
print(run_step("toy.copy", config, {"corpus": sources}, store=store, run=run)["output"].counts["records"])
"""


def run(tmp_path, function, workers):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("FUNCTION", function).replace("WORKERS", str(workers)))
    environment = os.environ | {"TOKENMILL_STORE": f"file://{tmp_path}/store"}
    command = [sys.executable, script]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


@pytest.mark.parametrize(("function", "workers"), [("dict", 2), ("own", 1)])
def test_worker_processes_do_not_run_the_script_again(tmp_path, function, workers):
    done = run(tmp_path, function, workers)
    assert (done.stdout.split(), done.returncode) == (["begun", "4"], 0), done.stderr


def test_a_function_of_the_script_itself_is_refused_in_one_line(tmp_path):
    done = run(tmp_path, "own", 2)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "toy.copy: worker processes cannot import own, which the running script defines: "
        "move it into a module, or set toy.copy.execution.workers to 1"
    )


BUSY = """
from tokenmill.steps import pool
from tokenmill.steps.pool import WorkerPool

pool.WORTH_S = 0
work = "import pathlib, time; pathlib.Path('begun-NUMBER').touch(); time.sleep(60)"
list(WorkerPool("toy.sleep").map(exec, [work.replace("NUMBER", number) for number in "123"], 3))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends them, and only Linux's does")
def test_a_killed_step_leaves_no_worker(tmp_path):
    (tmp_path / "script.py").write_text(BUSY)
    step = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path)
    while len(list(tmp_path.glob("begun-*"))) < 3:
        assert step.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(step.pid).children()
    step.kill()
    step.wait()
    _, alive = psutil.wait_procs(workers, timeout=5)
    for worker in alive:
        worker.kill()
    assert not alive


PROCESS = "__import__('os').getpid()"
SLOW = f"[__import__('time').sleep(0.05), {PROCESS}][1]"


def test_the_workers_of_one_map_are_those_of_the_next(monkeypatch):
    monkeypatch.setattr("tokenmill.steps.pool.WORTH_S", 0)
    with WorkerPool("toy.look") as workers:
        first = set(workers.map(eval, [SLOW] * 8, 3))
        assert set(workers.map(eval, [SLOW] * 8, 3)) <= first
        assert all(psutil.pid_exists(process) for process in first) and os.getpid() in first
    assert {process for process in first if psutil.pid_exists(process)} == {os.getpid()}


def test_work_that_is_soon_done_starts_no_process_and_more_of_it_does(monkeypatch):
    with WorkerPool("toy.look") as workers:
        assert set(workers.map(eval, [PROCESS] * 50, 2)) == {os.getpid()}
        monkeypatch.setattr("tokenmill.steps.pool.WORTH_S", 0.2)
        found = list(workers.map(eval, [SLOW] * 60, 2))
    assert len(set(found)) == 2 and found[0] == os.getpid()


def test_results_keep_the_order_of_the_items_whoever_is_slow(monkeypatch):
    monkeypatch.setattr("tokenmill.steps.pool.WORTH_S", 0)
    items = [f"[__import__('time').sleep({0.3 if n in (0, 17) else 0.001}), {n}][1]" for n in range(40)]
    with WorkerPool("toy.look") as workers:
        assert list(workers.map(eval, items, 3)) == list(range(40))
        with pytest.raises(ZeroDivisionError):
            list(workers.map(eval, [*items[1:5], "1/0", *items[1:9]], 2))
