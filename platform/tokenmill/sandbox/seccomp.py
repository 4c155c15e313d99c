"""A filter of system calls, written as classic BPF: what an ordinary program calls is let through, all else is refused.

Refused calls fail with an error (EPERM, or ENOSYS where a C library then takes the older call), so that code is told why.
A call in another architecture's numbering is no mistake that an honest program makes: it is killed.
"""

import ctypes
import errno
import struct
from collections.abc import Iterable, Iterator, Sequence

from tokenmill.sandbox import kernel
from tokenmill.sandbox.syscalls import NUMBERS

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_… of linux/audit.h
_X32 = 0x40000000  # x86_64 kernels take a second numbering with this bit
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_SET_MODE_FILTER = 1

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, operand."""

_NEW_NAMESPACES = 0x7E020000
_PRCTL = (3, 15, 16, 23, 39, 0x53564D41)  # names, reads of flags, names of memory
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)  # no owner of signals, no lease, no larger pipe
_IOCTL = (
    0x5401,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # is it a terminal, its size, bytes to read, blocking, on exec
_UNIX, _STREAM, _KIND = 1, 1, 0xF
_O_TRUNC, _O_ACCMODE = 0o1000, 0o3

UNKNOWN_HERE = ("clone3", "openat2")
"""Their arguments are in memory, where no filter looks: a C library falls back to the older call."""
BUILDERS = ("pivot_root", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "capset")
METADATA = ("chmod", "fchmod", "fchmodat", "utime", "utimes", "utimensat", "futimesat")
"""Landlock does not see them: only where all else is mounted read-only."""
SESSIONS = ("setsid", "setpgid")
"""Only where a PID namespace, and not the process group, is what is killed."""
SIGNALS = ("kill", "tgkill")


def program(machine: str, *, pid: int | None, mounted: bool, grouped: bool) -> list[Instruction]:
    """The filter.

    Args:
        machine: as `platform.machine()` says; KeyError where no table is known.
        pid: the only process that may be signalled, where neither Landlock nor a namespace ends signals at the border.
        mounted: everything but the private folder is mounted read-only.
        grouped: the process group is what is killed at the end, so none may leave it.
    """
    numbers = NUMBERS[machine]
    filter: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        filter += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    refused = {*BUILDERS, *(() if mounted else METADATA), *(SESSIONS if grouped else ())}
    rules = dict(_rules(pid=pid, mounted=mounted))
    for name, number in numbers.items():
        if name not in refused:
            body = rules.get(name, [_allow()])
            filter += [(_EQUAL, 0, len(body), number), *body]
    return [*filter, _refuse(errno.EPERM)]


def _rules(*, pid: int | None, mounted: bool) -> Iterator[tuple[str, list[Instruction]]]:
    """Calls that depend on an argument, and what is done with each. A body ends in a return on every way."""
    yield "clone", [*_argument(0), (_ANY_BIT, 1, 0, _NEW_NAMESPACES), _allow(), _refuse(errno.EPERM)]
    yield "prctl", _one_of(0, _PRCTL, errno.EPERM)
    yield "fcntl", _one_of(1, _FCNTL, errno.EPERM)
    yield "ioctl", _one_of(1, _IOCTL, errno.ENOTTY)
    yield "prlimit64", _one_of(0, (0,), errno.EPERM)  # of the caller, not of its guard
    # A datagram socket of a pair could still be pointed at a name; a stream's cannot.
    kind = [*_argument(1), (_AND, 0, 0, _KIND), (_EQUAL, 0, 1, _STREAM), _allow(), _refuse(errno.EPERM)]
    yield "socketpair", [*_argument(0), (_EQUAL, 0, len(kind) - 1, _UNIX), *kind]
    yield "fallocate", [_refuse(errno.EOPNOTSUPP)]  # could reserve beyond the limit of a file
    for name in UNKNOWN_HERE:
        yield name, [_refuse(errno.ENOSYS)]
    if pid is not None:
        for name in SIGNALS:
            yield name, _one_of(0, (0, pid), errno.EPERM)
    if not mounted:  # opened to read and truncated: Landlock sees that from ABI 3 on
        for name, place in (("open", 1), ("openat", 2)):
            truncates = [(_AND, 0, 0, _O_TRUNC | _O_ACCMODE), (_EQUAL, 1, 0, _O_TRUNC)]
            yield name, [*_argument(place), *truncates, _allow(), _refuse(errno.EACCES)]


def _argument(place: int) -> Sequence[Instruction]:
    """Load the low half of an argument: these are ints to the kernel too."""
    return [(_LOAD, 0, 0, 16 + 8 * place)]


def _one_of(place: int, values: Sequence[int], error: int) -> list[Instruction]:
    tests = [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [*_argument(place), *tests, _refuse(error), _allow()]


def _allow() -> Instruction:
    return (_RETURN, 0, 0, _ALLOW)


def _refuse(error: int) -> Instruction:
    return (_RETURN, 0, 0, 0x00050000 | error)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(instructions: Iterable[Instruction]) -> None:
    """Put this thread, and all that it becomes and begets, under the filter. Needs no_new_privs."""
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    code = ctypes.create_string_buffer(packed, len(packed))
    given = _Program(len(packed) // 8, ctypes.cast(code, ctypes.c_void_p))
    kernel.syscall("seccomp", _SET_MODE_FILTER, 0, ctypes.byref(given))
