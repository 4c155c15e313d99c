"""Artifacts over a backend: blobs, manifests, the action cache, pins."""

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from tokenmill.errors import ConfigError, CorruptError, StoreError
from tokenmill.manifest import Manifest, Shard, canonical
from tokenmill.records import content_digest, is_its_bytes
from tokenmill.store import layout
from tokenmill.store.backend import Backend, NotFoundError, open_backend
from tokenmill.store.guard import wait_until_spared
from tokenmill.store.local import LocalBackend

FRESH_S = 3600.0  # an older blob that is put again is written again: being young is what protects it from gc
INLINE_SHARDS = 1000  # a longer list of shards is a blob of its own, so that a manifest stays kilobytes
SHARD_LISTS = ("shards", "aside")


def open_store(uri: str | None = None) -> "ArtifactStore":
    """The store at `uri`, or at TOKENMILL_STORE."""
    uri = uri or os.environ.get("TOKENMILL_STORE")
    if not uri:
        raise ConfigError("no store: set TOKENMILL_STORE to file:///folder or s3://bucket/prefix")
    return ArtifactStore(open_backend(uri))


class ArtifactStore:
    """What steps put artifacts into and take them from. Threads may share it, and it can be sent to other processes."""

    def __init__(self, backend: Backend, cache: Path | None = None):
        self.backend = backend
        self.cache = cache
        """Where blobs of a remote store are kept; by default TOKENMILL_CACHE or ~/.cache/tokenmill."""
        self._contents: dict[tuple[str, str], str] = {}  # blob and name → content, of blobs that were found to be right
        self._verified: dict[str, tuple[int, int]] = {}  # sha → size and time of the file that was found to be right

    def __reduce__(self) -> tuple[type, tuple[Backend, Path | None]]:
        return ArtifactStore, (self.backend, self.cache)

    @property
    def uri(self) -> str:
        return self.backend.uri

    def check(self) -> None:
        """See that the store can be written, read, and refuses to overwrite where it must: what a preflight asks.

        Raises:
            StoreError: it cannot, with what to do about it.
        """
        key, data = f"gc/{uuid.uuid4().hex}", b"[]"  # an empty notice
        try:
            if not self.backend.create(key, data) or self.backend.get(key) != data or self.backend.create(key, data):
                raise StoreError(f"{self.uri} overwrites what exists (it ignores If-None-Match): use another store")
        finally:
            self.backend.delete(key)

    # Blobs

    def put_blob(self, data: bytes | Path) -> tuple[str, int]:
        """Store bytes, or a file's; returns their sha256 and size. What is there already is not sent again."""
        sha, size, stamp = _hash(data)
        key = layout.blob_key(sha)
        while True:
            found = self.backend.stat(key)
            if not found or found.size != size or time.time() - found.modified > FRESH_S:
                self.backend.put(key, data)
                if isinstance(data, Path) and stamp != _stamp(data):
                    self.backend.delete(key)
                    raise StoreError(f"{data} changed while it was being stored: let its writer finish, then run again")
            if not wait_until_spared(self.backend, [key]):
                return sha, size

    def get_blob(self, sha: str) -> bytes:
        """The blob's bytes, verified."""
        cached = self._cached(sha)
        data = cached.read_bytes() if cached.exists() else self.backend.get(layout.blob_key(sha))
        if hashlib.sha256(data).hexdigest() == sha:
            return data
        if cached.exists() and not isinstance(self.backend, LocalBackend):
            cached.unlink(missing_ok=True)  # the copy is wrong; perhaps the original is right
            return self.get_blob(sha)
        raise self._corrupt(sha)

    def blob_path(self, sha: str) -> Path:
        """A local read-only file with the blob's bytes, verified once per process; from S3 it stays in the cache."""
        path = self._cached(sha)
        if self._is_right(path, sha):
            return path
        if not isinstance(self.backend, LocalBackend):
            with _alone(path):
                if self._is_right(path, sha):  # another process of this machine has fetched it meanwhile
                    return path
                self.backend.fetch(layout.blob_key(sha), path)
                if self._is_right(path, sha):
                    return path
                path.unlink(missing_ok=True)
        if not self.backend.exists(layout.blob_key(sha)):
            raise NotFoundError(f"blob {sha} is not in {self.uri}: rerun the step that makes it")
        raise self._corrupt(sha)

    def path_of(self, shard: Shard) -> Path:
        """A local read-only file with a shard's bytes, held to both of its digests.

        A manifest's digest covers what a shard is (`content`), not how it is stored (`blob`): whoever writes to the store
        could name another blob. Of tensors and compressed records all bytes are read again for it, once per process.

        Raises:
            CorruptError: the blob is sound, and not what the manifest's digest covers.
        """
        path = self.blob_path(shard.blob)
        if is_its_bytes(shard.name):
            content = shard.blob
        else:
            content = self._contents.get((shard.blob, shard.name)) or content_digest(path, shard.name)
            self._contents[shard.blob, shard.name] = content
        if content != shard.content:
            raise CorruptError(
                f"{shard.name}: blob {shard.blob[:12]} is {content[:12]}, but its manifest's digest covers "
                f"{shard.content[:12]}: somebody changed the manifest; restore it, or rerun its step"
            )
        return path

    def bytes_of(self, shard: Shard) -> bytes:
        """As `path_of`, the bytes themselves."""
        return self.path_of(shard).read_bytes()

    def missing(self, shards: Iterable[Shard]) -> list[Shard]:
        """The shards whose blob is not in the store with its full size."""
        wanted = {shard.blob: shard for shard in shards}
        with ThreadPoolExecutor(16) as pool:
            found = zip(wanted.values(), pool.map(self.backend.stat, map(layout.blob_key, wanted)), strict=True)
            return [shard for shard, entry in found if not entry or entry.size != shard.size]

    def _cached(self, sha: str) -> Path:
        """Where the blob is, or will be, as a local file."""
        key = layout.blob_key(sha)
        if isinstance(self.backend, LocalBackend):
            return self.backend.path(key)
        return (self.cache or Path(os.environ.get("TOKENMILL_CACHE") or Path.home() / ".cache/tokenmill")) / key

    def _is_right(self, path: Path, sha: str) -> bool:
        with suppress(FileNotFoundError):
            stamp = _stamp(path)
            if self._verified.get(sha) != stamp and _hash(path)[0] == sha:
                self._verified[sha] = stamp
            return self._verified.get(sha) == stamp
        return False

    def _corrupt(self, sha: str) -> CorruptError:
        return CorruptError(
            f"{self.uri}/{layout.blob_key(sha)} is damaged: its bytes no longer have that sha256. "
            "Restore that object from a copy, or delete it and run the pipeline again: the step that makes it will"
        )

    # Manifests

    def put_manifest(self, manifest: Manifest) -> str:
        """Publish a manifest whose blobs are all stored; returns its digest. The first to publish one wins.

        Raises:
            StoreError: a blob is missing. A manifest in the store always has its blobs.
        """
        digest = manifest.digest
        key = layout.manifest_key(digest)
        while True:
            if missing := self.missing((*manifest.shards, *manifest.aside)):
                self.backend.delete(key)
                names = ", ".join(shard.name for shard in missing[:3])
                raise StoreError(
                    f"{len(missing)} files of this {manifest.kind} are not in {self.uri} ({names}…): they were removed "
                    "while the step ran, or never stored. Run it again"
                )
            data, blobs = self._encode(manifest)
            for parent in set(manifest.parent_digests):
                self.backend.put(layout.child_key(parent, digest), b"")
            if not self.backend.create(key, data):
                self._renew(key, data)
            if not wait_until_spared(self.backend, [key, *map(layout.blob_key, blobs)]):
                return digest

    def manifest_uri(self, digest: str) -> str:
        """Where a manifest lies: what MLflow, KFP and people are given."""
        return f"{self.uri.rstrip('/')}/manifests/{digest}"

    def has_manifest(self, digest: str) -> bool:
        """Whether it is here; what is not may lie in the store that another was copied from."""
        return self.backend.exists(layout.manifest_key(digest))

    def get_manifest(self, digest: str) -> Manifest:
        """The manifest, verified."""
        return self.manifest_and_blobs(digest)[0]

    def manifest_and_blobs(self, digest: str) -> tuple[Manifest, set[str]]:
        """The manifest, verified, and the sha256 of every blob that it needs."""
        data = self.backend.get(layout.manifest_key(digest))
        try:
            fields = orjson.loads(data)
        except ValueError:
            raise CorruptError(f"{self.uri}/manifests/{digest} is damaged: restore it, or rerun its step") from None
        lists = {name: fields[name]["blob"] for name in SHARD_LISTS if isinstance(fields.get(name), dict)}
        if lists:
            data = canonical(fields | {name: orjson.loads(self.get_blob(sha)) for name, sha in lists.items()})
        manifest = Manifest.from_json(data, expected=digest)
        return manifest, manifest.blobs | set(lists.values())

    def children(self, digest: str) -> list[str]:
        """Digests of the manifests that were made from this one directly."""
        prefix = f"children/{digest}/"
        found = sorted(entry.key.removeprefix(prefix) for entry in self.backend.list(prefix))
        return [child for child in found if self.backend.exists(layout.manifest_key(child))]

    def _renew(self, key: str, data: bytes) -> None:
        """Write what is there once more: it is in use again, and its age is what protects it from gc."""
        with suppress(NotFoundError):
            data = self.backend.get(key)
        self.backend.put(key, data)

    def _encode(self, manifest: Manifest) -> tuple[bytes, set[str]]:
        """A manifest's stored form and the blobs that it needs."""
        fields, blobs = orjson.loads(manifest.to_json()), set(manifest.blobs)
        for name in SHARD_LISTS:
            if len(fields[name]) > INLINE_SHARDS:
                sha, _ = self.put_blob(canonical(fields[name]))
                fields[name] = {"blob": sha, "count": len(fields[name])}
                blobs.add(sha)
        return canonical(fields), blobs

    # The action cache

    def get_action(self, key: str) -> dict[str, Any] | None:
        try:
            return orjson.loads(self.backend.get(layout.action_key(key)))
        except NotFoundError:
            return None

    def create_action(self, key: str, entry: dict[str, Any]) -> bool:
        """Record what a step made; False if somebody was first, whose entry stands."""
        return self.backend.create(layout.action_key(key), canonical(entry))

    def delete_action(self, key: str) -> None:
        """Forget a result, e.g. one whose blobs are missing; the step then runs again."""
        self.backend.delete(layout.action_key(key))

    # Pins

    def pin(self, name: str, digest: str, *, generations: int | None = None) -> None:
        """Keep a manifest, its ancestors and all their blobs from garbage collection, until `unpin`.

        Args:
            generations: of ancestors that are kept; None: all of them. What is not kept may go, and lineage ends there.
        """
        key = layout.pin_key(name)
        self.get_manifest(digest)  # a wrong digest must not take the place of a right one
        self.backend.put(key, canonical({"digest": digest, "generations": generations}))
        while True:
            try:
                kept = self._ancestry(digest, generations)
            except NotFoundError:
                self.backend.delete(key)
                raise
            if not wait_until_spared(self.backend, kept):
                return

    def unpin(self, name: str) -> None:
        self.backend.delete(layout.pin_key(name))

    def pins(self) -> dict[str, str]:
        """Pinned digests by name."""
        return {name: digest for name, (digest, _) in self.pinned().items()}

    def pinned(self) -> dict[str, tuple[str, int | None]]:
        """Name → digest, and how many generations of its ancestors are kept with it."""
        keys = sorted(entry.key for entry in self.backend.list("pins/"))
        found = {key.removeprefix("pins/"): orjson.loads(self.backend.get(key)) for key in keys}
        return {name: (pin["digest"], pin.get("generations")) for name, pin in found.items()}

    def _ancestry(self, digest: str, generations: int | None) -> list[str]:
        """Keys of a manifest, of its ancestors in this store, and of all their blobs."""
        manifests, blobs, ahead, behind = {digest}, set[str](), {digest}, 0
        while ahead:
            read = [self.manifest_and_blobs(one) for one in ahead]
            blobs |= {sha for _, needed in read for sha in needed}
            parents = {parent for manifest, _ in read for parent in manifest.parent_digests} - manifests
            wanted = parents if generations is None or behind < generations else set[str]()
            ahead, behind = {one for one in wanted if self.backend.exists(layout.manifest_key(one))}, behind + 1
            manifests |= ahead
        return [*map(layout.manifest_key, manifests), *map(layout.blob_key, blobs)]


def _hash(data: bytes | Path) -> tuple[str, int, tuple[int, int]]:
    """Sha256, size and stamp."""
    stamp = _stamp(data)
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest(), len(data), stamp
    with data.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), stamp[0], stamp


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes of this machine from fetching a cached file: the ranks of a node want the same ones at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel gives it back with the process
        yield


def _stamp(data: bytes | Path) -> tuple[int, int]:
    """Changes when a file does: size and time of its last change."""
    if isinstance(data, bytes):
        return len(data), 0
    found = data.stat()
    return found.st_size, found.st_mtime_ns
