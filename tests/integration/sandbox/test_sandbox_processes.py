"""At other processes, and the kernel: system calls, capabilities, signals, daemons."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sandboxed import NOBODY, Place, needs_landlock, said

import tokenmill.sandbox as sandbox
from tokenmill.sandbox import BASE

pytestmark = [pytest.mark.integration, needs_landlock]


REFUSED = {
    "x86_64": {
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "unshare": 272, "setns": 308, "mount": 165, "bpf": 321,
        "perf_event_open": 298, "io_uring_setup": 425, "userfaultfd": 323, "keyctl": 250, "memfd_create": 319, "shmget": 29,
        "socket": 41, "connect": 42, "setuid": 105, "open_by_handle_at": 304, "pidfd_open": 434, "pidfd_getfd": 438,
        "pidfd_send_signal": 424, "kcmp": 312, "personality": 135, "init_module": 175, "seccomp": 317,
    },
    "aarch64": {
        "ptrace": 117, "process_vm_readv": 270, "unshare": 97, "setns": 268, "mount": 40, "bpf": 280, "io_uring_setup": 425,
        "socket": 198, "connect": 203, "memfd_create": 279,
    },
}  # fmt: skip


def test_system_calls_of_attackers_are_refused_also_through_ctypes(place):
    numbers = REFUSED.get(os.uname().machine)
    if not numbers:
        pytest.skip("no numbers for this machine")
    code = f"""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    for name, number in {numbers!r}.items():
        ctypes.set_errno(0)
        print(name, libc.syscall(number, 0, 0, 0, 0, 0, 0), ctypes.get_errno())
    print("clone3", libc.syscall(435, 0, 0), ctypes.get_errno())
    print("clone", libc.syscall({220 if os.uname().machine == "aarch64" else 56}, 0x10000000 | 17, 0, 0, 0, 0), ctypes.get_errno())
    """
    expected = [f"{name} -1 1" for name in numbers] + [
        "clone3 -1 38",
        "clone -1 1",
    ]  # EPERM; ENOSYS; a user namespace: EPERM
    assert said(place.run(code)) == expected


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the 32-bit door is x86's")
def test_another_architectures_numbering_is_death(place):
    code = """
    import ctypes, mmap
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid of i386); int 0x80; ret
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    print("still here")
    """
    result = place.run(code)
    assert (result.exit_code, result.stdout) == (-signal.SIGSYS, ""), result


CAPABILITIES = """
import ctypes, os
sets = (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capget((ctypes.c_uint32 * 2)(0x20080522, 0), sets) == 0
print(os.getuid() != 0, list(sets))
"""


def test_the_code_has_no_capability(place):
    assert said(place.run(CAPABILITIES)) == ["True [0, 0, 0, 0, 0, 0]"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can give capabilities away")
def test_nor_one_that_its_caller_hands_on(readable_source):
    """Ambient capabilities survive `exec`."""
    given = ("--inh-caps=+chown", "--ambient-caps=+chown")
    user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *given)
    assert said(Place(BASE, readable_source, user).run(CAPABILITIES)) == ["True [0, 0, 0, 0, 0, 0]"]


def test_no_process_outside_is_signalled(place):
    victim = subprocess.Popen(["sleep", "60"], **({"user": NOBODY} if os.geteuid() == 0 else {}))
    try:
        code = f"""
        import os, signal
        for pid in (os.getppid(), {victim.pid}, {os.getpid()}, 1):
            try:
                os.kill(pid, signal.SIGKILL)
            except (PermissionError, ProcessLookupError):
                pass
        try:
            os.kill(-1, signal.SIGKILL)
        except (PermissionError, ProcessLookupError):
            pass
        print("tried")
        """
        result = place.run(code)
        assert result.stdout in ("tried\n", ""), result  # kill(-1) may end the code itself
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_a_daemon_does_not_stay(place):
    mark = f"left-{os.getpid()}-{id(place)}"
    code = f"""
    import os, sys
    until_it_runs, held = os.pipe()  # by whoever has not become another program yet
    if os.fork() == 0:
        try:
            os.setsid()
        except PermissionError:
            print("no session of its own", flush=True)
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", {mark!r}])
        os._exit(0)
    os.close(held)
    os.read(until_it_runs, 1)
    """
    result = place.run(code)
    assert result.status == "ok" and result.wall_s < 5, result
    assert running_with(mark) == []


def test_a_killed_caller_leaves_nothing_running(tmp_path):
    mark = f"orphan-{os.getpid()}"
    code = f"import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', {mark!r}])"
    script = f"import sys; sys.path.insert(0, {str(Path(sandbox.__file__).parents[2])!r}); from tokenmill.sandbox import Limits, run; run({code!r}, limits=Limits(wall_s=60))"
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # which nobody is left to remove
    caller = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, env=environment)
    until(lambda: running_with(mark))
    caller.kill()
    caller.wait()
    until(lambda: not running_with(mark))


def running_with(mark):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            found += [process] if mark.encode() in words else []
    return found


def until(what, timeout_s=15):
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
