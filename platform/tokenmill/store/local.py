"""A store in a local (or mounted) folder."""

import errno
import io
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tokenmill.errors import StoreError
from tokenmill.store.backend import Entry, NotFoundError, check_key

UNFINISHED = ".unfinished"  # beside the objects, hence on their file system, and hidden from listings
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalBackend:
    """Objects are read-only files; a write goes to a temporary file, to the disk, and then to its name."""

    def __init__(self, root: Path):
        self.root = root
        self.uri = root.as_uri()

    def path(self, key: str) -> Path:
        return self.root / check_key(key)

    def get(self, key: str) -> bytes:
        with self.open(key) as stream:
            return stream.read()

    def open(self, key: str) -> BinaryIO:
        path = self.path(key)
        with explained(path):
            try:
                return path.open("rb")
            except ABSENT:
                raise NotFoundError(f"{self.uri}/{key} is not in the store") from None

    def fetch(self, key: str, path: Path) -> None:
        with self.open(key) as stream:
            write_file(path, stream)

    def put(self, key: str, data: bytes | Path) -> None:
        target = self.path(key)
        with _source(data) as source, explained(target), _unfinished(self.root / UNFINISHED, source) as temporary:
            _give_name(temporary, target, os.replace)

    def create(self, key: str, data: bytes) -> bool:
        target = self.path(key)
        with explained(target), _unfinished(self.root / UNFINISHED, io.BytesIO(data)) as temporary:
            try:
                _give_name(temporary, target, os.link)  # unlike rename, refuses a name that is taken
            except FileExistsError:
                return False
        return True

    def stat(self, key: str) -> Entry | None:
        path = self.path(key)
        with explained(path):
            try:
                found = path.stat()
            except ABSENT:
                return None
        return Entry(key, found.st_size, found.st_mtime)

    def exists(self, key: str) -> bool:
        return self.stat(key) is not None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        folder, _, start = check_key(prefix, prefix=True).rpartition("/")
        yield from self._walk(f"{folder}/" if folder else "", start)

    def delete(self, key: str) -> None:
        path = self.path(key)
        with explained(path):
            try:
                path.unlink()
            except ABSENT:
                return
        with suppress(OSError):  # folders that this emptied go too, up to the first that is not empty
            for folder in list(path.relative_to(self.root).parents)[:-1]:
                (self.root / folder).rmdir()

    def sweep(self, min_age_s: float, dry_run: bool = False) -> int:
        old = [e for e in self._walk(f"{UNFINISHED}/", "") if time.time() - e.modified >= min_age_s]
        for entry in old if not dry_run else []:
            (self.root / entry.key).unlink(missing_ok=True)
        return len(old)

    def _walk(self, folder: str, start: str) -> Iterator[Entry]:
        """The files whose path below the root begins with `folder` (ends in "/") and then `start`."""
        with explained(self.root / folder):
            try:
                children = [child for child in os.scandir(self.root / folder) if child.name.startswith(start)]
            except ABSENT:
                return
        for child in children:
            if child.is_dir():
                if folder or child.name != UNFINISHED:
                    yield from self._walk(f"{folder}{child.name}/", "")
            else:
                with suppress(FileNotFoundError):  # deleted since the scan
                    found = child.stat()
                    yield Entry(folder + child.name, found.st_size, found.st_mtime)


def write_file(path: Path, source: BinaryIO) -> None:
    """Write a read-only file that appears whole or not at all."""
    with explained(path), _unfinished(path.parent, source, prefix=f".{path.name}.") as temporary:
        _give_name(temporary, path, os.replace)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say in one line what the operating system refused, and what to do."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "the disk is full: free space there, or run `tokenmill store gc`",
            errno.EDQUOT: "the disk quota is used up: free space there, or run `tokenmill store gc`",
            errno.EACCES: "permission denied: this user must be able to read and write there",
            errno.EPERM: "not permitted: the folder must be writable and its file system must know hard links",
            errno.EROFS: "the file system is read-only",
        }.get(error.errno or 0, error.strerror or type(error).__name__)
        raise StoreError(f"{path}: {advice}") from None


@contextmanager
def _source(data: bytes | Path) -> Iterator[BinaryIO]:
    with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as stream:
        yield stream


@contextmanager
def _unfinished(folder: Path, source: BinaryIO, prefix: str = "") -> Iterator[Path]:
    """The data as a file that is on the disk but has no name yet; it is gone afterwards, whatever happens."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{prefix}{uuid.uuid4().hex}"
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444), "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
            sink.flush()
            os.fsync(sink.fileno())
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _give_name(temporary: Path, target: Path, give: Callable[[Path, Path], None]) -> None:
    """Rename or link; again if a concurrent delete took away the folder that it had just emptied."""
    for attempts_left in reversed(range(20)):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            give(temporary, target)
            break
        except FileNotFoundError:
            if not attempts_left:
                raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else a power cut could forget the name
    finally:
        os.close(folder)
