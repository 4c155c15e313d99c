"""Blobs, manifests, the action cache and pins, over both backends."""

import hashlib
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import pytest
from safetensors.numpy import save_file

from tokenmill.errors import CorruptError, InputError, StoreError
from tokenmill.manifest import Draft, Manifest, Shard, canonical
from tokenmill.records import write_jsonl
from tokenmill.steps.files import materialise, store_file
from tokenmill.store import ArtifactStore, Backend, NotFoundError, open_store
from tokenmill.store.artifacts import FRESH_S
from tokenmill.store.local import LocalBackend

Publish = Callable[..., Manifest]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def plant(store: ArtifactStore, digest: str, data: bytes) -> None:
    store.backend.put(f"blobs/{digest[:2]}/{digest}", data)


def test_a_blob_is_stored_under_its_sha256(store: ArtifactStore, tmp_path: Path) -> None:
    data = b"some bytes"
    (tmp_path / "f").write_bytes(data)
    assert store.put_blob(data) == (sha(data), len(data))
    assert store.put_blob(tmp_path / "f") == (sha(data), len(data))
    assert [e.key for e in store.backend.list()] == [f"blobs/{sha(data)[:2]}/{sha(data)}"]
    assert store.get_blob(sha(data)) == data
    assert store.blob_path(sha(data)).read_bytes() == data
    assert pickle.loads(pickle.dumps(store)).get_blob(sha(data)) == data


def test_a_damaged_blob_is_found_and_named(store: ArtifactStore) -> None:
    digest, _ = store.put_blob(b"right")
    plant(store, digest, b"wrong")
    for read in (store.get_blob, store.blob_path):
        with pytest.raises(CorruptError, match=digest) as error:
            read(digest)
        assert "\n" not in str(error.value)


def test_a_missing_blob_and_a_wrong_digest_are_refused(store: ArtifactStore) -> None:
    for read in (store.get_blob, store.blob_path):
        with pytest.raises(NotFoundError):
            read(sha(b"never stored"))
        with pytest.raises(StoreError, match="64 hexadecimal"):
            read("../../../etc/passwd")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl.zst", "a.safetensors"])
def test_a_sound_blob_that_a_manifest_does_not_cover_is_refused(store: ArtifactStore, tmp_path: Path, name) -> None:
    """Planted: somebody put another blob's sha256 into a stored manifest, whose digest that leaves as it was."""
    right, wrong = (made_file(tmp_path / side, name, side) for side in ("right", "wrong"))
    shard = store_file(store, right, name)
    manifest = Manifest.issue(Draft(kind="thing", shards=(shard,)), parents={}, step="test.made", version=1, config={})
    blob, size = store.put_blob(wrong)
    forged = manifest.model_copy(update={"shards": (shard.model_copy(update={"blob": blob, "size": size}),)})
    assert Manifest.from_json(forged.to_json()).digest == manifest.digest  # nothing else finds it
    assert store.path_of(shard).read_bytes() == store.bytes_of(shard) == right.read_bytes()
    materialise(store, manifest, tmp_path / "whole")
    for read in (store.path_of, store.bytes_of, lambda s: materialise(store, forged, tmp_path / "forged")):
        with pytest.raises(CorruptError, match=f"{name}: blob {blob[:12]} is .*somebody changed the manifest"):
            read(forged.shards[0])
    assert store.path_of(shard)


def made_file(folder: Path, name: str, word: str) -> Path:
    folder.mkdir()
    if name.endswith(".zst"):
        write_jsonl(folder / name, [{"id": word}])
    elif name.endswith(".safetensors"):
        save_file({"a": np.array([len(word), ord(word[0])], dtype=np.float32)}, folder / name)
    else:
        (folder / name).write_text(word)
    return folder / name


def test_the_path_of_a_blob(store: ArtifactStore, tmp_path: Path) -> None:
    """In a folder it is the stored file itself; from S3 a verified copy, which needs the server no more."""
    digest, _ = store.put_blob(b"right")
    path = store.blob_path(digest)
    if isinstance(store.backend, LocalBackend):
        assert path == store.backend.path(f"blobs/{digest[:2]}/{digest}")
        return
    assert path.is_relative_to(tmp_path / "cache")
    store.backend.delete(f"blobs/{digest[:2]}/{digest}")
    assert ArtifactStore(store.backend).blob_path(digest).read_bytes() == b"right"
    assert ArtifactStore(store.backend).get_blob(digest) == b"right"
    plant(store, digest, b"right")
    path.unlink()
    path.write_bytes(b"wrong")
    assert ArtifactStore(store.backend).get_blob(digest) == b"right"
    path.unlink(missing_ok=True)
    path.write_bytes(b"wrong")
    assert ArtifactStore(store.backend).blob_path(digest).read_bytes() == b"right"


def test_those_who_share_a_cache_fetch_a_blob_once(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the ranks of a node do: each has its own store, and all want the same token shards at once."""
    digest, _ = store.put_blob(b"wanted by all")
    fetch, fetched = type(store.backend).fetch, []

    def slow(backend: Backend, key: str, path: Path) -> None:
        fetched.append(key)
        time.sleep(0.1)
        fetch(backend, key, path)

    monkeypatch.setattr(type(store.backend), "fetch", slow)
    with ThreadPoolExecutor(4) as ranks:
        paths = list(ranks.map(lambda _: ArtifactStore(store.backend).blob_path(digest), range(4)))
    assert len(set(paths)) == 1 and paths[0].read_bytes() == b"wanted by all"
    assert len(fetched) == (0 if isinstance(store.backend, LocalBackend) else 1)


def test_a_file_that_changes_while_it_is_stored_is_refused(
    folder_store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, put = tmp_path / "f", folder_store.backend.put
    source.write_bytes(b"right")

    def change_and_put(key: str, data: bytes | Path) -> None:
        source.write_bytes(b"wrong!")
        put(key, data)

    monkeypatch.setattr(folder_store.backend, "put", change_and_put)
    with pytest.raises(StoreError, match="changed while"):
        folder_store.put_blob(source)
    assert list(folder_store.backend.list()) == []


def test_a_blob_that_is_put_again_is_young_again(folder_store: ArtifactStore) -> None:
    """Being young is what protects it from garbage collection until a manifest names it."""
    digest, _ = folder_store.put_blob(b"x")
    key = f"blobs/{digest[:2]}/{digest}"
    old = time.time() - FRESH_S - 1
    os.utime(folder_store.blob_path(digest), (old, old))
    folder_store.put_blob(b"x")
    entry = folder_store.backend.stat(key)
    assert entry and time.time() - entry.modified < 60


def test_a_manifest_comes_back_and_knows_its_children(store: ArtifactStore, publish: Publish) -> None:
    parent = publish(store, b"1", b"2")
    child = publish(store, b"3", parents=(parent,))
    assert store.get_manifest(parent.digest) == parent
    assert store.get_manifest(child.digest).parent_digests == [parent.digest]
    assert store.children(parent.digest) == [child.digest]
    assert store.children(child.digest) == []
    with pytest.raises(NotFoundError):
        store.get_manifest("0" * 64)


def test_a_manifest_without_its_blobs_is_not_published(store: ArtifactStore) -> None:
    shard = Shard(name="part-00000", blob=sha(b"absent"), content="c", size=6)
    manifest = Manifest.issue(Draft(kind="corpus", shards=(shard,)), parents={}, step="s", version=1, config={})
    with pytest.raises(StoreError, match="part-00000"):
        store.put_manifest(manifest)
    plant(store, shard.blob, b"cut")
    with pytest.raises(StoreError, match="part-00000"):
        store.put_manifest(manifest)
    draft = Draft(kind="corpus", shards=(), aside=(shard,))
    with pytest.raises(StoreError, match="part-00000"):
        store.put_manifest(Manifest.issue(draft, parents={}, step="s", version=1, config={}))
    assert list(store.backend.list("manifests/")) == []


def test_the_first_to_publish_a_manifest_wins(store: ArtifactStore, publish: Publish) -> None:
    manifest = publish(store, b"1")
    store.put_manifest(manifest.model_copy(update={"observed": {"host": "second"}}))
    assert store.get_manifest(manifest.digest).observed == {}


def test_the_manifest_of_many_shards_stays_small(store: ArtifactStore) -> None:
    digest, size = store.put_blob(b"the same bytes in every shard")
    shards = tuple(Shard(name=f"part-{n:05d}", blob=digest, content=f"{n:064x}", size=size) for n in range(1500))
    draft = Draft(kind="corpus", shards=shards, aside=shards[:1200])
    manifest = Manifest.issue(draft, parents={}, step="s", version=1, config={})
    store.put_manifest(manifest)
    entry = store.backend.stat(f"manifests/{manifest.digest}")
    assert entry and entry.size < 10_000
    assert store.get_manifest(manifest.digest) == manifest
    assert len(store.manifest_and_blobs(manifest.digest)[1]) == 3, "the shards' one blob, and two lists"


def test_tampered_and_newer_manifests_are_refused(store: ArtifactStore, publish: Publish) -> None:
    manifest = publish(store, b"1")
    key = f"manifests/{manifest.digest}"
    stored = orjson.loads(store.backend.get(key))
    store.backend.put(key, canonical(stored | {"version": 2}))
    with pytest.raises(CorruptError, match=manifest.digest):
        store.get_manifest(manifest.digest)
    store.backend.put(key, b"{ not JSON")
    with pytest.raises(CorruptError, match=manifest.digest):
        store.get_manifest(manifest.digest)
    store.backend.put(key, canonical(stored | {"schema_version": "99.0"}))
    with pytest.raises(InputError, match="newer"):
        store.get_manifest(manifest.digest)


def test_the_action_cache_keeps_the_first_entry(store: ArtifactStore) -> None:
    assert store.get_action("k" * 64) is None
    assert store.create_action("k" * 64, {"output": 1})
    assert not store.create_action("k" * 64, {"output": 2})
    assert store.get_action("k" * 64) == {"output": 1}
    store.delete_action("k" * 64)
    assert store.get_action("k" * 64) is None


def test_pins(store: ArtifactStore, publish: Publish) -> None:
    first, second = publish(store, b"1"), publish(store, b"2")
    store.pin("models/chat/1", first.digest)
    with pytest.raises(NotFoundError):
        store.pin("models/chat/1", "0" * 64)
    assert store.pins() == {"models/chat/1": first.digest}
    store.pin("models/chat/1", second.digest)
    assert store.pins() == {"models/chat/1": second.digest}
    store.unpin("models/chat/1")
    assert store.pins() == {}


def test_preflight_sees_that_a_store_works_and_that_one_overwrites(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_STORE", uri)
    store = open_store()
    store.check()
    assert list(store.backend.list()) == []

    def overwrite(key: str, data: bytes) -> bool:
        store.backend.put(key, data)
        return True

    monkeypatch.setattr(store.backend, "create", overwrite)
    with pytest.raises(StoreError, match="overwrites"):
        store.check()
