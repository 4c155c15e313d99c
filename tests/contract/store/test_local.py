"""A folder as a store: full disks, killed writers."""

import errno
import os
import signal
from pathlib import Path

import pytest

from tokenmill.errors import StoreError
from tokenmill.store.local import LocalBackend


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    return LocalBackend(tmp_path / "store")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.put("a/b", b"before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for write in (backend.put, backend.create):
        with pytest.raises(StoreError, match="disk is full") as error:
            write("a/c", b"x" * 100)
        assert str(backend.root / "a/c") in str(error.value)
        assert "\n" not in str(error.value)
    assert files(backend.root) == [backend.root / "a/b"]
    assert backend.get("a/b") == b"before"


def test_a_writer_killed_half_way_leaves_no_object(backend: LocalBackend, tmp_path: Path) -> None:
    backend.put("k", b"before")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = os.fork()
    if child == 0:
        backend.put("k", pipe)
        os._exit(1)
    with pipe.open("wb") as stream:
        stream.write(b"half of it" * 500_000)
        stream.flush()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert backend.get("k") == b"before"
    assert [entry.key for entry in backend.list()] == ["k"]
    assert backend.sweep(3600) == 0
    assert backend.sweep(0, dry_run=True) == 1
    assert backend.sweep(0) == 1
    assert files(backend.root) == [backend.root / "k"]


def test_objects_are_read_only_files_and_empty_folders_go(backend: LocalBackend) -> None:
    backend.put("a/b/c", b"x")
    assert (backend.root / "a/b/c").stat().st_mode & 0o222 == 0
    backend.delete("a/b/c")
    assert not (backend.root / "a").exists()
