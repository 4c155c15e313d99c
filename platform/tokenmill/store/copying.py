"""A copy of a store in another: a backup while runs write, and the way back.

What names others is listed before what it names and written after it: whatever the source goes on to write, and wherever
this breaks off, all that stands in the target is whole. It only adds; run again, it copies what is new. Work in progress is
left out.
"""

import hashlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tokenmill.errors import CorruptError, InputError, StoreError
from tokenmill.store.artifacts import ArtifactStore
from tokenmill.store.backend import Entry, NotFoundError
from tokenmill.store.collection import Amount

NAMING = (
    "pins",
    "registry",
    "audit",
    "annotations",
    "tombstones",
    "runs",
    "actions",
    "children",
    "manifests",
    "environments",
    "blobs",
)
"""Areas of a store; each names only what is in those after it."""
CHANGING = frozenset({"pins", "registry", "annotations", "tombstones"})
"""Where an object may be replaced. Elsewhere one that is there is the same one."""
THREADS = 8


@dataclass
class Copied:
    """Objects and bytes by area."""

    copied: dict[str, Amount] = field(default_factory=dict)
    present: dict[str, Amount] = field(default_factory=dict)


def copy_store(source: ArtifactStore, target: ArtifactStore) -> Copied:
    """Copy what the target lacks.

    Raises:
        CorruptError: a blob of the source is damaged.
        StoreError: what was listed was collected meanwhile.
    """
    if source.uri == target.uri:
        raise InputError(f"{source.uri} is both source and target")
    target.check()
    listed = {area: list(source.backend.list(f"{area}/")) for area in NAMING}
    done = Copied()
    for area in reversed(NAMING):
        with ThreadPoolExecutor(THREADS) as pool:
            for entry, new in pool.map(lambda entry: (entry, _copy(source, target, entry)), listed[area]):
                (done.copied if new else done.present).setdefault(area, Amount()).add(entry.size)
    return done


def _copy(source: ArtifactStore, target: ArtifactStore, entry: Entry) -> bool:
    """Whether the object had to be copied."""
    area = entry.key.partition("/")[0]
    there = target.backend.stat(entry.key)
    if there and there.size == entry.size and area not in CHANGING:
        return False
    try:
        if area == "blobs":
            _copy_blob(source, target, entry.key)
            return True
        data = source.backend.get(entry.key)
        if there and target.backend.get(entry.key) == data:
            return False
        target.backend.put(entry.key, data)
    except NotFoundError:
        raise StoreError(f"{entry.key} was deleted from {source.uri} meanwhile: copy again") from None
    return True


def _copy_blob(source: ArtifactStore, target: ArtifactStore, key: str) -> None:
    with tempfile.TemporaryDirectory(prefix="tokenmill-copy-") as folder:
        path = Path(folder) / "blob"
        source.backend.fetch(key, path)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != key.rpartition("/")[2]:
                raise CorruptError(f"{source.uri}/{key} is damaged: its bytes no longer have that sha256")
        target.backend.put(key, path)
