"""What a backend promises, whatever it is made of."""

import multiprocessing
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenmill.errors import ConfigError, StoreError
from tokenmill.store import Backend, NotFoundError, open_backend

fork = multiprocessing.get_context("fork")


def test_what_is_put_can_be_read_listed_and_deleted(backend: Backend, tmp_path: Path) -> None:
    objects = {"blobs/ab/cd": b"one", "blobs/ab/ce": b"", "work/k=1/a b%20&é.json": b"{}", "top": bytes(range(256))}
    for key, data in objects.items():
        backend.put(key, data)
    for key, data in objects.items():
        assert backend.get(key) == data
        assert backend.exists(key)
    backend.fetch("top", tmp_path / "here" / "top")
    assert (tmp_path / "here" / "top").read_bytes() == objects["top"]
    assert {e.key: e.size for e in backend.list()} == {key: len(data) for key, data in objects.items()}
    assert {e.key for e in backend.list("blobs/ab/c")} == {"blobs/ab/cd", "blobs/ab/ce"}
    assert list(backend.list("nothing/here")) == []
    assert {e.modified for e in backend.list("top")} == {getattr(backend.stat("top"), "modified", None)}
    backend.delete("blobs/ab/cd")
    backend.delete("blobs/ab/cd")
    assert {e.key for e in backend.list("blobs/")} == {"blobs/ab/ce"}


def test_a_missing_object_is_told_apart(backend: Backend, tmp_path: Path) -> None:
    assert backend.stat("no/such") is None
    for read in (backend.get, backend.open, lambda key: backend.fetch(key, tmp_path / "f")):
        with pytest.raises(NotFoundError, match="no/such"):
            read("no/such")
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    "key", ["../x", "a/../../x", "/etc/passwd", "a//b", "", "a/", "a/./b", "a\\b", "a\nb", "a\0b", "k" * 901]
)
def test_keys_that_could_leave_the_store_are_refused(backend: Backend, key: str, tmp_path: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: backend.put(key, b"x"),
        lambda: backend.create(key, b"x"),
        lambda: backend.get(key),
        lambda: backend.delete(key),
        lambda: backend.fetch(key, tmp_path / "f"),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="not a key"):
            call()
    with pytest.raises(StoreError, match="not a key"):
        list(backend.list("../"))
    assert not (tmp_path / "x").exists()


def test_create_does_not_overwrite(backend: Backend) -> None:
    assert backend.create("a/b", b"first")
    assert not backend.create("a/b", b"first")
    assert not backend.create("a/b", b"second")
    assert backend.get("a/b") == b"first"


def test_of_16_processes_that_create_exactly_one_wins(backend: Backend) -> None:
    """They are forked from a process that has used its connections: those must not be shared."""
    rounds = 2
    barrier, won = fork.Barrier(16), fork.SimpleQueue()

    def creator(number: int) -> None:
        for n in range(rounds):
            barrier.wait(30)
            if backend.create(f"actions/{n}", f"creator {number}".encode()):
                won.put((n, number))

    backend.put("warm", b"up")
    processes = [fork.Process(target=creator, args=(number,)) for number in range(16)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    winners = [won.get() for _ in range(rounds)]
    assert won.empty()
    assert sorted(n for n, _ in winners) == list(range(rounds))
    for n, number in winners:
        assert backend.get(f"actions/{n}") == f"creator {number}".encode()


def test_a_reader_never_sees_a_part_of_a_write(backend: Backend) -> None:
    old, new = b"a" * 3_000_000, b"b" * 2_000_000
    backend.put("k", old)
    done = threading.Event()

    def write() -> None:
        for n in range(10):
            backend.put("k", new if n % 2 else old)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    reads = 0
    while not done.is_set():
        assert backend.get("k") in (old, new)
        reads += 1
    thread.join()
    assert reads > 2


def test_a_large_file_streams_through(backend: Backend, tmp_path: Path) -> None:
    data = bytes(range(251)) * (12 * 1024 * 1024 // 251)
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(data)
    backend.put("large", source)
    backend.fetch("large", copy)
    assert copy.read_bytes() == data
    with backend.open("large") as stream:
        stream.read(5_000_000)
        assert stream.read(10) == data[5_000_000:5_000_010]


def test_a_backend_travels_to_other_processes(backend: Backend) -> None:
    backend.put("k", b"v")
    assert pickle.loads(pickle.dumps(backend)).get("k") == b"v"


@pytest.mark.parametrize(
    "uri", ["s3://key:planted-secret@bucket/x", "s3://bucket?secret=planted-secret", "file://u:planted-secret@h/x"]
)
def test_uris_with_keys_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ConfigError) as error:
        open_backend(uri)
    assert "planted-secret" not in str(error.value)
    assert "AWS_SECRET_ACCESS_KEY" in str(error.value)


@pytest.mark.parametrize(
    ("uri", "hint"),
    [("store", "file:///"), ("gs://b/x", "s3://"), ("file://host/x", "file:///"), ("s3:///x", "bucket")],
)
def test_uris_that_name_no_store_say_what_one_looks_like(uri: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        open_backend(uri)
