"""Files of artifacts: into the store, out of it, and the folders that they are made in."""

import errno
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenmill.errors import CorruptError, StoreError
from tokenmill.manifest import Manifest, Shard
from tokenmill.records import Record, content_digest, write_jsonl
from tokenmill.store import ArtifactStore


def store_file(store: ArtifactStore, path: Path, name: str, records: int = 0) -> Shard:
    """Store a file as one shard of an artifact."""
    content = content_digest(path)
    blob, size = store.put_blob(path)
    return Shard(name=name, blob=blob, content=content, size=size, records=records)


def store_records(store: ArtifactStore, workdir: Path, name: str, rows: Iterable[Record]) -> Shard:
    """Store records as one JSONL.zst shard."""
    path = workdir / "shards" / name
    content, count = write_jsonl(path, rows)
    blob, size = store.put_blob(path)
    path.unlink()
    return Shard(name=name, blob=blob, content=content, size=size, records=count)


def materialise(store: ArtifactStore, manifest: Manifest, folder: Path) -> Path:
    """Lay an artifact's files into `folder` under their own names, each as the manifest's digest covers it."""
    for shard in manifest.shards:
        target = folder / shard.name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise CorruptError(f"{manifest.kind} {manifest.digest[:12]}: file name {shard.name!r} leaves its folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store.path_of(shard), target)
    return folder


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder that is gone afterwards. What a killed step leaves in one is never read again.

    Raises:
        StoreError: the disk that it lies on is full.
    """
    with tempfile.TemporaryDirectory(prefix="tokenmill-", ignore_cleanup_errors=True) as folder:
        try:
            yield Path(folder)
        except OSError as failure:
            if failure.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StoreError(
                f"{tempfile.gettempdir()} is full: free space there or set TMPDIR, then run again"
            ) from None
