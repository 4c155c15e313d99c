"""`ctx.parallel` from a script that nothing guards: no `if __name__ == "__main__"`."""

import os
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import psutil
import pytest

from tokenmill.steps import pool

SCRIPT = """
from tokenmill.steps import pool
from tokenmill.config import Execution, StepConfig
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import effect, run_step, step
from tokenmill.store import open_store
from tokenmill.tracking import RunRef

pool.WORTH_S |= {"fork": 0, "spawn": 0}
pool._may_fork = lambda: "WAY" == "fork"

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


def run(tmp_path, function, workers, way="spawn"):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("FUNCTION", function).replace("WORKERS", str(workers)).replace("WAY", way))
    environment = os.environ | {"TOKENMILL_STORE": f"file://{tmp_path}/store"}
    command = [sys.executable, script]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


@pytest.mark.parametrize(
    ("function", "workers", "way"), [("dict", 2, "fork"), ("dict", 2, "spawn"), ("own", 1, "spawn")]
)
def test_worker_processes_do_not_run_the_script_again(tmp_path, function, workers, way):
    done = run(tmp_path, function, workers, way)
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

pool.WORTH_S["WAY"] = 0
pool._may_fork = lambda: "WAY" == "fork"
work = "import pathlib, time; pathlib.Path('begun-NUMBER').touch(); time.sleep(60)"
list(pool.WorkerPool("toy.sleep", 3).map(exec, [work.replace("NUMBER", number) for number in "123"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends them, and only Linux's does")
@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_a_killed_step_leaves_no_worker(tmp_path, way):
    (tmp_path / "script.py").write_text(BUSY.replace("WAY", way))
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


@pytest.fixture(params=["fork", "spawn"])
def way(request, monkeypatch):
    """Both ways of having other processes, worth it at once."""
    monkeypatch.setattr(pool, "_may_fork", lambda: request.param == "fork")
    monkeypatch.setitem(pool.WORTH_S, request.param, 0)
    return request.param


def test_work_that_is_soon_done_is_shared_with_none_and_more_of_it_is(way, monkeypatch):
    monkeypatch.setitem(pool.WORTH_S, way, 1.0)
    with pool.WorkerPool("toy.look", 2) as workers:
        assert set(workers.map(eval, [PROCESS] * 50)) == {os.getpid()}
        found = list(workers.map(eval, [SLOW] * 60))
    assert len(set(found)) == 2 and found[0] == os.getpid()


WAIT = """
import os, pathlib, time
folder = pathlib.Path("FOLDER")
if MARKS:
    (folder / "NUMBER").write_text(str(os.getpid()))
while not (DONE):
    time.sleep(0.01)
"""


def waiting(folder, marks, done, count):
    """Items that leave a mark, or not, and end when a condition holds."""
    code = WAIT.replace("FOLDER", str(folder)).replace("MARKS", marks).replace("DONE", done)
    return [code.replace("NUMBER", str(number)) for number in range(count)]


def test_the_workers_of_one_map_are_those_of_the_next(tmp_path, way):
    with pool.WorkerPool("toy.look", 3) as workers:
        list(workers.map(exec, waiting(tmp_path, "True", "len(list(folder.iterdir())) == 3", 3)))  # all three meet
        first = {int(mark.read_text()) for mark in tmp_path.iterdir()}
        assert len(first) == 3 and set(workers.map(eval, [SLOW] * 8)) <= first
        assert all(psutil.pid_exists(process) for process in first) and os.getpid() in first
    assert {process for process in first if psutil.pid_exists(process)} == {os.getpid()}


def test_a_process_that_is_there_begins_while_the_first_item_is_done_here(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_may_fork", lambda: True)
    with pool.WorkerPool("toy.meet", 2) as workers:
        list(workers.map(exec, waiting(tmp_path, "True", "len(list(folder.iterdir())) == 2", 2)))


def test_no_item_waits_behind_one_that_another_process_is_doing(tmp_path, way):
    here = f"os.getpid() == {os.getpid()}"
    with pool.WorkerPool("toy.wait", 2) as workers:
        list(workers.map(exec, waiting(tmp_path, here, f"{here} or len(list(folder.iterdir())) == 5", 6)))


def test_results_keep_the_order_of_the_items_whoever_is_slow(way):
    items = [f"[__import__('time').sleep({0.3 if n in (0, 17) else 0.001}), {n}][1]" for n in range(40)]
    with pool.WorkerPool("toy.look", 3) as workers:
        assert list(workers.map(eval, items)) == list(range(40))
        with pytest.raises(ZeroDivisionError):
            list(workers.map(eval, [*items[1:5], "1/0", *items[1:9]]))


def test_all_are_started_before_one_is_idle_however_long_that_takes(way, monkeypatch):
    """One that was started later, by a thread that ends sooner, would be killed with that thread."""
    submit = pool.ProcessPoolExecutor.submit

    def slowly(*arguments):
        submitted = submit(*arguments)
        time.sleep(0.7)
        return submitted

    with monkeypatch.context() as patched, pool.WorkerPool("toy.start", 3) as workers:
        patched.setattr(pool.ProcessPoolExecutor, "submit", slowly)
        workers._start()
        assert len(workers._pool._processes) == 2


class Counted:
    """Says how many times it was called, and how many of it were unpickled, in its process."""

    unpickled = 0

    def __init__(self):
        self.calls = 0

    def __call__(self, seconds):
        time.sleep(seconds)
        self.calls += 1
        return os.getpid(), self.calls, Counted.unpickled

    def __setstate__(self, state):
        Counted.unpickled += 1
        vars(self).update(state)


def test_a_function_is_unpickled_once_a_process(way):
    with pool.WorkerPool("toy.count", 2) as workers:
        done = list(workers.map(Counted(), [0.02] * 100))
    others = [rest for process, *rest in done if process != os.getpid()]
    assert len(others) > 3 and others == [[call + 1, 1] for call in range(len(others))]


def test_a_killed_worker_is_an_error_not_a_wait(way):
    die = f"{PROCESS} == {os.getpid()} or __import__('os').kill({PROCESS}, 9)"
    with pool.WorkerPool("toy.look", 2) as workers, pytest.raises(BrokenProcessPool):
        list(workers.map(eval, [f"[__import__('time').sleep(0.1), {die}][1]"] * 100))
