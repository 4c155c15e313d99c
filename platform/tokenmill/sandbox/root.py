"""A root of its own: the interpreter and its libraries, mounted read-only, and one folder in memory to write to."""

import os
from collections.abc import Iterable

from tokenmill.sandbox import kernel

HOME = "/sandbox"
"""The private folder, where there is a mount namespace."""
_KEPT = 0xC0E  # nosuid, nodev, noexec, noatime, nodiratime: flags that a user namespace may not take off; as statvfs has them
_ST_RELATIME, _MS_RELATIME = 4096, 1 << 21


def enter(place: str, files: str, readable: Iterable[str], devices: Iterable[str], size: int) -> None:
    """Become a process whose whole file system is this; needs a mount namespace of its own.

    Args:
        place: an empty folder to build it over.
        files: folder whose files are copied into the private one.
        readable, devices: bound read-only, at their own paths.
        size: of the private folder, bytes.
    """
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", place, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=1m")
    for path in readable:
        _bind(path, place + path, kernel.MS_NODEV)
    for path in devices:
        _bind(path, place + path, 0)
    home = place + HOME
    os.mkdir(home)
    kernel.mount(
        "tmpfs", home, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"mode=1777,size={size},nr_inodes={size // 2048}"
    )
    for name in os.listdir(files):
        with open(f"{files}/{name}", "rb") as source, open(f"{home}/{name}", "wb") as copy:
            copy.write(source.read())
    os.chdir(place)
    kernel.syscall("pivot_root", b".", b".")  # the old root now lies over the new one (pivot_root(2), "NOTES")
    kernel.unmount(".")
    os.chdir("/")
    readonly = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("none", "/", None, readonly)


def _bind(source: str, target: str, flags: int) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    kernel.mount(source, target, None, kernel.MS_BIND)
    old = os.statvfs(target).f_flag
    flags |= old & _KEPT | (_MS_RELATIME if old & _ST_RELATIME else 0)
    flags |= kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID
    kernel.mount("none", target, None, flags)
