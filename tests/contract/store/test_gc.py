"""Garbage collection: what is in use stays, the rest goes, and a kill at any moment breaks nothing."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenmill.errors import CorruptError, StoreError
from tokenmill.manifest import Manifest
from tokenmill.store import ArtifactStore, acquire, collection, du, gc
from tokenmill.store.collection import _Live
from tokenmill.store.layout import registry_key
from tokenmill.store.local import LocalBackend

Publish = Callable[..., Manifest]
Grown = tuple[Manifest, Manifest, Manifest, Manifest]


def keys(store: ArtifactStore, area: str) -> set[str]:
    return {entry.key.rpartition("/")[2] for entry in store.backend.list(f"{area}/")}


def blobs(*manifests: Manifest) -> set[str]:
    return {shard.blob for manifest in manifests for shard in (*manifest.shards, *manifest.aside)}


def record_action(store: ArtifactStore, key: str, manifest: Manifest) -> None:
    assert store.create_action(key, {"output": manifest.body()})


def assert_whole(store: ArtifactStore) -> None:
    """The invariant: a manifest or an action that is present has its blobs."""
    present = keys(store, "blobs")
    for digest in keys(store, "manifests"):
        assert store.manifest_and_blobs(digest)[1] <= present
    for key in keys(store, "actions"):
        entry = store.get_action(key)
        assert entry and {shard["blob"] for shard in entry["output"]["shards"]} <= present


@pytest.fixture
def grown(store: ArtifactStore, publish: Publish) -> Grown:
    """A pinned chain source → corpus → weights; beside it a failed experiment that shares one blob with the corpus."""
    source = publish(store, b"source", kind="sources")
    corpus = publish(store, b"shared", b"corpus", parents=(source,), aside=b"rejected")
    weights = publish(store, b"weights", kind="weights", parents=(corpus,))
    failed = publish(store, b"shared", b"experiment", kind="weights", parents=(corpus,))
    store.put_blob(b"orphan")
    for name, manifest in {"corpus": corpus, "weights": weights, "failed": failed}.items():
        record_action(store, name, manifest)
    store.pin("models/base/1", weights.digest)
    return source, corpus, weights, failed


def test_pinned_artifacts_stay_with_their_ancestors_and_the_rest_goes(store: ArtifactStore, grown: Grown) -> None:
    source, corpus, weights, _ = grown
    before = {entry.key for entry in store.backend.list()}
    plan = gc(store, min_age_s=0, dry_run=True)
    assert {entry.key for entry in store.backend.list()} == before
    report = gc(store, min_age_s=0)
    assert report.deleted == plan.deleted
    assert keys(store, "manifests") == {m.digest for m in (source, corpus, weights)}
    assert keys(store, "blobs") == blobs(source, corpus, weights)
    assert keys(store, "actions") == {"corpus", "weights"}
    assert store.children(corpus.digest) == [weights.digest]
    assert {area: amount.objects for area, amount in report.deleted.items()} == {
        "actions": 1, "manifests": 1, "children": 1, "registry": 0, "work": 0, "blobs": 2,
    }  # fmt: skip
    assert report.deleted["blobs"].bytes == len(b"experiment") + len(b"orphan")
    assert (report.kept_manifests, report.kept_blobs, report.lost_parents) == (3, 5, [])
    assert keys(store, "gc") == set()
    assert_whole(store)


def test_of_a_pin_with_generations_what_lies_further_up_goes(store: ArtifactStore, publish: Publish) -> None:
    """A refused model: its verdict and evaluation stay, the weights go; a second model's evaluation keeps its own."""
    refused, passed = publish(store, b"refused", kind="weights"), publish(store, b"passed", kind="weights")
    evaluation = publish(store, b"evaluation", parents=(refused,))
    reference = publish(store, b"reference", parents=(passed,))
    verdict = publish(store, b"verdict", parents=(evaluation, reference))
    release = publish(store, b"release", parents=(reference,))
    store.pin("verdicts/chat/2", verdict.digest, generations=1)
    store.pin("models/chat/1", release.digest)
    report = gc(store, min_age_s=0)
    kept = (verdict, evaluation, reference, release, passed)
    assert keys(store, "manifests") == {one.digest for one in kept} and keys(store, "blobs") == blobs(*kept)
    assert (report.kept_manifests, report.lost_parents) == (5, [])
    assert_whole(store)
    store.unpin("models/chat/1")
    gc(store, min_age_s=0)
    assert keys(store, "manifests") == {one.digest for one in (verdict, evaluation, reference)}
    assert_whole(store)


def test_what_is_kept_without_its_ancestors_keeps_them_once_a_whole_life_is_pinned(
    folder_store: ArtifactStore, publish: Publish
) -> None:
    """In the middle of a collection, which looks again before it deletes."""
    weights = publish(folder_store, b"weights", kind="weights")
    evaluation = publish(folder_store, b"evaluation", parents=(weights,))
    folder_store.pin("verdicts/chat/1", evaluation.digest, generations=0)
    live = _Live(folder_store, lambda entry: False, now=0)
    live.mark()
    assert live.blobs == blobs(evaluation)
    folder_store.pin("models/chat/1", evaluation.digest)
    live.mark()
    assert live.blobs == blobs(evaluation, weights)


def test_a_registered_version_is_forgotten_with_its_manifest(store: ArtifactStore, grown: Grown) -> None:
    _, _, weights, failed = grown
    for manifest in (weights, failed):
        store.backend.put(registry_key("mlflow", "base", manifest.digest), b"1")
    report = gc(store, min_age_s=0)
    assert keys(store, "registry") == {weights.digest}
    assert (report.deleted["registry"].objects, report.deleted["registry"].bytes) == (1, 1)
    assert du(store).areas["registry"].bytes == 1


def test_what_is_young_stays(store: ArtifactStore, grown: Grown) -> None:
    before = {entry.key for entry in store.backend.list()}
    store.unpin("models/base/1")
    report = gc(store, min_age_s=3600)
    assert {entry.key for entry in store.backend.list()} == before - {"pins/models/base/1"}
    assert report.bytes == 0


def test_a_young_manifest_keeps_old_ancestors_and_a_young_action_its_blobs(
    folder_store: ArtifactStore, publish: Publish
) -> None:
    old = publish(folder_store, b"old")
    cached = publish(folder_store, b"cached")
    publish(folder_store, b"garbage")
    backend = folder_store.backend
    assert isinstance(backend, LocalBackend)
    for entry in backend.list():
        os.utime(backend.path(entry.key), (0, 0))
    record_action(folder_store, "young", cached)
    young = publish(folder_store, b"young", parents=(old,))
    gc(folder_store, min_age_s=3600)
    assert keys(folder_store, "manifests") == {old.digest, young.digest}
    assert keys(folder_store, "blobs") == blobs(old, young, cached)
    assert_whole(folder_store)


def test_a_live_run_keeps_its_inputs_and_its_finished_shards(store: ArtifactStore, publish: Publish) -> None:
    source = publish(store, b"input")
    with acquire(store, "live", ttl_s=20, protects=[source.digest]) as lease:  # type: ignore[union-attr]
        shard, _ = store.put_blob(b"finished shard")
        store.backend.put(
            f"work/live/{lease.attempt}/part-00000.json", b'{"shards": [{"blob": "%s"}]}' % shard.encode()
        )
        dead, _ = store.put_blob(b"of a dead attempt")
        store.backend.put("work/dead/000001/part-00000.json", b'{"draft": {"blob": "%s"}}' % dead.encode())
        gc(store, min_age_s=0)
        assert keys(store, "manifests") == {source.digest}
        assert keys(store, "blobs") == {shard} | blobs(source)
        assert {entry.key.split("/")[1] for entry in store.backend.list("work/")} == {"live"}
        lease.check()
    gc(store, min_age_s=0)
    assert {entry.key for entry in store.backend.list()} == set()


def test_a_run_that_publishes_while_gc_is_about_to_delete_is_spared(
    store: ArtifactStore, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the notice is posted the collector looks again: it must see the new manifest over the old blob."""
    manifest = publish(store, b"old")
    store.backend.delete(f"manifests/{manifest.digest}")
    run = threading.Thread(target=store.put_manifest, args=[manifest])
    mark = _Live.mark

    def publish_then_mark(live: _Live) -> None:
        if keys(store, "gc") and not run.ident:
            run.start()
            await_(lambda: keys(store, "manifests"), run)
        mark(live)

    monkeypatch.setattr(_Live, "mark", publish_then_mark)
    gc(store, min_age_s=0)
    run.join()
    assert keys(store, "manifests") == {manifest.digest}
    assert keys(store, "blobs") == blobs(manifest)


@pytest.mark.parametrize("reads_it", ["while it stands", "when it is gone"])
def test_a_run_that_comes_after_that_look_stores_again(
    store: ArtifactStore, publish: Publish, monkeypatch: pytest.MonkeyPatch, reads_it: str
) -> None:
    """It finds the blob, which is still there, and a notice; what that says it may come too late to read."""
    store.put_blob(b"old")
    run, published = threading.Thread(target=lambda: published.append(publish(store, b"old"))), list[Manifest]()
    mark, read, met, over = _Live.mark, store.backend.get, threading.Event(), threading.Event()

    def mark_then_publish(live: _Live) -> None:
        mark(live)
        if keys(store, "gc") and not run.ident:
            run.start()
            assert met.wait(20)

    def read_and_tell(key: str) -> bytes:
        if not key.startswith("gc/") or threading.current_thread() is not run:
            return read(key)
        if reads_it == "when it is gone":
            met.set()
            assert over.wait(20)
        try:
            return read(key)
        finally:
            met.set()

    monkeypatch.setattr(store.backend, "get", read_and_tell)
    monkeypatch.setattr(_Live, "mark", mark_then_publish)
    report = gc(store, min_age_s=0)
    over.set()
    assert report.deleted["blobs"].objects == 1
    run.join()
    assert published, "the run came through"
    assert keys(store, "blobs") == blobs(*published)
    assert_whole(store)


def test_a_manifest_that_comes_after_that_look_is_withdrawn(
    store: ArtifactStore, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blob cannot be saved any more, and it has no bytes to store again: better none than one without blobs."""
    manifest = publish(store, b"old")
    store.backend.delete(f"manifests/{manifest.digest}")
    refused: list[StoreError] = []

    def put_manifest() -> None:
        try:
            store.put_manifest(manifest)
        except StoreError as error:
            refused.append(error)

    run, mark = threading.Thread(target=put_manifest), _Live.mark

    def mark_then_publish(live: _Live) -> None:
        mark(live)
        if keys(store, "gc") and not run.ident:
            run.start()
            await_(lambda: keys(store, "manifests"), run)

    monkeypatch.setattr(_Live, "mark", mark_then_publish)
    assert gc(store, min_age_s=0).deleted["blobs"].objects == 1
    run.join()
    assert "removed while the step ran" in str(refused[0])
    assert keys(store, "manifests") == set()


def test_a_kill_at_any_moment_breaks_nothing(
    folder_store: ArtifactStore, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = folder_store
    pinned = publish(store, b"kept")
    store.pin("kept", pinned.digest)
    for n in range(4):
        record_action(store, f"action-{n}", publish(store, b"shared", b"%d" % n, parents=(pinned,)))
    delete = store.backend.delete
    monkeypatch.setattr(collection, "BATCH", 3)
    kills = 0
    while True:
        left = 1

        def delete_once(key: str) -> None:
            nonlocal left
            if not key.startswith("gc/"):
                if not left:
                    raise KeyboardInterrupt
                left -= 1
            delete(key)

        monkeypatch.setattr(store.backend, "delete", delete_once)
        try:
            gc(store, min_age_s=0)
            break
        except KeyboardInterrupt:
            kills += 1
        finally:
            assert_whole(store)
    assert kills > 10
    assert keys(store, "blobs") == blobs(pinned)


def test_a_root_that_cannot_be_read_stops_everything(store: ArtifactStore, grown: Grown) -> None:
    weights = grown[2]
    store.backend.put(f"manifests/{weights.digest}", b"damaged")
    before = {entry.key for entry in store.backend.list()}
    with pytest.raises(CorruptError):
        gc(store, min_age_s=0)
    assert {entry.key for entry in store.backend.list()} == before


def test_a_lost_ancestor_is_reported(store: ArtifactStore, grown: Grown) -> None:
    source = grown[0]
    store.backend.delete(f"manifests/{source.digest}")
    assert gc(store, min_age_s=0).lost_parents == [source.digest]


def test_du_adds_up(store: ArtifactStore, grown: Grown) -> None:
    use = du(store)
    assert {kind: amount.bytes for kind, amount in use.kinds.items()} == {
        "sources": len(b"source"), "corpus": len(b"sharedcorpusrejected"), "weights": len(b"weightsexperiment"),
    }  # fmt: skip
    assert use.unreferenced.bytes == len(b"orphan")
    assert use.areas["blobs"].bytes == sum(a.bytes for a in use.kinds.values()) + use.unreferenced.bytes
    if isinstance(store.backend, LocalBackend):
        files = [path for path in Path(store.backend.root).rglob("*") if path.is_file()]
        assert sum(a.bytes for a in use.areas.values()) == sum(path.stat().st_size for path in files)


def await_(condition: Callable[[], object], thread: threading.Thread, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline or not thread.is_alive():
            raise AssertionError("it did not happen")
        time.sleep(0.02)
