"""What an engine is given is exactly what the digest names, whatever was there before."""

import shutil
import threading
from pathlib import Path

import numpy as np
import orjson
import pytest
from pico import Lab, released
from release_facts import FACTS
from safetensors.numpy import save_file

from tokenmill.deployment import fetch as fetching
from tokenmill.deployment.fetch import fetch, verify_in_place
from tokenmill.deployment.publish import publish
from tokenmill.deployment.release import sha256_of
from tokenmill.deployment.verify import verify
from tokenmill.errors import ConfigError, CorruptError, InputError, StoreError, UserError
from tokenmill.steps.files import materialise
from tokenmill.store import NotFoundError, open_store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str, str]:
    """A published folder, its digest, the store that it comes from, and the manifest's digest there."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    release = released(lab).release
    folder = materialise(lab.store, release, lab.folder / "release")
    digest = publish(folder, (lab.folder / "bucket").as_uri())
    return lab.folder / "bucket", digest, lab.store.uri, release.digest


@pytest.fixture
def release(made: tuple[Path, str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, str]:
    """URI of a published folder of the test's own, its digest, and the manifest's in the environment's store."""
    bucket, digest, store, manifest = made
    shutil.copytree(bucket, tmp_path / "bucket")
    monkeypatch.setenv("TOKENMILL_STORE", store)
    return (tmp_path / "bucket").as_uri(), digest, manifest


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node's folder of models."""
    return tmp_path / "node" / "models"


def copies(into: Path) -> set[str]:
    return {path.name for path in into.iterdir() if not path.name.endswith(".lock")}


def test_a_folder_is_fetched_and_is_the_release(release, node: Path) -> None:
    uri, digest, _ = release
    folder = fetch(uri, digest, node)
    assert folder == node / digest
    verify(folder, expected=digest)  # the release's own check, which knows nothing of fetching
    assert copies(node) == {digest}


def test_a_manifest_of_the_store_is_fetched(release, node: Path) -> None:
    _, of_folder, digest = release
    folder = fetch("store:", digest, node)
    verify(folder, expected=of_folder)


@pytest.mark.parametrize("name", ["release.json", "config.json", "model.safetensors"])
def test_other_bytes_behind_a_manifest_of_the_same_digest_are_refused(made, name, node, tmp_path, monkeypatch) -> None:
    """A digest covers what files are, not which blobs hold them: whoever writes to the store may change the latter."""
    _, _, uri, digest = made
    forged = Path(shutil.copytree(uri.removeprefix("file://"), tmp_path / "store"))
    store = open_store(forged.as_uri())
    manifest = store.get_manifest(digest)
    evil = tmp_path / name
    evil.write_bytes(store.get_blob(manifest.shard(name).blob).replace(b"0", b"1"))
    blob, size = store.put_blob(evil)
    shards = tuple(s.model_copy(update={"blob": blob, "size": size}) if s.name == name else s for s in manifest.shards)
    (forged / "manifests" / digest).chmod(0o644)
    (forged / "manifests" / digest).write_bytes(manifest.model_copy(update={"shards": shards}).to_json())
    monkeypatch.setenv("TOKENMILL_STORE", forged.as_uri())
    assert open_store().get_manifest(digest).digest == digest  # the manifest itself is accepted
    with pytest.raises(CorruptError, match="restore that object"):
        fetch("store:", digest, node)


def test_an_adapter_without_a_release_json_is_held_to_what_its_tensors_are(tmp_path, node, monkeypatch) -> None:
    lab = Lab(tmp_path / "lab")
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    save_file({"a": np.arange(4, dtype=np.float32)}, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    made = lab.issue_folder("adapter", folder)
    monkeypatch.setenv("TOKENMILL_STORE", lab.store.uri)
    got = fetch("store:", made.digest, node)
    assert (got / "adapter_model.safetensors").read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
    save_file({"a": np.ones(4, dtype=np.float32)}, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    blob, size = lab.store.put_blob(folder / "adapter_model.safetensors")
    forged = tuple(
        s.model_copy(update={"blob": blob, "size": size}) if s.name.endswith(".safetensors") else s for s in made.shards
    )
    path = Path(lab.store.uri.removeprefix("file://")) / "manifests" / made.digest
    path.chmod(0o644)
    path.write_bytes(made.model_copy(update={"shards": forged}).to_json())
    with pytest.raises(CorruptError, match=r"adapter_model\.safetensors|restore that object"):
        fetch("store:", made.digest, tmp_path / "other-node")


def test_the_second_pod_fetches_nothing(release, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, digest, _ = release
    folder = fetch(uri, digest, node)
    monkeypatch.setattr(fetching, "_download", None)
    assert fetch(uri, digest, node) == folder


def damage_weights(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        damage_weights,
        lambda folder: (folder / "tokenizer.json").unlink(),
        lambda folder: (folder / "release.json").write_text("{}"),
        lambda folder: (folder / "modeling.py").write_text("import os"),
    ],
)
def test_a_damaged_copy_on_the_node_is_made_whole(release, node: Path, damage) -> None:
    uri, digest, _ = release
    damage(fetch(uri, digest, node))
    verify(fetch(uri, digest, node), expected=digest)


def test_what_was_fetched_before_a_kill_is_not_fetched_again(release, node: Path, monkeypatch) -> None:
    uri, digest, _ = release
    fetched, download = [], fetching._download

    def failing(backend, file, target):
        if file.name == "tokenizer.json":
            raise StoreError("the connection broke")
        fetched.append(file.name)
        return download(backend, file, target)

    monkeypatch.setattr(fetching, "SIDE_BY_SIDE", 1)
    monkeypatch.setattr(fetching, "_download", failing)
    with pytest.raises(StoreError):
        fetch(uri, digest, node)
    assert copies(node) == {f".{digest}.partial"}  # nothing under the name that an engine would serve
    first, again = list(fetched), []
    monkeypatch.setattr(fetching, "_download", lambda b, f, t: (again.append(f.name), download(b, f, t))[1])
    verify(fetch(uri, digest, node), expected=digest)
    assert "model.safetensors" in first and not set(first) & set(again)


def test_damage_in_the_bucket_never_reaches_an_engine(release, node: Path) -> None:
    uri, digest, _ = release
    weights = Path(uri.removeprefix("file://")) / "model.safetensors"
    weights.chmod(0o644)
    damage_weights(weights.parent)
    with pytest.raises(CorruptError, match=r"model\.safetensors has sha256 .*the engine is not started"):
        fetch(uri, digest, node)
    assert digest not in copies(node)


def test_another_release_under_the_same_name_is_refused(release, tmp_path: Path) -> None:
    uri, _, _ = release
    with pytest.raises(CorruptError, match="wanted is " + "0" * 64):
        fetch(uri, "0" * 64, tmp_path)


def test_two_pods_at_once_fetch_once(release, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, digest, _ = release
    fetched, download = [], fetching._download
    monkeypatch.setattr(fetching, "_download", lambda b, f, t: (fetched.append(f.name), download(b, f, t))[1])
    pods = [threading.Thread(target=fetch, args=(uri, digest, node)) for _ in range(4)]
    for pod in pods:
        pod.start()
    for pod in pods:
        pod.join()
    assert (
        len(fetched)
        == len(set(fetched))
        == len(orjson.loads((node / digest / "release.json").read_bytes())["files"]) + 1
    )


def test_too_little_space_is_said_before_anything_is_fetched(release, node: Path, monkeypatch) -> None:
    uri, digest, _ = release
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    monkeypatch.setattr(fetching, "_download", None)
    with pytest.raises(StoreError, match=r"has 0\.0 GiB free"):
        fetch(uri, digest, node)


def test_a_mounted_release_is_verified_where_it_lies(release) -> None:
    uri, digest, _ = release
    folder = verify_in_place(uri, digest)
    (folder / "evil.py").write_text("import os")
    with pytest.raises(CorruptError, match=r"evil\.py differ"):
        verify_in_place(uri, digest)


@pytest.mark.parametrize(
    ("uri", "digest", "error", "words"),
    [
        ("ftp://x/y", "", InputError, "none of models:"),
        ("store:", "", InputError, "names a release by its digest"),
        ("store:", "0" * 64, NotFoundError, "not in the store"),
        ("file:///nowhere/at/all", "", InputError, "is no release"),
        ("s3://bucket/x?key=secret", "", ConfigError, "must hold no keys"),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_line(release, node: Path, uri, digest, error, words) -> None:
    with pytest.raises(error, match=words) as refused:
        fetch(uri, digest, node)
    assert isinstance(refused.value, UserError) and "secret=" not in str(refused.value)


def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, node: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    (bucket / "release.json").write_bytes(
        orjson.dumps(FACTS | {"files": {"../escaped": {"sha256": "0" * 64, "size": 1}}, "tensors": {}})
    )
    with pytest.raises(UserError, match=r"escaped"):
        fetch(bucket.as_uri(), "", node)


def test_an_unpinned_model_gets_a_link_and_its_digest(release, node: Path, run_python) -> None:
    uri, digest, _ = release
    link = node / "unpinned"
    run_python(
        f"from pathlib import Path; from tokenmill.deployment.fetch import main; main({uri!r}, '', Path({str(node)!r}), Path({str(link)!r}))"
    )
    assert link.resolve() == node / digest
    assert (node / "unpinned.digest").read_text() == digest == sha256_of(link / "release.json")


AWAY = UserError("MLflow is away")


@pytest.mark.parametrize(
    ("uri", "found", "pinned", "served"),
    [
        ("models:/chat@candidate", "same", True, "pinned"),
        ("models:/chat@candidate", "another", True, "pinned"),  # the alias has moved on
        ("models:/chat@candidate", AWAY, True, "pinned"),
        ("models:/chat/3", AWAY, True, "pinned"),
        ("models:/chat/3", "another", True, CorruptError),  # a version never changes
        ("models:/chat@candidate", "same", False, "found"),
        ("models:/chat@candidate", AWAY, False, UserError),
    ],
)
def test_a_pinned_digest_stands_whatever_the_registry_says(
    release, node, monkeypatch, uri, found, pinned, served
) -> None:
    _, _, digest = release

    def resolve(self: object, asked: str) -> str:
        assert asked == uri
        if isinstance(found, Exception):
            raise found
        return digest if found == "same" else "e" * 64

    monkeypatch.setattr("tokenmill.tracking.Registry.resolve_model", resolve)
    if isinstance(served, str):
        assert fetch(uri, digest if pinned else "", node) == node / digest
    else:
        with pytest.raises(served):
            fetch(uri, digest if pinned else "", node)
