"""Attempts to get out of the sandbox, by code that really runs in it; each must fail, and for the right reason.

Everything is tried in each way that a sandbox is built here: with every isolation, and with no namespace at all, as an
unprivileged user. Where the tests run as root, that user is another process, with a Python that he may read.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

import tokenmill.sandbox as sandbox
from tokenmill.sandbox import ALL, BASE, Limits, Result, SandboxError, landlock


def landlocked():
    try:
        return landlock.abi() > 0
    except OSError:
        return False


pytestmark = [pytest.mark.integration, pytest.mark.skipif(not landlocked(), reason="this kernel has no Landlock")]
NOBODY = 65534
OTHER = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
SYSTEM_PYTHON = "/usr/bin/python3"
DRIVER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from tokenmill.sandbox import Limits, SandboxError, run
asked = json.load(sys.stdin)
try:
    made = run(asked["code"], limits=Limits(**asked["limits"]), required=asked["required"], wanted=asked["wanted"])
    print(json.dumps(made._asdict() | {"held": sorted(made.held)}))
except SandboxError as refused:
    print(json.dumps({"refused": str(refused)}))
"""


class Place:
    """One way to have a sandbox: some user, some isolations."""

    def __init__(self, wanted, source=None, through=()):
        self.wanted, self.source, self.through = wanted, source, through

    def run(self, code, required=BASE, **limits):
        code = textwrap.dedent(code)
        limits = Limits(**limits)
        if not self.source:
            return sandbox.run(code, limits=limits, required=required, wanted=self.wanted)
        asked = {"code": code, "limits": limits._asdict(), "required": [*required], "wanted": [*self.wanted]}
        ran = subprocess.run(
            [*self.through, SYSTEM_PYTHON, "-I", "-c", DRIVER, str(self.source)],
            input=json.dumps(asked), capture_output=True, text=True, cwd="/", timeout=60, **(OTHER if not self.through else {}),
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        told = json.loads(ran.stdout)
        if "refused" in told:
            raise SandboxError(told["refused"])
        return Result(**told | {"held": frozenset(told["held"])})


@pytest.fixture(scope="module")
def readable_source():
    """The sandbox's own modules where anybody may read them; nothing else of ours is imported by it."""
    platform = Path(sandbox.__file__).parents[2]
    folder = Path(tempfile.mkdtemp(prefix="tokenmill-source-"))
    shutil.copytree(platform / "tokenmill" / "sandbox", folder / "tokenmill" / "sandbox")
    shutil.copy(platform / "tokenmill" / "errors.py", folder / "tokenmill")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield folder
    shutil.rmtree(folder)


def own(wanted):
    """The user that the tests run as; a root needs a mount namespace, for its interpreter may be its alone."""
    return Place(wanted)


@pytest.fixture(scope="module", params=["all", "user-all", "user-base"])
def place(request, readable_source):
    wanted = BASE if request.param == "user-base" else ALL
    if os.geteuid() != 0:
        return own(wanted) if request.param != "all" else pytest.skip("the same as user-all: not root")
    if request.param == "all":
        return own(wanted)
    if not Path(SYSTEM_PYTHON).exists():
        pytest.skip(f"no {SYSTEM_PYTHON} that another user could run")
    return Place(wanted, readable_source)


def said(result):
    """The exceptions that the attempts met, a line each; whatever else came is part of the assertion's message."""
    assert result.status == "ok", result
    return result.stdout.splitlines()


TRY = """
def attempt(do):
    try:
        print("done", do())
    except BaseException as failure:
        print(type(failure).__name__, getattr(failure, "errno", ""), failure)
"""


def attempts(place, lines, before="", **limits):
    code = textwrap.dedent(before) + TRY + "".join(f"attempt(lambda: {line})\n" for line in lines)
    return said(place.run(code, **limits))


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


# ---- too much of something ------------------------------------------------------------------------------------------


def test_a_fork_bomb_ends_at_the_limit_of_processes(place):
    began = time.monotonic()
    result = place.run(
        """
        import os
        print(os.getpid(), flush=True)
        while True:
            try:
                os.fork()
            except BlockingIOError:
                pass
        """,
        wall_s=1.0,
    )
    assert result.status in ("wall", "cpu") and time.monotonic() - began < 15
    counted = place.run(
        """
        import os, time
        made = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(20); os._exit(0)
                made += 1
        except BlockingIOError as failure:
            print(made + 1, failure.errno)
        """,
        processes=12,
    )
    assert said(counted) == ["12 11"]  # EAGAIN
    assert counted.wall_s < 5  # the sleepers are killed, not waited for


def test_ten_gigabytes_are_refused_by_the_allocator(place):
    result = place.run("x = bytearray(10 << 30)")
    assert result.exit_code == 1 and result.stderr.strip().endswith("MemoryError")
    assert result.peak_memory < 200 << 20


def test_many_processes_do_not_have_many_times_the_memory(place):
    result = place.run(
        """
        import os, time
        for _ in range(6):
            if os.fork() == 0:
                x = b"x" * (60 << 20)
                time.sleep(20)
        time.sleep(20)
        """,
        memory=200 << 20,
    )
    assert result.status == "memory" and 200 << 20 < result.peak_memory < 600 << 20, result


def test_shared_memory_counts_too(place):
    result = place.run(
        """
        import mmap, os, time
        for _ in range(6):
            if os.fork() == 0:
                shared = mmap.mmap(-1, 60 << 20)
                shared.write(b"x" * (60 << 20))
                time.sleep(20)
        time.sleep(20)
        """,
        memory=200 << 20,
    )
    assert result.status == "memory", result


def test_an_endless_loop_meets_the_cpu_limit(place):
    result = place.run(
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", cpu_s=1, wall_s=60
    )
    assert result.status == "cpu" and result.exit_code is None and 0.9 < result.cpu_s < 2.5


def test_an_endless_sleep_meets_the_wall_limit(place):
    result = place.run("import time, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)", wall_s=0.5)
    assert result.status == "wall" and 0.5 <= result.wall_s < 3


def test_huge_output_is_cut_and_ends_the_code(place):
    began = time.monotonic()
    result = place.run("import sys\nwhile True: sys.stdout.write('x' * 65536)", output=100_000)
    assert result.status == "output" and len(result.stdout) + len(result.stderr) == 100_000
    assert time.monotonic() - began < 8


def test_a_large_file_is_refused_and_a_full_folder_ends_it(place):
    lines = [
        "open('a', 'wb').write(b'x' * (3 << 20))",
        "os.posix_fallocate(os.open('b', os.O_CREAT | os.O_RDWR), 0, 3 << 20)",
    ]
    for line in attempts(
        place, lines, before="import os, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)", file=1 << 20
    ):
        assert line.startswith("OSError 27"), line  # EFBIG
    filled = place.run(
        """
        import time
        for i in range(30):
            open(f"f{i}", "wb").write(b"x" * (1 << 20))
        time.sleep(20)
        """,
        file=2 << 20,
        folder=10 << 20,
    )
    disk_full = filled.exit_code == 1 and "No space left on device" in filled.stderr
    assert disk_full if "mount" in filled.held else filled.status == "folder", filled


def test_empty_files_fill_the_folder_too(place):
    code = """
    import time
    for i in range(20_000):
        open(str(i), "w").close()
    time.sleep(20)
    """
    filled = place.run(code, folder=1 << 20)
    disk_full = filled.exit_code == 1 and "No space left on device" in filled.stderr
    assert disk_full if "mount" in filled.held else filled.status == "folder", filled


def test_folders_in_folders_end_neither_guard_nor_caller(place):
    code = """
    import os
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    print("deep")
    """
    assert said(place.run(code)) == ["deep"]


# ---- out of its folder ----------------------------------------------------------------------------------------------


@pytest.fixture
def outside():
    """A file and a folder that everybody may read and write."""
    folder = Path(tempfile.mkdtemp(prefix="tokenmill-outside-"))
    folder.chmod(0o777)
    (folder / "file").write_text("precious")
    (folder / "file").chmod(0o666)
    yield folder
    shutil.rmtree(folder)


def test_nothing_outside_is_read_written_or_changed(place, outside):
    file = str(outside / "file")
    lines = [
        f"open({file!r}).read()",
        f"open({file!r}, 'w')",
        f"os.open({file!r}, os.O_RDONLY | os.O_TRUNC)",
        f"os.truncate({file!r}, 0)",
        f"os.listdir({str(outside)!r})",
        f"open({str(outside / 'new')!r}, 'w')",
        f"os.unlink({file!r})",
        f"os.rename({file!r}, 'mine')",
        f"os.link({file!r}, 'mine')",
        f"os.mkdir({str(outside / 'folder')!r})",
        f"os.chmod({file!r}, 0)",
        f"os.utime({file!r}, (0, 0))",
        "open('/etc/passwd').read()",
        "os.listdir('/root')",
        f"os.listdir({str(Path.home())!r})",
        "os.listdir('/proc/1')",
        "open('/proc/self/environ').read()",
        "open(f'/proc/{os.getppid()}/environ').read()",
        "open('/proc/self/mem', 'r+b')",
        "open('/dev/shm/x', 'w')",
        "open('/usr/x', 'w')",
        "open(os.__file__, 'a')",
        "os.chmod(os.__file__, 0o777)",
        "os.open('/dev/null', os.O_TMPFILE | os.O_RDWR) and open('/tmp/x', 'w')",
        "os.chroot('.')",
        "os.mknod('disk', 0o60600, 2049)",
    ]  # fmt: skip
    before = Path(file).stat()
    for line, answer in zip(lines, attempts(place, lines, before="import os"), strict=True):
        kind = answer.split()[0]
        assert kind in ("PermissionError", "FileNotFoundError", "OSError", "NotADirectoryError"), f"{line}: {answer}"
        assert not answer.startswith("done"), f"{line}: {answer}"
    after = Path(file).stat()
    assert (after.st_mode, after.st_size, after.st_mtime_ns) == (before.st_mode, before.st_size, before.st_mtime_ns)
    assert sorted(path.name for path in outside.iterdir()) == ["file"]


def test_links_lead_nowhere(place, outside):
    file = str(outside / "file")
    lines = [
        "open('link').read()",
        "open('link', 'w')",
        "os.listdir('folder')",
        "open('folder/file').read()",
        "open('up/etc/passwd').read()",
        "os.open('file', os.O_RDONLY, dir_fd=os.open('folder', os.O_PATH))",
    ]
    before = f"""
    import os
    os.symlink({file!r}, "link")
    os.symlink({str(outside)!r}, "folder")
    os.symlink("../../../../../..", "up")
    """
    for line, answer in zip(lines, attempts(place, lines, before=before), strict=True):
        assert answer.split()[0] in ("PermissionError", "FileNotFoundError"), f"{line}: {answer}"
    assert (outside / "file").read_text() == "precious"


# ---- to the network -------------------------------------------------------------------------------------------------


def test_there_is_no_socket_to_anywhere(place):
    lines = [
        "socket.create_connection(('127.0.0.1', 9))",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_UNIX).connect(chr(0) + 'tokenmill-test')",
        "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "socket.socket(socket.AF_VSOCK)",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "socket.getaddrinfo('example.org', 80)",
    ]
    answers = attempts(place, lines, before="import socket")
    for line, answer in zip(lines[:-1], answers, strict=False):
        assert answer.startswith("PermissionError 1 "), f"{line}: {answer}"  # EPERM, before any address is looked at
    assert answers[-1].startswith("gaierror"), answers[-1]


def test_an_abstract_socket_outside_is_not_reached_through_a_pair(place):
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0tokenmill-outside")
        listening.settimeout(0.2)
        lines = ["a.sendto(b'x', chr(0) + 'tokenmill-outside')", "a.connect(chr(0) + 'tokenmill-outside')"]
        for answer in attempts(place, lines, before="import socket; a, b = socket.socketpair()"):
            assert not answer.startswith("done"), answer
        with pytest.raises(TimeoutError):
            listening.recv(1)


# ---- at other processes, and the kernel -----------------------------------------------------------------------------


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
    import os, sys, time
    if os.fork() == 0:
        try:
            os.setsid()
        except PermissionError:
            print("no session of its own", flush=True)
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", {mark!r}])
        os._exit(0)
    time.sleep(0.3)
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


# ---- fails closed ---------------------------------------------------------------------------------------------------


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
