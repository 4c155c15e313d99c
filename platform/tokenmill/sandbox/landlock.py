"""Landlock: an unprivileged process gives up the file system but for some paths (kernel 5.13; Landlock's documentation)."""

import ctypes
import os
import stat
from collections.abc import Iterable

from tokenmill.sandbox import kernel

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK, _REFER, _TRUNCATE, _IOCTL_DEV = 1 << 6, 1 << 11, 1 << 13, 1 << 14, 1 << 15
_FIRST = (1 << 13) - 1
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""The rights that a rule for a file, rather than a folder, may name."""
READ = _EXECUTE | _READ_FILE | _READ_DIR
SCOPES_FROM = 6
"""The ABI from which signals and abstract Unix sockets end at the sandbox's border."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """The kernel's version of Landlock; OSError where it has none, or was started without."""
    return kernel.syscall("landlock_create_ruleset", None, 0, 1)


def restrict(readable: Iterable[str], writable: str, devices: Iterable[str]) -> None:
    """From now on: read and execute beneath `readable`, anything but device files beneath `writable`. Needs no_new_privs.

    What this kernel's version does not know is not handled: truncation before ABI 3 and device ioctls before ABI 5, which
    the filter of system calls closes.
    """
    version = abi()
    handled = _FIRST | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    handled |= _IOCTL_DEV if version >= 5 else 0
    rules = _Ruleset(handled, 0b11 if version >= 4 else 0, 0b11 if version >= SCOPES_FROM else 0)
    size = 8 if version < 4 else 16 if version < SCOPES_FROM else 24
    ruleset = kernel.syscall("landlock_create_ruleset", ctypes.byref(rules), size, 0)
    for path in readable:
        _allow(ruleset, path, READ & handled)
    _allow(ruleset, writable, handled & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV))
    for path in devices:
        _allow(ruleset, path, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & handled)
    kernel.syscall("landlock_restrict_self", ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not stat.S_ISDIR(os.fstat(file).st_mode):
        rights &= _OF_FILES
    kernel.syscall("landlock_add_rule", ruleset, 1, ctypes.byref(_PathBeneath(rights, file)), 0)
    os.close(file)
