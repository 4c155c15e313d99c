"""The small protocol that every place for bytes speaks, and the URIs that name one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from tokenmill.errors import ConfigError, StoreError

LONGEST_KEY = 900  # bytes; S3 allows 1,024 with the prefix


class NotFoundError(StoreError):
    """No object has that key."""


@dataclass(frozen=True)
class Entry:
    """One stored object, as a listing shows it."""

    key: str
    size: int
    modified: float
    """When it was last written: seconds since the epoch by the *store's* clock, perhaps rounded to seconds."""


class Backend(Protocol):
    """Objects under keys. A reader sees the old bytes or the new, never a part; listings follow writes at once."""

    @property
    def uri(self) -> str: ...

    def get(self, key: str) -> bytes:
        """The object's bytes, or `NotFoundError`."""
        ...

    def open(self, key: str) -> BinaryIO:
        """A stream over the object, or `NotFoundError`; close it."""
        ...

    def fetch(self, key: str, path: Path) -> None:
        """Copy the object into a local file, which appears whole or not at all."""
        ...

    def put(self, key: str, data: bytes | Path) -> None:
        """Write or replace the object, atomically."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write the object unless there is one; of any number of concurrent callers exactly one gets True."""
        ...

    def stat(self, key: str) -> Entry | None: ...

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object whose key starts with `prefix`, in no promised order."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; one that is gone already is fine."""
        ...

    def sweep(self, min_age_s: float, dry_run: bool = False) -> int:
        """Remove what killed writers left half-written, if older than `min_age_s`; says how many there were."""
        ...


def open_backend(uri: str) -> Backend:
    """The backend for `file:///folder` or `s3://bucket/prefix`."""
    parts = split_uri(uri)
    if parts.scheme == "file":
        from tokenmill.store.local import LocalBackend

        return LocalBackend(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        from tokenmill.store.s3 import S3Backend  # the minio client is not for free: only who needs it imports it

        return S3Backend(parts.netloc, unquote(parts.path).strip("/"))
    raise ConfigError(f"store URI {uri!r} is neither file:///folder nor s3://bucket/prefix{_as_file_uri(parts, uri)}")


def split_uri(uri: str) -> SplitResult:
    """Take a store URI apart.

    Raises:
        ConfigError: it holds something that may be a secret (and is therefore not repeated), or names no place.
    """
    parts = urlsplit(uri)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"a {parts.scheme or 'store'} URI must hold no keys, queries or fragments (they may be secret, so this one "
            "is not shown): give keys as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if parts.scheme == "file" and (parts.netloc not in ("", "localhost") or len(parts.path) < 2):
        raise ConfigError(f"store URI {uri!r} must name an absolute folder: file:///folder, three slashes")
    if parts.scheme == "s3" and not parts.netloc:
        raise ConfigError(f"store URI {uri!r} names no bucket: s3://bucket/prefix")
    return parts


def _as_file_uri(parts: SplitResult, uri: str) -> str:
    return "" if parts.scheme else f"; for a folder write {Path(uri).absolute().as_uri()}"


def check_key(key: str, *, prefix: bool = False) -> str:
    """Refuse keys that could leave the store or mean different things on different backends.

    Args:
        prefix: a listing's prefix, which may be empty or end anywhere.
    """
    segments = key.split("/")
    if prefix:
        segments = [*segments[:-1], segments[-1] or "-"]
    if {"", ".", ".."} & set(segments) or not key.isprintable() or "\\" in key or len(key.encode()) > LONGEST_KEY:
        raise StoreError(f"{key!r} is not a key: names joined by '/' are, with no '..', control character or '\\'")
    return key
