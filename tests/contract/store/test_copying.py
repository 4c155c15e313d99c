"""A copied store is whole, whatever its source goes on to write, and wherever copying stops."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tokenmill.errors import CorruptError, InputError, StoreError
from tokenmill.manifest import Manifest
from tokenmill.store import ArtifactStore, Entry, copy_store, layout, open_store
from tokenmill.store.copying import NAMING
from tokenmill.store.local import LocalBackend

Publish = Callable[..., Manifest]


def keys(store: ArtifactStore) -> set[str]:
    return {entry.key for entry in store.backend.list()}


def lacking(store: ArtifactStore) -> list[str]:
    """Names of what manifests of a store need and it has not."""
    digests = [entry.key.partition("/")[2] for entry in store.backend.list("manifests/")]
    return [shard.name for digest in digests for shard in store.missing(store.get_manifest(digest).shards)]


def test_everything_but_work_in_progress_arrives_and_only_what_is_new_does_again(
    store: ArtifactStore, folder_store: ArtifactStore, publish: Publish
) -> None:
    first = publish(store, b"one", b"two")
    store.pin("kept", first.digest)
    store.create_action("a1", {"step": "a.b", "version": 1, "outputs": {}})
    store.backend.put("work/k/lease/1", b"{}")
    store.backend.put("runs/r/events/t/1.json", b"{}")
    done = copy_store(store, folder_store)
    assert keys(folder_store) == {key for key in keys(store) if not key.startswith("work/")}
    assert folder_store.get_manifest(first.digest).digest == first.digest and lacking(folder_store) == []
    assert folder_store.pins() == {"kept": first.digest}
    assert done.copied["blobs"].objects == 2 and not done.present
    again = copy_store(store, folder_store)
    assert not again.copied and again.present["blobs"].objects == 2
    second = publish(store, b"three")
    store.unpin("kept")
    store.pin("kept", second.digest)
    more = copy_store(store, folder_store)
    assert (more.copied["blobs"].objects, more.copied["pins"].objects) == (1, 1)
    assert folder_store.pins() == {"kept": second.digest}, "a pin that moved has moved in the copy"


def test_every_area_of_a_store_is_copied_but_what_is_under_way() -> None:
    areas = set(re.findall(r"^([a-z]+)/", str(layout.__doc__), re.MULTILINE))
    assert set(NAMING) == areas - {"work", "gc"} and "audit" in areas


def test_the_way_back_is_the_same(store: ArtifactStore, folder_store: ArtifactStore, publish: Publish) -> None:
    made = publish(store, b"precious")
    copy_store(store, folder_store)
    for key in keys(store):
        store.backend.delete(key)
    copy_store(folder_store, store)
    assert store.get_manifest(made.digest).digest == made.digest and lacking(store) == []


class Busy(LocalBackend):
    """A folder into which somebody publishes whenever it is listed."""

    during: Callable[[], object] = staticmethod(lambda: None)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        yield from list(super().list(prefix))
        if prefix != "gc/":  # which publishing lists itself
            self.during()


def test_what_is_published_meanwhile_leaves_nothing_half_there(
    tmp_path: Path, folder_store: ArtifactStore, publish: Publish
) -> None:
    backend = Busy(tmp_path / "busy")
    busy, count = ArtifactStore(backend), iter(range(10_000))
    publish(busy, b"first")
    backend.during = lambda: publish(busy, b"later %d" % next(count))
    copy_store(busy, folder_store)
    assert next(count) > 5 and lacking(folder_store) == []


class Breaking(LocalBackend):
    """A folder that fails after so many objects."""

    left = 0

    def put(self, key: str, data: bytes | Path) -> None:
        if self.left <= 0:
            raise StoreError("the disk is full")
        self.left -= 1
        super().put(key, data)


@pytest.mark.parametrize("objects", [1, 3, 5, 7])
def test_wherever_it_breaks_off_the_target_is_whole(tmp_path: Path, publish: Publish, objects: int) -> None:
    source = open_store((tmp_path / "source").as_uri())
    for n in range(3):
        source.pin(f"p{n}", publish(source, b"blob %d" % n).digest)
    backend = Breaking(tmp_path / "target")
    backend.left = objects
    target = ArtifactStore(backend)
    with pytest.raises(StoreError, match="full"):
        copy_store(source, target)
    assert lacking(target) == []
    assert {f"manifests/{digest}" for digest in target.pins().values()} <= keys(target)
    backend.left = 100
    copy_store(source, target)
    assert keys(target) == keys(source)


def test_a_damaged_blob_is_not_copied_and_named(
    store: ArtifactStore, folder_store: ArtifactStore, publish: Publish
) -> None:
    made = publish(store, b"right")
    (shard,) = made.shards
    store.backend.put(f"blobs/{shard.blob[:2]}/{shard.blob}", b"wrong")
    with pytest.raises(CorruptError, match=shard.blob):
        copy_store(store, folder_store)
    assert keys(folder_store) == set()


def test_a_store_is_no_copy_of_itself(folder_store: ArtifactStore) -> None:
    with pytest.raises(InputError, match="both source and target"):
        copy_store(folder_store, folder_store)
