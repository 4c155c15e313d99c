"""Out of its folder, and to the network: nothing outside is read, written or reached."""

import shutil
import tempfile
from pathlib import Path

import pytest
from sandboxed import attempts, needs_landlock

pytestmark = [pytest.mark.integration, needs_landlock]


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
