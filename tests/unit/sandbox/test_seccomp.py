"""The filter of system calls, run by an interpreter of classic BPF that is written here; the table, held to the kernel's headers."""

import errno
import re
import struct
from pathlib import Path

import pytest

from tokenmill.sandbox.seccomp import program
from tokenmill.sandbox.syscalls import NUMBERS

X86, ARM = 0xC000003E, 0xC00000B7
ALLOWED, KILLED = "allowed", "killed"
OPEN = {"pid": None, "mounted": True, "grouped": False}
CLOSED = {"pid": 77, "mounted": False, "grouped": True}


def verdict(instructions, architecture, number, *arguments):
    """What the kernel would do (net/core/filter.c's meaning of the few codes that filters use)."""
    arguments = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<iIQ6Q", number, architecture, 0, *(a & (1 << 64) - 1 for a in arguments))
    at, accumulator = 0, 0
    while True:
        code, yes, no, k = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code in (0x15, 0x35, 0x45):
            at += yes if {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code] else no
        else:
            assert code == 0x06
            if k & 0xFFFF0000 == 0x00050000:
                return errno.errorcode[k & 0xFFFF]
            return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}[k]


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request):
    return request.param


def ask(machine, call, *arguments, how=OPEN):
    architecture = {"x86_64": X86, "aarch64": ARM}[machine]
    return verdict(program(machine, **how), architecture, NUMBERS[machine][call], *arguments)


@pytest.mark.parametrize(
    "call", ["read", "write", "mmap", "futex", "execve", "exit_group", "getrandom", "wait4", "openat"]
)
@pytest.mark.parametrize("how", [OPEN, CLOSED])
def test_what_programs_do_is_let_through(machine, call, how):
    assert ask(machine, call, how=how) == ALLOWED


def test_every_number_that_is_not_named_is_refused(machine):
    architecture = {"x86_64": X86, "aarch64": ARM}[machine]
    filter = program(machine, **OPEN)
    named = set(NUMBERS[machine].values())
    assert {verdict(filter, architecture, n) for n in range(1200) if n not in named} == {"EPERM"}


def test_another_architecture_is_killed(machine):
    other = {"x86_64": ARM, "aarch64": X86}[machine]
    for architecture in (other, 0x40000003):  # i386
        assert verdict(program(machine, **OPEN), architecture, NUMBERS[machine]["read"]) == KILLED


def test_x32_is_killed():
    assert verdict(program("x86_64", **OPEN), X86, 0x40000000 | NUMBERS["x86_64"]["read"]) == KILLED


@pytest.mark.parametrize("flag", [0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_makes_threads_and_children_but_no_namespace(machine, flag):
    assert ask(machine, "clone", 0x3D0F00) == ALLOWED  # as pthread_create asks
    assert ask(machine, "clone", 0x01200011) == ALLOWED  # as fork asks
    assert ask(machine, "clone", flag | 17) == "EPERM"


@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("socketpair", (1, 1), ALLOWED),
        ("socketpair", (1, 1 | 0o2000000), ALLOWED),  # SOCK_CLOEXEC
        ("socketpair", (1, 2), "EPERM"),  # datagrams
        ("socketpair", (2, 1), "EPERM"),  # not Unix
        ("prctl", (15,), ALLOWED),
        ("prctl", (22,), "EPERM"),  # PR_SET_SECCOMP
        ("prctl", (47,), "EPERM"),  # PR_CAP_AMBIENT
        ("fcntl", (3, 8, 1), "EPERM"),  # F_SETOWN: signals to somebody
        ("fcntl", (3, 1030), ALLOWED),
        ("ioctl", (0, 0x5401), ALLOWED),
        ("ioctl", (0, 0x5412), "ENOTTY"),  # TIOCSTI: typing into a terminal
        ("prlimit64", (0, 7), ALLOWED),
        ("prlimit64", (4242, 7), "EPERM"),
        ("clone3", (), "ENOSYS"),
        ("openat2", (), "ENOSYS"),
        ("fallocate", (), errno.errorcode[errno.EOPNOTSUPP]),
        ("seccomp", (), "EPERM"),
        ("capset", (), "EPERM"),
        ("pivot_root", (), "EPERM"),
    ],
)  # fmt: skip
def test_calls_that_depend_on_an_argument(machine, call, arguments, expected):
    assert ask(machine, call, *arguments) == expected


def test_without_a_mount_namespace_metadata_and_truncation_are_closed(machine):
    read_only_truncating, writing_truncating = 0o1000, 0o1001
    assert ask(machine, "openat", 0, 0, read_only_truncating, how=CLOSED) == "EACCES"
    assert ask(machine, "openat", 0, 0, writing_truncating, how=CLOSED) == ALLOWED
    assert ask(machine, "openat", 0, 0, read_only_truncating) == ALLOWED
    assert (ask(machine, "fchmodat", how=CLOSED), ask(machine, "fchmodat")) == ("EPERM", ALLOWED)
    assert (ask(machine, "utimensat", how=CLOSED), ask(machine, "utimensat")) == ("EPERM", ALLOWED)


def test_without_a_pid_namespace_only_the_code_itself_is_signalled_and_none_leaves_its_group(machine):
    for call in ("kill", "tgkill"):
        assert {pid: ask(machine, call, pid, 9, how=CLOSED) for pid in (0, 77, 78, -1)} == {
            0: ALLOWED, 77: ALLOWED, 78: "EPERM", -1: "EPERM"}  # fmt: skip
        assert ask(machine, call, 78, 9) == ALLOWED
    assert (ask(machine, "setsid", how=CLOSED), ask(machine, "setsid")) == ("EPERM", ALLOWED)


def test_an_unknown_machine_has_no_filter():
    with pytest.raises(KeyError):
        program("riscv64", **OPEN)


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "/usr/include/asm-generic/unistd.h")],
)
def test_the_table_is_the_kernels(machine, header):
    if not Path(header).exists():
        pytest.skip(f"no {header}: linux-libc-dev is not installed")
    text = Path(header).read_text()
    known = {
        name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)$", text, re.MULTILINE)
    }
    known.setdefault("newfstatat", known.get("fstatat"))
    assert {name: known.get(name) for name in NUMBERS[machine]} == NUMBERS[machine]
