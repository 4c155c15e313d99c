"""Attempts to get out of the sandbox, by code that really runs in it; each must fail, and for the right reason.

Everything is tried in each way that a sandbox is built here: with every isolation, and with no namespace at all, as an
unprivileged user. Where the tests run as root, that user is another process, with a Python that he may read.
"""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from sandboxed import OTHER, SYSTEM_PYTHON, needs_landlock, own, said

import tokenmill.sandbox as sandbox
from tokenmill.sandbox import ALL, BASE, SandboxError

pytestmark = [pytest.mark.integration, needs_landlock]


def test_honest_code_runs_and_is_told_nothing_of_ours(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "planted-secret")
    result = place.run(
        """
        import json, os, subprocess, sys, tempfile, threading, asyncio, math
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 1000)
        open("mine.txt", "w").write("kept")
        os.rename("mine.txt", "yours.txt")
        thread = threading.Thread(target=print, args=("thread",), kwargs={"flush": True}); thread.start(); thread.join()
        print(subprocess.run(["echo", "child"], capture_output=True, text=True).stdout, end="")
        print(asyncio.run(asyncio.sleep(0, "loop")))
        print(open("yours.txt").read(), math.factorial(5), sorted(os.environ), len(sys.argv))
        sys.exit(3)
        """
    )
    assert (result.status, result.exit_code) == ("error", 3), result
    names = ["HOME", "LANG", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
    expected = ["thread", "child", "loop", f"kept 120 {[*names, 'PATH', 'TMPDIR']} 1"]
    assert result.stdout.splitlines() == expected
    assert "planted-secret" not in result.stdout and result.wall_s < 5
    assert result.held >= BASE


def test_no_descriptor_of_ours_is_handed_on(place):
    """The guard's report goes through one: code that could write there could say how it ended."""
    code = """
    import os
    found = []
    for number in range(128):
        try:
            os.fstat(number)
            found.append(number)
        except OSError:
            pass
    print(found)
    """
    assert said(place.run(code)) == ["[0, 1, 2]"]


def test_an_error_has_its_line(place):
    result = place.run("x = 1\nassert x == 2, 'no'\n")
    assert result.exit_code == 1 and "line 2" in result.stderr and "AssertionError: no" in result.stderr


def test_numpy_runs_within():
    result = own(ALL).run("import numpy; print(numpy.linalg.inv(numpy.eye(3)).sum())", memory=2 << 30)
    assert (result.status, result.stdout) == ("ok", "3.0\n"), result


def test_what_is_required_and_cannot_be_had_refuses_in_one_line(readable_source):
    """The kernel really refuses: in a user namespace that allows none beneath it."""
    if os.geteuid() == 0 and not Path(SYSTEM_PYTHON).exists():
        pytest.skip(f"no {SYSTEM_PYTHON}")
    script = f"""
import os, sys
sys.path.insert(0, {str(readable_source)!r})
from tokenmill.sandbox import ALL, SandboxError, kernel, run
user = os.getuid()
kernel.unshare(kernel.CLONE_NEWUSER)
open("/proc/self/uid_map", "w").write(f"{{user}} {{user}} 1")
open("/proc/sys/user/max_user_namespaces", "w").write("0")
kernel.drop_capabilities()
print(sorted(run("print('ran')").missing.items()))
try:
    run("open('ran', 'w')", required=ALL)
except SandboxError as refused:
    print(refused)
"""
    other = OTHER if os.geteuid() == 0 else {}
    python = SYSTEM_PYTHON if os.geteuid() == 0 else sys.executable
    ran = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, cwd="/", timeout=60, **other)
    if "max_user_namespaces" in ran.stderr or "unshare" in ran.stderr:
        pytest.skip("this kernel lets no user namespace be closed: " + ran.stderr[-200:])
    missing, refusal = ran.stdout.splitlines()
    assert [name for name, _ in eval(missing)] == ["ipc", "mount", "network", "pid"], ran.stderr
    assert refusal.startswith("nothing was run: the sandbox has no ") and "pid (unshare: " in refusal


def test_no_guard_no_run(monkeypatch):
    from tokenmill.sandbox import launch

    monkeypatch.setattr(launch, "_GUARD", "raise SystemExit('broken')")
    with pytest.raises(SandboxError, match="guard failed: broken"):
        sandbox.run("print(1)")


def test_runs_at_once_do_not_disturb_each_other(place):
    found = {}

    def one(number):
        found[number] = place.run(
            f"import time; open('n', 'w').write('{number}'); time.sleep(0.1); print(open('n').read())"
        )

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: result.stdout for number, result in found.items()} == {n: f"{n}\n" for n in range(6)}


def test_the_limit_of_processes_is_each_runs_own():
    """The kernel counts by user; several sandboxes of one user that are full do not fill each other."""
    code = """
    import os, time
    for _ in range(3):
        if os.fork() == 0:
            time.sleep(1.5); os._exit(0)
    for _ in range(3):
        os.wait()
    print("all of them")
    """
    found = []
    threads = [threading.Thread(target=lambda: found.append(own(ALL).run(code, processes=4))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.stdout for result in found] == ["all of them\n"] * 3, found


def test_its_folder_goes_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o755)
    result = own(ALL).run("import os; open('kept', 'w').write('x'); os.mkdir('folder'); print(os.listdir('.'))")
    assert "kept" in result.stdout and not list(tmp_path.iterdir())
